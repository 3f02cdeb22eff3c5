"""One conversation in memory: what `redis/layout.py` keeps in six keys, and its functions.

Each function here stands under its Lua name and does the same, so that the two can be read
side by side. Nothing here locks or knows other conversations; `MemoryBackend` does.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadloom.routing.backends import codec
from threadloom.routing.records import (
    Beginning,
    Begun,
    Branch,
    BranchResult,
    Delivery,
    Ending,
    Frame,
    Join,
    Opening,
    Publication,
    Refill,
    Release,
    Skip,
    StoredResult,
    Thread,
    Turn,
    Wait,
)
from threadloom.routing.states import (
    Abandonment,
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
    SkipReason,
)
from threadloom.routing.store import DEAD_LETTERS

FINAL = (ConversationStatus.COMPLETED, ConversationStatus.ERROR, ConversationStatus.KILLED)


@dataclass(slots=True)
class StoredDelivery:
    """A delivery and where it stands; until it is answered, a wait stands in its place."""

    row: Delivery | Wait
    state: DeliveryState
    attempt: int = 0
    owner: str = ""
    reason: str = ""
    #: attempts before it was replayed
    before_replay: int = 0
    #: its place among the dead letters, and why it is there; empty: it is not
    dead: str = ""
    dead_reason: str = ""

    def set(
        self, state: DeliveryState, *, attempt: int = 0, owner: str = "", reason: str = ""
    ) -> None:
        self.state, self.attempt, self.owner, self.reason = state, attempt, owner, reason

    @property
    def delivery(self) -> Delivery:
        """The row of anything but a wait."""
        if isinstance(self.row, Wait):
            raise TypeError(f"{self.row.id} waits for its input")
        return self.row


@dataclass(slots=True)
class StoredBranch:
    """One index of a join."""

    #: deliveries in flight, less one
    more_in_flight: int = 0
    held: str = ""
    result: StoredResult | None = None
    timed_out: bool = False
    waits: list[str] = field(default_factory=list)


@dataclass(slots=True)
class StoredJoin:
    """A join with its counts."""

    spec: Join
    #: the first index that was not released yet
    next: int
    #: how many are released at a time, where the first settling of a branch's frees a lane
    lanes: int = 0
    #: free lanes for which nothing was held
    idle: int = 0
    #: the held delivery that brings more branches, and the index it is released with
    more: str = ""
    low: int = 0
    ok: int = 0
    failed: int = 0
    fired: bool = False
    branches: dict[int, StoredBranch] = field(default_factory=dict)

    @property
    def holds_back(self) -> bool:
        """Whether it has branches that were not released when it was opened."""
        return 0 < self.spec.released < self.spec.total

    def branch(self, index: int) -> StoredBranch:
        return self.branches.setdefault(index, StoredBranch())


@dataclass(slots=True)
class SharedLists:
    """What a shard keeps of all its conversations."""

    #: member -> ms at which it is due
    due: dict[str, int] = field(default_factory=dict)
    #: member -> ms of its publishing
    sent: dict[str, int] = field(default_factory=dict)
    #: positions of the dead letters, oldest first
    dead: list[str] = field(default_factory=list)


class ConversationState:
    """Everything of one conversation; `shared` is of all of them."""

    def __init__(self, conversation: str, *, shared: SharedLists, grace_ms: int) -> None:
        self.id = conversation
        #: None while only threads of it are known
        self.opening: Opening | None = None
        self.status = ConversationStatus.RUNNING
        self.value: Mapping[str, Any] | None = None
        self.in_flight = self.waiting = self.count = 0
        self.created_ms = self.updated_ms = self.expires_ms = 0
        #: until when a delivery is postponed, the last one
        self.postponed_ms = 0
        #: parked, due, handing or done
        self.release = ReleaseState.PARKED
        self.handed = 0
        self.deliveries: dict[str, StoredDelivery] = {}
        self.threads: dict[str, Thread] = {}
        self.children: dict[str, dict[str, str]] = {}
        self.joins: dict[str, StoredJoin] = {}
        #: the delivery that a turn has come to, by the one that it began with
        self.turns: dict[str, str] = {}
        #: stored lists, each with its items by index
        self.items: dict[str, dict[int, bytes]] = {}
        #: the open joins by kind and label
        self.labels: dict[tuple[str, str], str] = {}
        self.log: list[tuple[int, LogEvent, str]] = []
        #: the slots of each thread: ids of deliveries
        self.slots: dict[str, list[str]] = {}
        #: ms since 1970, set when an operation starts
        self.now = 0
        #: what the operation that runs has put into the outbox
        self.publish: list[Delivery] = []
        self._due, self._sent, self._dead = shared.due, shared.sent, shared.dead
        self._grace_ms = grace_ms

    # --- small things -------------------------------------------------------------------

    def member(self, kind: str, thing: str) -> str:
        return codec.due_member(kind, self.id, thing)

    def set_due(self, kind: str, thing: str, at_ms: int) -> None:
        self._due[self.member(kind, thing)] = at_ms

    def not_due(self, kind: str, thing: str) -> None:
        self._due.pop(self.member(kind, thing), None)

    def due_at(self, kind: str, thing: str) -> int:
        return self._due.get(self.member(kind, thing), 0)

    def note(self, event: LogEvent, detail: str) -> None:
        self.log.append((self.now, event, detail))

    def touch(self, ttl_ms: int) -> None:
        self.updated_ms = self.now
        self.expires_ms = max(self.now, self.postponed_ms) + ttl_ms

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def entry(self) -> Delivery:
        assert self.opening is not None
        return self.opening.entry

    @property
    def ending(self) -> Ending:
        return Ending(self.status, self.value)

    def publications(self) -> tuple[Publication, ...]:
        return tuple(Publication.of(self.id, delivery) for delivery in self.publish)

    def resume(self) -> Publication:
        """The message that lets the injector's canvas go on."""
        assert self.opening is not None
        return Publication.of(self.id, self.entry, self.opening.canvas)

    def adopt(self, parent: str, name: str, child: str) -> None:
        self.children.setdefault(parent, {})[name] = child

    def drop_thread(self, thread_id: str) -> bool:
        thread = self.threads.pop(thread_id, None)
        if thread is None:
            return False
        self.children.pop(thread_id, None)
        siblings = self.children.get(thread.parent or "", {})
        if siblings.get(thread.chain[-1]) == thread_id:
            del siblings[thread.chain[-1]]
        return True

    # --- deliveries ---------------------------------------------------------------------

    def make_ready(self, stored: StoredDelivery, attempt: int, reason: str) -> None:
        stored.set(DeliveryState.READY, attempt=attempt, reason=reason)
        self.set_due("d", stored.row.id, self.now + self._grace_ms)
        self.publish.append(stored.delivery)

    def launch(self, stored: StoredDelivery) -> None:
        self.in_flight += 1
        self.make_ready(stored, 0, "")

    def remember(self, row: Delivery) -> None:
        self.slots.setdefault(row.thread, []).append(row.id)
        self.note(LogEvent.MESSAGE, row.id)

    def hold(self, row: Delivery) -> None:
        branch = row.scope[-1]
        join = self.joins[branch.join]
        join.branch(branch.index).held = row.id
        if join.idle > 0:
            join.idle -= 1
            self.release_next(join)

    def create_delivery(self, row: Delivery) -> None:
        if row.held and row.opens_branch and self.joins[row.scope[-1].join].fired:
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
        join, stored = self.joins[refill.join], self.deliveries[refill.delivery]
        if join.fired:
            stored.set(DeliveryState.CANCELLED)
        elif join.next > refill.at:
            self.launch(stored)
        else:
            join.more, join.low = refill.delivery, refill.at
        return not join.fired

    def create_wait(self, wait: Wait) -> None:
        self.deliveries[wait.id] = StoredDelivery(wait, DeliveryState.WAITING)
        self.in_flight += 1
        self.waiting += 1
        for branch in wait.scope:
            self.joins[branch.join].branch(branch.index).waits.append(wait.id)
        self.note(LogEvent.WAITING, codec.dump(wait))

    def landed(self) -> None:
        self.in_flight -= 1
        if self.in_flight <= 0:
            self.finish(Ending(ConversationStatus.COMPLETED, None))

    def finish(self, ending: Ending) -> bool:
        if self.is_final:
            return False
        self.status, self.value = ending.status, ending.value
        self.note(LogEvent.ENDED, ending.status)
        if self.release == ReleaseState.PARKED:
            self.release = ReleaseState.DUE
            self.set_due("r", "", self.now + self._grace_ms)
        return True

    def cancel(self, stored: StoredDelivery, depth: int) -> None:
        stored.set(DeliveryState.CANCELLED, attempt=stored.attempt)
        self.not_due("d", stored.row.id)
        self._sent.pop(self.member("d", stored.row.id), None)
        self.close_inside(stored, depth)
        self.free_lane(stored, 0)
        self.landed()

    def sent(self, stored: StoredDelivery) -> None:
        stored.set(DeliveryState.SENT, attempt=stored.attempt, reason=stored.reason)
        self.not_due("d", stored.row.id)
        self._sent[self.member("d", stored.row.id)] = self.now

    def retry(self, stored: StoredDelivery, delay_ms: int, reason: str) -> None:
        stored.set(DeliveryState.POSTPONED, attempt=stored.attempt, reason=Abandonment.RETRY)
        self.set_due("d", stored.row.id, self.now + delay_ms)
        self.postponed_ms = max(self.postponed_ms, self.now + delay_ms)
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

    def leave_lists(self) -> None:
        """Take everything of this conversation out of the lists of all conversations."""
        for name, stored in self.deliveries.items():
            self.exhume(stored)
            self.not_due("d", name)
            self._sent.pop(self.member("d", name), None)
        for name, join in self.joins.items():
            self.not_due("j", name)
            for index in join.branches:
                self.not_due("b", branch_id(Branch(name, index)))
        self.not_due("r", "")

    def replay(self, stored: StoredDelivery) -> bool:
        if not stored.dead or self.status is ConversationStatus.KILLED:
            return False
        if self.moot(stored) or stored.row.thread not in self.threads:
            return False
        answered = any(self.joins[b.join].branch(b.index).result for b in stored.row.scope)
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

    # --- joins --------------------------------------------------------------------------

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
                self.joins[around.join].branch(around.index).more_in_flight -= 1
        return True

    def close_inside(self, stored: StoredDelivery, depth: int) -> None:
        for branch in stored.row.scope[depth:]:
            self.close(self.joins[branch.join])

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
        if join.spec.body:
            self.launch(self.deliveries[join.spec.body])
        for index in sorted(join.branches):
            self.drop_waits(join.branches[index])

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
            self.launch(self.deliveries[join.more])
            join.more = ""

    def free_lane(self, stored: StoredDelivery, wanted: int) -> None:
        row = stored.row
        killed = self.status is ConversationStatus.KILLED
        if isinstance(row, Wait) or not row.opens_branch or killed:
            return
        join = self.joins[row.scope[-1].join]
        if not join.lanes:
            return
        self.release_next(join)
        if join.lanes < wanted:
            join.lanes += 1
            self.release_next(join)

    def answer_branch(self, branch: Branch, success: bool, path: str, payload: bytes) -> bool:
        join = self.joins.get(branch.join)
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

    def apply_result(self, result: BranchResult, delivery: str) -> None:
        """Count an answer and create what follows from it."""
        counts = self.answer_branch(
            result.branch, result.success, result.payload_path, result.payload
        )
        if not counts:
            self.note(LogEvent.LATE, delivery)
        elif result.then_delivery and not self.joins[result.branch.join].fired:
            assert result.then_thread is not None
            self.threads[result.then_thread.id] = result.then_thread
            self.create_delivery(result.then_delivery)

    def book_branch(self, stored: StoredDelivery, created: int, silent: bytes) -> None:
        if not stored.row.scope:
            return
        branch = stored.row.scope[-1]
        booked = self.joins[branch.join].branch(branch.index)
        if booked.result is not None:
            return
        booked.more_in_flight += created - 1
        if booked.more_in_flight <= -1:
            self.answer_branch(branch, False, "", silent)

    # --- beginning ----------------------------------------------------------------------

    def grant_release(self, lease_ms: int) -> Beginning:
        if self.release == ReleaseState.DONE:
            return Skip(SkipReason.SETTLED)
        if self.release == ReleaseState.HANDING and self.due_at("r", "") > self.now:
            return Skip(SkipReason.LEASED)
        self.release = ReleaseState.HANDING
        self.set_due("r", "", self.now + lease_ms)
        self.handed += 1
        return Release(self.ending, self.handed)

    def refusal(self, stored: StoredDelivery, *, lease_ms: int) -> Beginning | None:
        """Why a delivery cannot be run now."""
        if stored.state in (DeliveryState.HELD, DeliveryState.WAITING):
            return Skip(SkipReason(stored.state))
        killed = self.status is ConversationStatus.KILLED
        if killed and stored.state not in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            self.cancel(stored, len(stored.row.scope))
        if stored.state in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            if self.is_final and stored.row.id == self.entry.id:
                return self.grant_release(lease_ms)
            return Skip(SkipReason.ENDED if killed else SkipReason.SETTLED)
        depth = self.moot(stored)
        if depth:
            self.cancel(stored, depth)
            return Skip(SkipReason.CANCELLED)
        if stored.row.thread not in self.threads:
            self.note(LogEvent.LATE, stored.row.id)
            self.book_branch(stored, 0, b"")
            self.cancel(stored, len(stored.row.scope))
            return Skip(SkipReason.CANCELLED)
        if (
            stored.state in (DeliveryState.LEASED, DeliveryState.POSTPONED)
            and self.due_at("d", stored.row.id) > self.now
        ):
            return Skip(SkipReason(stored.state))
        return None

    def begin(self, delivery: str, *, owner: str, lease_ms: int) -> Beginning:
        stored = self.deliveries.get(delivery)
        if stored is None:
            return Skip(SkipReason.UNKNOWN)
        refused = self.refusal(stored, lease_ms=lease_ms)
        if refused is not None:
            return refused
        reason = stored.reason
        if stored.state == DeliveryState.LEASED:
            reason = Abandonment.LOST
            self.note(LogEvent.ABANDONED, codec.dump((delivery, reason)))
        self._sent.pop(self.member("d", delivery), None)
        return self.grant(stored, reason, owner=owner, lease_ms=lease_ms)

    def follows_a_queued_one(self, row: Delivery) -> bool:
        slots = self.slots[row.thread]
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
                if row.thread not in self.threads:
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
        stored.set(DeliveryState.LEASED, attempt=stored.attempt + 1, owner=owner)
        self.set_due("d", row.id, self.now + lease_ms)
        if row.answer_within_ms > 0:
            timer = branch_id(row.scope[-1])
            if not self.due_at("b", timer):
                self.set_due("b", timer, self.now + row.answer_within_ms)
        return self.told(stored, reason)

    def told(self, stored: StoredDelivery, reason: str) -> Begun:
        row = stored.delivery
        thread = self.threads[row.thread]
        join = self.joins.get(thread.branch.join) if thread.branch else None
        known = self.children.get(thread.id, {})
        frame = Frame(
            conversation=self.id,
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

    # --- reading ------------------------------------------------------------------------

    def log_detail(self, event: LogEvent, detail: str) -> Mapping[str, Any]:
        """The detail of a line of the log, as `LogEntry` describes it."""
        if event in (LogEvent.MESSAGE, LogEvent.LATE):
            return {"delivery": self.deliveries[detail].delivery}
        if event is LogEvent.WAITING:
            return {"scope": [], **json.loads(detail)}
        if event in (LogEvent.NOTE, LogEvent.ABANDONED, LogEvent.RETRY):
            delivery, text = json.loads(detail)
            return {"id": delivery, "text": text}
        if event in (LogEvent.DEAD_LETTER, LogEvent.REPLAYED):
            return {"id": detail}
        return {"text": detail}


def branch_id(branch: Branch) -> str:
    """How a branch is written where only text fits."""
    return f"{branch.join}:{branch.index}"
