"""The registry of one process: the semantics of the Lua scripts under one lock.

For tests, for `backend: {type: memory}`, and behind the `manager` backend, whose processes
call this class in one server process: arguments and answers are plain records and pickle.
Nothing survives the process. The functions of a conversation stand in `memory_state.py`,
those of a commit and of recovery in `memory_steps.py`.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.state import (
    FINAL,
    ConversationState,
    SharedLists,
    StoredDelivery,
    StoredJoin,
)
from threadloom.routing.backends.memory.steps import (
    apply,
    reclaim_delivery,
    reclaim_release,
    reclaim_timer,
    replan,
    unpublished,
)
from threadloom.routing.errors import (
    RegistryFormatError,
    UnknownConversationError,
    UnknownThreadError,
)
from threadloom.routing.records import (
    Beginning,
    CommitResult,
    Committed,
    Conversation,
    DeadLetter,
    Delivery,
    Due,
    Ending,
    Fenced,
    JoinState,
    LogEntry,
    Opening,
    Publication,
    Skip,
    StoredResult,
    Thread,
    Transition,
    Turn,
    Wait,
)
from threadloom.routing.states import (
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
    SkipReason,
)
from threadloom.routing.store import (
    BEGIN_GRACE_MS,
    FORMAT,
    MARGIN_MS,
    NOTHING,
    PUBLISH_GRACE_MS,
    ROOTS,
    Published,
)

P = ParamSpec("P")
R = TypeVar("R")


def _system_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _atomic(
    method: Callable[Concatenate[MemoryBackend, P], R],
) -> Callable[Concatenate[MemoryBackend, P], R]:
    """Run a method as a Redis runs a script: alone, and at one moment."""

    @functools.wraps(method)
    def alone(self: MemoryBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            self._now = self._clock()
            return method(self, *args, **kwargs)

    return alone


class MemoryBackend:
    """A `SharedBackend` for the threads of one process.

    clock: the time in ms since 1970, as every time the registry tells.
    """

    def __init__(
        self,
        *,
        organism: str,
        ttl_s: int = 86_400,
        publish_grace_ms: int = PUBLISH_GRACE_MS,
        begin_grace_ms: int = BEGIN_GRACE_MS,
        clock: Callable[[], int] = _system_clock_ms,
    ) -> None:
        self.organism = organism
        self._ttl_ms = ttl_s * 1000
        self._publish_grace_ms = publish_grace_ms
        self._begin_grace_ms = begin_grace_ms
        self._clock = clock
        self._now = 0
        self._lock = threading.Lock()
        self._states: dict[str, ConversationState] = {}
        self._shared = SharedLists()
        #: by name: until when a worker is there, and how many processes it has
        self._workers: dict[str, tuple[int, int]] = {}
        #: (created ms, id), oldest first
        self._index: list[tuple[int, str]] = []

    # --- deliveries ---------------------------------------------------------------------

    @_atomic
    def open(self, opening: Opening) -> Publication | None:
        state = self._opened(opening.conversation)
        if state is None:
            return self._create(opening).publications()[0]
        stored = state.deliveries.get(opening.entry.id)
        if stored is None or stored.state != DeliveryState.READY:
            return None
        return Publication.of(state.id, stored.delivery)

    def open_many(self, openings: Iterable[Opening]) -> Sequence[str]:
        return [o.conversation for o in openings if not self._opened_as_sent(o)]

    @_atomic
    def _opened_as_sent(self, opening: Opening) -> bool:
        """Whether the conversation is new; its first message counts as published then."""
        if self._opened(opening.conversation) is not None:
            return False
        state = self._create(opening)
        state.publications()
        state.sent(state.deliveries[opening.entry.id])
        return True

    @_atomic
    def open_and_begin(
        self, opening: Opening, *, owner: str, lease_ms: int, published: Published = NOTHING
    ) -> Beginning:
        self._clear(published)
        state = self._opened(opening.conversation) or self._create(opening)
        return state.begin(opening.entry.id, owner=owner, lease_ms=lease_ms)

    @_atomic
    def begin(
        self,
        conversation: str,
        delivery: str,
        *,
        owner: str,
        lease_ms: int,
        published: Published = NOTHING,
    ) -> Beginning:
        self._clear(published)
        state = self._opened(conversation)
        if state is None:
            return Skip(SkipReason.UNKNOWN)
        return state.begin(delivery, owner=owner, lease_ms=lease_ms)

    @_atomic
    def commit(
        self, transition: Transition, *, turn: Turn | None = None, published: Published = NOTHING
    ) -> CommitResult:
        self._clear(published)
        state = self._opened(transition.conversation)
        stored = state.deliveries.get(transition.delivery) if state else None
        if state is None or stored is None:
            return Fenced()
        if stored.state in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            if stored.state == DeliveryState.SETTLED and stored.attempt == transition.attempt:
                taken = state.taken_before(stored, turn) if turn is not None else None
                return Committed(unpublished(state, transition), adopted=True, begun=taken)
            return Committed(adopted=True)
        if stored.state != DeliveryState.LEASED or stored.attempt != transition.attempt:
            return Fenced()
        ended_before = state.is_final
        killed = state.status is ConversationStatus.KILLED
        depth = len(stored.row.scope) if killed else state.moot(stored)
        if depth is None:
            refused = replan(state, transition)
            if refused is not None:
                return refused
        stored.set(DeliveryState.SETTLED, attempt=stored.attempt)
        state.not_due("d", stored.row.id)
        if depth is None:
            apply(state, transition)
        else:
            state.close_inside(stored, depth)
            state.note(LogEvent.LATE, stored.row.id)
        state.free_lane(stored, turn.lanes if turn is not None else 0)
        state.landed()
        ends = state.is_final and not ended_before
        begun = state.take(turn) if turn is not None and not ends else None
        if turn is not None and begun is None:
            state.turns.pop(turn.id, None)
        state.touch(self._ttl_ms)
        if not ends:
            return Committed(state.publications(), begun=begun)
        return Committed(state.publications(), state.ending, state.resume())

    @_atomic
    def published(self, conversation: str, deliveries: Sequence[str]) -> None:
        self._clear({conversation: deliveries})

    def _clear(self, published: Published) -> None:
        for conversation, deliveries in published.items():
            state = self._opened(conversation)
            for delivery in deliveries if state else ():
                assert state is not None
                stored = state.deliveries.get(delivery)
                if not delivery and state.release == ReleaseState.DUE:
                    state.set_due("r", "", self._now + self._begin_grace_ms)
                elif stored is not None and stored.state == DeliveryState.READY:
                    state.sent(stored)

    @_atomic
    def retry(
        self, conversation: str, delivery: str, *, attempt: int, delay_ms: int, reason: str
    ) -> tuple[Publication, ...] | None:
        state, stored = self._stored(conversation, delivery)
        if (
            not state
            or not stored
            or (stored.state, stored.attempt) != (DeliveryState.LEASED, attempt)
        ):
            return None
        state.retry(stored, delay_ms, reason)
        state.touch(self._ttl_ms)
        return state.publications()

    @_atomic
    def released(self, conversation: str) -> None:
        state = self._opened(conversation)
        if state is not None and state.is_final:
            state.release = ReleaseState.DONE
            state.not_due("r", "")

    @_atomic
    def renew(self, leases: Sequence[tuple[str, str]], *, owner: str, lease_ms: int) -> None:
        for conversation, delivery in leases:
            state, stored = self._run(conversation, delivery)
            if state and stored and stored.state == DeliveryState.LEASED and stored.owner == owner:
                state.set_due("d", stored.row.id, self._now + lease_ms)
                state.touch(self._ttl_ms)

    @_atomic
    def abandon(
        self, conversation: str, delivery: str, *, owner: str, reason: str
    ) -> Publication | None:
        state, stored = self._run(conversation, delivery)
        if not state or not stored or stored.state != DeliveryState.LEASED or stored.owner != owner:
            return None
        state.make_ready(stored, stored.attempt, reason)
        state.note(LogEvent.ABANDONED, codec.dump((stored.row.id, reason)))
        return state.publications()[0]

    @_atomic
    def answer(self, conversation: str, wait: str, delivery: Delivery) -> Publication | None:
        state = self._opened(conversation)
        if state is None:
            raise UnknownConversationError(conversation)
        stored = state.deliveries.get(wait)
        killed = state.status is ConversationStatus.KILLED
        if stored is None or stored.state != DeliveryState.WAITING or killed:
            return None
        stored.row = delivery
        state.waiting -= 1
        state.count += 1
        state.remember(delivery)
        state.make_ready(stored, 0, "")
        state.touch(self._ttl_ms)
        return state.publications()[0]

    @_atomic
    def kill(self, conversation: str, ending: Ending) -> Publication | None:
        state = self._opened(conversation)
        if state is None or not state.finish(ending):
            return None
        state.drop_all_waits()
        state.touch(self._ttl_ms)
        return state.resume()

    # --- recovery -----------------------------------------------------------------------

    @_atomic
    def due(self, *, limit: int) -> Sequence[Due]:
        return _late(self._shared.due, self._now, limit)

    @_atomic
    def reclaim(
        self, due: Due, *, retry_in_ms: int, silent_branch: bytes
    ) -> tuple[Publication, ...]:
        late = self._shared.due.get(due.member)
        if late is None or late > self._now:
            return ()
        state = self._opened(due.conversation)
        if state is None:
            del self._shared.due[due.member]
            return ()
        kind = due.member[0]
        thing = due.member[len(state.member(kind, "")) :]
        again = self._now + retry_in_ms
        if kind == "r":
            return reclaim_release(state, again)
        if kind == "d":
            reclaim_delivery(state, thing, again)
        else:
            reclaim_timer(state, kind, thing, silent_branch)
        state.touch(self._ttl_ms)
        return state.publications()

    @_atomic
    def unbegun(self, *, older_than_ms: int, limit: int) -> Sequence[Due]:
        return _late(self._shared.sent, self._now - older_than_ms, limit)

    @_atomic
    def republish(self, unbegun: Due, *, older_than_ms: int) -> Publication | None:
        sent = self._shared.sent
        published = sent.get(unbegun.member)
        if published is None or published > self._now - older_than_ms:
            return None
        _, delivery = codec.due_parts(unbegun.member.encode())
        state, stored = self._stored(unbegun.conversation, delivery)
        if state is None or stored is None or stored.state != DeliveryState.SENT:
            del sent[unbegun.member]
            return None
        killed = state.status is ConversationStatus.KILLED
        depth = len(stored.row.scope) if killed else state.moot(stored)
        if depth is not None:
            state.cancel(stored, depth)
            state.touch(self._ttl_ms)
            return None
        sent[unbegun.member] = self._now
        return Publication.of(unbegun.conversation, stored.delivery)

    @_atomic
    def requeued(self, deliveries: Sequence[tuple[str, str]]) -> None:
        for conversation, delivery in deliveries:
            member = codec.due_member("d", conversation, delivery)
            if member in self._shared.sent:
                self._shared.sent[member] = self._now

    @_atomic
    def expire(self, *, limit: int) -> int:
        over = [name for name, state in self._states.items() if state.expires_ms <= self._now]
        for conversation in over[:limit]:
            self._forget(conversation)
        return len(over[:limit])

    # --- workers ------------------------------------------------------------------------

    @_atomic
    def announce(self, worker: str, processes: int, *, ttl_ms: int) -> None:
        self._workers[worker] = (self._now + ttl_ms, processes)

    @_atomic
    def processes(self) -> int:
        self._workers = {
            name: found for name, found in self._workers.items() if found[0] > self._now
        }
        return sum(processes for _, processes in self._workers.values())

    # --- dead letters -------------------------------------------------------------------

    @_atomic
    def dead_letters(self, *, limit: int, before: str | None = None) -> Sequence[DeadLetter]:
        dead = self._shared.dead
        end = len(dead) if before is None else bisect.bisect_left(dead, before)
        return [self._dead_letter(position) for position in dead[max(0, end - limit) : end][::-1]]

    def _dead_letter(self, position: str) -> DeadLetter:
        at, _, name = position.partition(":")
        conversation, delivery = codec.due_parts(name.encode())
        stored = self._states[conversation].deliveries[delivery]
        return DeadLetter(
            conversation, stored.delivery, int(at), stored.attempt, stored.dead_reason, position
        )

    @_atomic
    def drop(self, conversation: str, delivery: str) -> bool:
        state, stored = self._stored(conversation, delivery)
        return bool(state and stored and state.exhume(stored))

    @_atomic
    def replay(self, conversation: str, delivery: str) -> Publication | None:
        state, stored = self._stored(conversation, delivery)
        if not state or not stored or not state.replay(stored):
            return None
        state.touch(self._ttl_ms)
        return state.publications()[0]

    # --- joins --------------------------------------------------------------------------

    @_atomic
    def join(self, conversation: str, join: str) -> JoinState | None:
        stored = self._join(conversation, join)
        if stored is None:
            return None
        return JoinState(stored.spec, stored.ok, stored.failed, stored.fired)

    @_atomic
    def results(
        self, conversation: str, join: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        stored = self._join(conversation, join)
        branches = stored.branches if stored else {}
        found = (branches[index].result for index in range(start, stop) if index in branches)
        return [result for result in found if result is not None]

    @_atomic
    def put_items(self, conversation: str, name: str, start: int, items: Sequence[bytes]) -> None:
        if not items:
            return
        state = self._opened(conversation)
        if state is None:
            raise UnknownConversationError(conversation)
        state.items.setdefault(name, {}).update(enumerate(items, start))
        state.touch(self._ttl_ms)

    @_atomic
    def items(self, conversation: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        state = self._opened(conversation)
        known = state.items.get(name, {}) if state else {}
        return [known[index] for index in range(start, stop) if index in known]

    # --- threads ------------------------------------------------------------------------

    @_atomic
    def put_thread(self, conversation: str, thread: Thread) -> bool:
        state = self._state(conversation) or self._new_state(conversation)
        if thread.id in state.threads:
            return False
        state.threads[thread.id] = thread
        state.touch(self._ttl_ms)
        return True

    @_atomic
    def child_thread(self, conversation: str, parent: str, name: str, proposed: str) -> Thread:
        state = self._state(conversation)
        if parent == ROOTS:
            state = state or self._new_state(conversation)
        elif state is None or parent not in state.threads:
            raise UnknownThreadError(parent)
        known = state.children.get(parent, {}).get(name)
        if known is not None:
            return state.threads[known]
        chain = state.threads[parent].chain if parent else ()
        child = state.threads[proposed] = Thread(proposed, (*chain, name), parent or None)
        state.adopt(parent, name, proposed)
        state.touch(self._ttl_ms)
        return child

    @_atomic
    def thread(self, conversation: str, thread: str) -> Thread | None:
        state = self._state(conversation)
        return state.threads.get(thread) if state else None

    @_atomic
    def threads(self, conversation: str) -> Mapping[str, Thread]:
        state = self._state(conversation)
        return dict(state.threads) if state else {}

    @_atomic
    def drop_threads(self, conversation: str, threads: Sequence[str]) -> int:
        state = self._state(conversation)
        return sum(state.drop_thread(thread) for thread in threads) if state else 0

    # --- reading ------------------------------------------------------------------------

    @_atomic
    def conversation(self, conversation: str) -> Conversation | None:
        state = self._opened(conversation)
        return _row(state) if state else None

    @_atomic
    def conversations(
        self, *, limit: int, before: tuple[int, str] | None = None
    ) -> Sequence[Conversation]:
        page: list[Conversation] = []
        at = bisect.bisect_left(self._index, before) if before else len(self._index)
        while at > 0 and len(page) < limit:
            at -= 1
            state = self._opened(self._index[at][1])
            if state is not None:
                page.append(_row(state))
        return page

    @_atomic
    def log(self, conversation: str, *, start: int = 0, limit: int = 1000) -> Sequence[LogEntry]:
        state = self._opened(conversation)
        if state is None or limit < 1:
            return []
        lines = state.log[start : start + limit]
        return [LogEntry(at, event, state.log_detail(event, what)) for at, event, what in lines]

    @_atomic
    def context(
        self, conversation: str, thread: str, *, limit: int
    ) -> Sequence[tuple[int, Delivery]]:
        state = self._opened(conversation)
        slots = state.slots.get(thread, []) if state else []
        first = max(0, len(slots) - limit)
        return [
            (slot, state.deliveries[delivery].delivery)
            for slot, delivery in enumerate(slots[first:], first)
            if state is not None
        ]

    @_atomic
    def waits(self, conversation: str) -> Sequence[Wait]:
        state = self._opened(conversation)
        if state is None or not state.waiting or state.status is ConversationStatus.KILLED:
            return []
        rows = (s.row for s in state.deliveries.values() if s.state == DeliveryState.WAITING)
        return [row for row in rows if isinstance(row, Wait)]

    @_atomic
    def stats(self) -> Mapping[str, int]:
        shared = self._shared
        return {
            "conversations": len(self._index),
            "due": len(shared.due),
            "sent": len(shared.sent),
            "dead_letters": len(shared.dead),
        }

    def check_format(self, expected: int = FORMAT) -> None:
        """See `SharedBackend`; `expected` is that of a process which asks a manager."""
        if expected != FORMAT:
            raise RegistryFormatError("in the manager", FORMAT, expected)

    @_atomic
    def clear(self) -> None:
        self._states.clear()
        self._workers.clear()
        self._shared.due.clear()
        self._shared.sent.clear()
        self._shared.dead.clear()
        self._index.clear()

    def close(self) -> None:
        """Nothing to let go of."""

    # --- plumbing -----------------------------------------------------------------------

    def _state(self, conversation: str) -> ConversationState | None:
        """A conversation that is still there, ready for an operation."""
        state = self._states.get(conversation)
        if state is None or state.expires_ms + MARGIN_MS <= self._now:
            return None
        state.now, state.publish = self._now, []
        return state

    def _opened(self, conversation: str) -> ConversationState | None:
        state = self._state(conversation)
        return state if state is not None and state.opening is not None else None

    def _stored(
        self, conversation: str, delivery: str
    ) -> tuple[ConversationState | None, StoredDelivery | None]:
        state = self._opened(conversation)
        return state, state.deliveries.get(delivery) if state else None

    def _run(
        self, conversation: str, turn: str
    ) -> tuple[ConversationState | None, StoredDelivery | None]:
        """The delivery that a turn has come to; it is named by the one that it began with."""
        state = self._opened(conversation)
        return state, state.deliveries.get(state.turns.get(turn, turn)) if state else None

    def _new_state(self, conversation: str) -> ConversationState:
        self._forget(conversation)
        state = ConversationState(
            conversation, shared=self._shared, grace_ms=self._publish_grace_ms
        )
        state.now = self._now
        self._states[conversation] = state
        return state

    def _create(self, opening: Opening) -> ConversationState:
        state = self._state(opening.conversation) or self._new_state(opening.conversation)
        state.opening = opening
        state.created_ms = self._now
        bisect.insort(self._index, (self._now, state.id))
        for thread in (opening.root, opening.thread):
            state.threads[thread.id] = thread
        for parent, name, child in opening.children:
            state.adopt(parent, name, child)
        state.create_delivery(opening.entry)
        state.touch(self._ttl_ms)
        return state

    def _forget(self, conversation: str) -> None:
        state = self._states.pop(conversation, None)
        if state is None:
            return
        state.leave_lists()
        if state.opening is not None:
            del self._index[bisect.bisect_left(self._index, (state.created_ms, conversation))]

    def _join(self, conversation: str, join: str) -> StoredJoin | None:
        state = self._opened(conversation)
        return state.joins.get(join) if state else None


def _late(times: Mapping[str, int], until_ms: int, limit: int) -> list[Due]:
    late = ((at, member.encode()) for member, at in times.items() if at <= until_ms)
    return [codec.due_from(member) for _, member in heapq.nsmallest(limit, late)]


def _row(state: ConversationState) -> Conversation:
    shown = state.status
    if state.status not in FINAL and 0 < state.waiting == state.in_flight:
        shown = ConversationStatus.WAITING
    return Conversation(
        id=state.id,
        status=shown,
        entry=state.entry.to,
        from_id=state.entry.from_id,
        created_ms=state.created_ms,
        updated_ms=state.updated_ms,
        deliveries=state.count,
        in_flight=state.in_flight,
        waiting=state.waiting,
        value=state.value,
    )
