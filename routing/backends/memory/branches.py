"""Joins and their branches, as `lua/lib/branches.lua` counts, answers and closes them."""

from __future__ import annotations

from threadloom.routing.backends.memory.core import ConversationCore
from threadloom.routing.backends.memory.stored import (
    StoredBranch,
    StoredDelivery,
    StoredJoin,
    branch_id,
)
from threadloom.routing.records import Branch, StoredResult, Wait
from threadloom.routing.states import ConversationStatus, DeliveryState, LogEvent


class Branches(ConversationCore):
    """The joins of one conversation."""

    def moot(self, stored: StoredDelivery) -> int | None:
        for depth, (name, index) in enumerate(stored.row.scope, 1):
            join = self.joins[name]
            branch = join.branch(index)
            if branch.timed_out or (join.fired and branch.result is None):
                return depth
        return None

    def close(self, join: StoredJoin) -> bool:
        if join.fired:
            return False
        join.fired = True
        self.not_due("j", join.spec.id)
        if join.spec.label:
            self.labels.pop((join.spec.kind, join.spec.label), None)
        if join.more:
            more = self.deliveries[join.more]
            more.set(DeliveryState.CANCELLED)
            join.more = ""
            if more.row.scope:
                around = more.row.scope[-1]
                self.joins[around.join_id].branch(around.index).more_in_flight -= 1
        return True

    def close_inside(self, stored: StoredDelivery, depth: int) -> None:
        for branch in stored.row.scope[depth:]:
            self.close(self.joins[branch.join_id])

    def release_next(self, join: StoredJoin) -> None:
        if not join.holds_back or join.fired:
            return
        index = join.next
        held = join.branches[index].held if index in join.branches else ""
        if not held:
            join.idle += 1
            return
        join.next += 1
        join.branches[index].held = ""
        self.launch(self.deliveries[held])
        if join.more and index >= join.low:
            self.launch_refill(self.deliveries[join.more])
            join.more = ""

    def free_lane(self, stored: StoredDelivery, wanted: int) -> None:
        row = stored.row
        killed = self.status is ConversationStatus.KILLED
        if isinstance(row, Wait) or not row.opens_branch or killed:
            return
        join = self.joins[row.scope[-1].join_id]
        if not join.lanes:
            return
        self.release_next(join)
        if join.lanes < wanted:
            join.lanes += 1
            self.release_next(join)

    def cancel(self, stored: StoredDelivery, depth: int) -> None:
        stored.set(DeliveryState.CANCELLED, attempt=stored.attempt)
        self.not_due("d", stored.row.id)
        self._sent.pop(self.member("d", stored.row.id), None)
        self.close_inside(stored, depth)
        self.free_lane(stored, 0)
        self.landed()

    def drop_waits(self, branch: StoredBranch) -> None:
        for wait in branch.waits:
            stored = self.deliveries[wait]
            depth = self.moot(stored)
            if depth and stored.state == DeliveryState.WAITING:
                self.waiting -= 1
                self.cancel(stored, depth)

    def drop_all_waits(self) -> None:
        """Cancel every wait of a conversation that was killed: nothing is answered any more."""
        for stored in self.deliveries.values():
            if stored.state == DeliveryState.WAITING:
                stored.set(DeliveryState.CANCELLED)
                self.waiting -= 1
                self.landed()

    def fire(self, join: StoredJoin) -> None:
        if not self.close(join):
            return
        self.note(LogEvent.JOIN, f"fired {join.spec.id}")
        if join.spec.body_id:
            self.launch(self.deliveries[join.spec.body_id])
        for index in sorted(join.branches):
            self.drop_waits(join.branches[index])

    def answer_branch(self, branch: Branch, success: bool, path: str, payload: bytes) -> bool:
        join = self.joins.get(branch.join_id)
        if join is None or join.fired or join.branch(branch.index).result is not None:
            return False
        spec = join.spec
        join.branch(branch.index).result = StoredResult(branch.index, success, payload, path)
        self.not_due("b", branch_id(branch))
        join.ok += success
        join.failed += not success
        if (
            join.ok + join.failed >= spec.total
            or 0 < spec.need_ok <= join.ok
            or 0 < spec.need_failed <= join.failed
        ):
            self.fire(join)
        elif spec.window > 0:
            self.release_next(join)
        return True

    def book_branch(self, stored: StoredDelivery, created: int, silent: bytes) -> None:
        if not stored.row.scope:
            return
        branch = stored.row.scope[-1]
        booked = self.joins[branch.join_id].branch(branch.index)
        if booked.result is not None:
            return
        booked.more_in_flight += created - 1
        if booked.more_in_flight <= -1:
            self.answer_branch(branch, False, "", silent)
