"""Leases of one conversation, as `lua/lib/leases.lua` and `lua/lib/beginning.lua` grant them."""

from __future__ import annotations

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.creating import Creating
from threadloom.routing.backends.memory.stored import StoredDelivery, branch_id
from threadloom.routing.records import Beginning, Begun, Delivery, Frame, Release, Skip, Turn
from threadloom.routing.states import (
    Abandonment,
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
    SkipReason,
)


class Leases(Creating):
    """The leases on deliveries of one conversation, and on its release."""

    def grant_release(self, owner: str, lease_ms: int) -> Beginning:
        is_own = self.teller == owner  # a repetition: the answer was lost
        if self.release == ReleaseState.DONE:
            return Skip(SkipReason.SETTLED)
        if self.release == ReleaseState.HANDING and self.due_at("r", "") > self.now and not is_own:
            return Skip(SkipReason.LEASED)
        self.handed += self.release != ReleaseState.HANDING or not is_own
        self.release, self.teller = ReleaseState.HANDING, owner
        self.set_due("r", "", self.now + lease_ms)
        return Release(self.ending, self.handed)

    def refusal(
        self, stored: StoredDelivery, *, is_own: bool, owner: str, lease_ms: int
    ) -> Beginning | None:
        """Why a delivery cannot be run now."""
        if stored.state in (DeliveryState.HELD, DeliveryState.WAITING):
            return Skip(SkipReason(stored.state))
        killed = self.status is ConversationStatus.KILLED
        if killed and stored.state not in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            self.cancel(stored, len(stored.row.scope))
        if stored.state in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            if self.is_final and stored.row.id == self.entry.id:
                return self.grant_release(owner, lease_ms)
            return Skip(SkipReason.ENDED if killed else SkipReason.SETTLED)
        depth = self.moot(stored)
        if depth:
            self.cancel(stored, depth)
            return Skip(SkipReason.CANCELLED)
        if stored.row.thread_id not in self.threads:
            self.note(LogEvent.LATE, stored.row.id)
            self.book_branch(stored, 0, b"")
            self.cancel(stored, len(stored.row.scope))
            return Skip(SkipReason.CANCELLED)
        if (
            not is_own
            and stored.state in (DeliveryState.LEASED, DeliveryState.POSTPONED)
            and self.due_at("d", stored.row.id) > self.now
        ):
            return Skip(SkipReason(stored.state))
        return None

    def begin(self, delivery_id: str, *, owner: str, lease_ms: int) -> Beginning:
        stored = self.deliveries.get(delivery_id)
        if stored is None:
            return Skip(SkipReason.UNKNOWN)
        # A repetition: the answer was lost.
        is_own = stored.state == DeliveryState.LEASED and stored.owner == owner
        refused = self.refusal(stored, is_own=is_own, owner=owner, lease_ms=lease_ms)
        if refused is not None:
            return refused
        if is_own:
            self.set_due("d", delivery_id, self.now + lease_ms)
            return self.told(stored, stored.reason)
        reason = stored.reason
        if stored.state == DeliveryState.LEASED:
            reason = Abandonment.LOST
            self.note(LogEvent.ABANDONED, codec.dump((delivery_id, reason)))
        self._sent.pop(self.member("d", delivery_id), None)
        return self.grant(stored, reason, owner=owner, lease_ms=lease_ms)

    def follows_a_queued_one(self, row: Delivery) -> bool:
        slots = self.slots[row.thread_id]
        slot = next(n for n in reversed(range(len(slots))) if slots[n] == row.id)
        return slot > 0 and self.deliveries[slots[slot - 1]].state in (
            DeliveryState.HELD,
            DeliveryState.READY,
            DeliveryState.SENT,
        )

    def take(self, turn: Turn) -> Begun | None:
        """What a turn goes on with, of what is ready now."""
        first_is_queued = False
        for position, row in enumerate(self.publish):
            stored, is_new = self.deliveries[row.id], not row.held
            overtakes = is_new and (first_is_queued or self.follows_a_queued_one(row))
            if 0 < row.local_s <= turn.within_s and not overtakes and self.moot(stored) is None:
                if row.thread_id not in self.threads:
                    return None
                del self.publish[position]
                self.turns[turn.id] = row.id
                return self.grant(stored, stored.reason, owner=turn.owner, lease_ms=turn.lease_ms)
            first_is_queued = first_is_queued or is_new
        return None

    def taken_before(self, settled: StoredDelivery, turn: Turn) -> Begun | None:
        """What an earlier copy of a commit took, if its answer was lost."""
        stored = self.deliveries[self.turns.get(turn.id, settled.row.id)]
        if stored is settled or (stored.state, stored.owner) != (DeliveryState.LEASED, turn.owner):
            return None
        return self.told(stored, stored.reason)

    def grant(self, stored: StoredDelivery, reason: str, *, owner: str, lease_ms: int) -> Begun:
        row = stored.delivery
        stored.set(DeliveryState.LEASED, attempt=stored.attempt + 1, owner=owner, reason=reason)
        self.set_due("d", row.id, self.now + lease_ms)
        if row.answer_within_ms > 0:
            timer = branch_id(row.scope[-1])
            if not self.due_at("b", timer):
                self.set_due("b", timer, self.now + row.answer_within_ms)
        return self.told(stored, reason)

    def told(self, stored: StoredDelivery, reason: str) -> Begun:
        row = stored.delivery
        thread = self.threads[row.thread_id]
        join = self.joins.get(thread.branch.join_id) if thread.branch else None
        known = self.children.get(thread.id, {})
        frame = Frame(
            conversation_id=self.id,
            delivery=row,
            thread=thread,
            children={(thread.id, name): child for name, child in known.items()},
            join=join.spec if join else None,
            deliveries=self.count,
            attempt=stored.attempt,
            tries=stored.attempt - stored.before_replay,
            abandoned=Abandonment(reason),
        )
        return Begun(frame)
