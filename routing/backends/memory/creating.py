"""What a conversation gets: deliveries, waits, dead letters; as `lua/lib/creating.lua` does it."""

from __future__ import annotations

import bisect

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.branches import Branches
from threadloom.routing.backends.memory.stored import StoredDelivery
from threadloom.routing.records import BranchResult, Delivery, Refill, Wait
from threadloom.routing.states import (
    Abandonment,
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
)
from threadloom.routing.store import DEAD_LETTERS


class Creating(Branches):
    """What is created in one conversation, and run once more."""

    def remember(self, row: Delivery) -> None:
        self.slots.setdefault(row.thread_id, []).append(row.id)
        self.note(LogEvent.MESSAGE, row.id)

    def hold(self, row: Delivery) -> None:
        branch = row.scope[-1]
        join = self.joins[branch.join_id]
        join.branch(branch.index).held = row.id
        if join.idle > 0:
            join.idle -= 1
            self.release_next(join)

    def create_delivery(self, row: Delivery) -> None:
        if row.held and row.opens_branch and self.joins[row.scope[-1].join_id].fired:
            return
        stored = self.deliveries[row.id] = StoredDelivery(row, DeliveryState.HELD)
        self.count += 1
        self.remember(row)
        if not row.held:
            self.launch(stored)
        elif row.opens_branch:
            self.hold(row)

    def create_refill(self, refill: Refill) -> bool:
        """False if its join has fired, and needs no more branches."""
        join, stored = self.joins[refill.join_id], self.deliveries[refill.delivery_id]
        if join.fired:
            stored.set(DeliveryState.CANCELLED)
        elif join.next > refill.at:
            self.launch_refill(stored)
        else:
            join.more, join.low = refill.delivery_id, refill.at
        return not join.fired

    def create_wait(self, wait: Wait) -> None:
        self.deliveries[wait.id] = StoredDelivery(wait, DeliveryState.WAITING)
        self.in_flight += 1
        self.waiting += 1
        for branch in wait.scope:
            self.joins[branch.join_id].branch(branch.index).waits.append(wait.id)
        self.note(LogEvent.WAITING, codec.dump(wait))

    def apply_result(self, result: BranchResult, delivery_id: str) -> None:
        """Count an answer and create what follows from it."""
        counts = self.answer_branch(
            result.branch, result.success, result.payload_path, result.payload
        )
        if not counts:
            self.note(LogEvent.LATE, delivery_id)
        elif result.then_delivery and not self.joins[result.branch.join_id].fired:
            assert result.then_thread is not None
            self.threads[result.then_thread.id] = result.then_thread
            self.create_delivery(result.then_delivery)

    def retry(self, stored: StoredDelivery, delay_ms: int, reason: str) -> None:
        stored.set(DeliveryState.POSTPONED, attempt=stored.attempt, reason=Abandonment.RETRY)
        self.set_due("d", stored.row.id, self.now + delay_ms)
        self.note(LogEvent.RETRY, codec.dump((stored.row.id, reason)))
        self.free_lane(stored, 0)

    def bury(self, stored: StoredDelivery, reason: str) -> None:
        stored.dead = f"{self.now:015d}:{self.member('x', stored.row.id)}"
        stored.dead_reason = reason
        self.note(LogEvent.DEAD_LETTER, stored.row.id)
        bisect.insort(self._dead, stored.dead)
        del self._dead[:-DEAD_LETTERS]

    def exhume(self, stored: StoredDelivery) -> bool:
        if not stored.dead:
            return False
        if stored.dead in self._dead:
            self._dead.remove(stored.dead)
        stored.dead = ""
        return True

    def replay(self, stored: StoredDelivery) -> bool:
        if not stored.dead or self.status is ConversationStatus.KILLED:
            return False
        if self.moot(stored) or stored.row.thread_id not in self.threads:
            return False
        answered = any(self.joins[b.join_id].branch(b.index).result for b in stored.row.scope)
        if self.status is ConversationStatus.ERROR and not answered:
            self.status, self.value = ConversationStatus.RUNNING, None
            self.release = ReleaseState.PARKED
            self.not_due("r", "")
        self.exhume(stored)
        stored.before_replay = stored.attempt
        self.note(LogEvent.REPLAYED, stored.row.id)
        self.book_branch(stored, 2, b"")
        self.in_flight += 1
        self.make_ready(stored, stored.attempt, "")
        return True
