"""What a sweep asks the registry in memory: what is late or lost, and which workers are there."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.conversation import ConversationState
from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.backends.memory.steps import (
    reclaim_delivery,
    reclaim_release,
    reclaim_timer,
)
from threadloom.routing.records import Due, Expired, Publication
from threadloom.routing.states import ConversationStatus, DeliveryState
from threadloom.routing.store import TOO_OLD


class Recovery(Conversations):
    """The part of `SharedBackend` that finds what is late, lost or over, and counts workers."""

    @atomic
    def due(self, *, limit: int) -> Sequence[Due]:
        return _late(self._shared.due, self._now, limit)

    @atomic
    def reclaim(
        self, due: Due, *, retry_in_ms: int, silent_branch: bytes
    ) -> tuple[Publication, ...]:
        late = self._shared.due.get(due.member)
        if late is None or late > self._now:
            return ()
        state = self._opened(due.conversation_id)
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

    @atomic
    def unbegun(self, *, older_than_ms: int, limit: int) -> Sequence[Due]:
        return _late(self._shared.sent, self._now - older_than_ms, limit)

    @atomic
    def addressed(self, unbegun: Sequence[Due]) -> Sequence[str | None]:
        found = (
            self._stored(due.conversation_id, codec.due_parts(due.member.encode())[1])
            for due in unbegun
        )
        return [None if stored is None else stored.delivery.to for _, stored in found]

    @atomic
    def republish(self, unbegun: Due, *, older_than_ms: int) -> Publication | None:
        sent = self._shared.sent
        published = sent.get(unbegun.member)
        if published is None or published > self._now - older_than_ms:
            return None
        _, delivery = codec.due_parts(unbegun.member.encode())
        state, stored = self._stored(unbegun.conversation_id, delivery)
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
        return Publication.of(unbegun.conversation_id, stored.delivery)

    @atomic
    def requeued(self, deliveries: Sequence[tuple[str, str]]) -> None:
        for conversation, delivery in deliveries:
            member = codec.due_member("d", conversation, delivery)
            if member in self._shared.sent:
                self._shared.sent[member] = self._now

    @atomic
    def expire(self, *, limit: int) -> Expired:
        late = (state for state in self._states.values() if state.over_ms <= self._now)
        over = heapq.nsmallest(limit, late, key=lambda state: state.over_ms)
        old = [state for state in over if state.owes and not state.aged]
        gone = [state for state in over if not state.owes or state.aged]
        ended = tuple(state.id for state in old if self._ended_for_its_age(state))
        for state in gone:
            self._forget(state.id)
        return Expired(len(gone), ended, len(over) == limit)

    def _ended_for_its_age(self, state: ConversationState) -> bool:
        state.now, state.publish = self._now, []
        state.aged, state.over_ms = True, self._now + self._max_age_ms
        return self._kill(state, TOO_OLD) is not None

    @atomic
    def now_ms(self) -> int:
        return self._now

    @atomic
    def announce(self, worker: str, processes: int, *, ttl_ms: int) -> None:
        self._workers[worker] = (self._now + ttl_ms, processes)

    @atomic
    def processes(self) -> int:
        self._workers = {
            name: found for name, found in self._workers.items() if found[0] > self._now
        }
        return sum(processes for _, processes in self._workers.values())

    def eviction_policy(self) -> str | None:
        return None


def _late(times: Mapping[str, int], until_ms: int, limit: int) -> list[Due]:
    late = ((at, member.encode()) for member, at in times.items() if at <= until_ms)
    return [codec.due_from(member) for _, member in heapq.nsmallest(limit, late)]
