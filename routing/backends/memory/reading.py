"""Reading the registry in memory."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

from threadloom.routing.backends.memory.conversation import ConversationState
from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.records import Conversation, Delivery, LogEntry, Wait
from threadloom.routing.states import ConversationStatus, DeliveryState


class Reading(Conversations):
    """The part of `SharedBackend` that changes nothing."""

    @atomic
    def conversation(self, conversation_id: str) -> Conversation | None:
        state = self._opened(conversation_id)
        return _row(state) if state else None

    @atomic
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

    @atomic
    def log(self, conversation_id: str, *, start: int = 0, limit: int = 1000) -> Sequence[LogEntry]:
        state = self._opened(conversation_id)
        if state is None or limit < 1:
            return []
        lines = state.log[start : start + limit]
        return [LogEntry(at, event, state.log_detail(event, what)) for at, event, what in lines]

    @atomic
    def context(
        self, conversation_id: str, thread_id: str, *, limit: int
    ) -> Sequence[tuple[int, Delivery]]:
        state = self._opened(conversation_id)
        slots = state.slots.get(thread_id, []) if state else []
        first = max(0, len(slots) - limit)
        return [
            (slot, state.deliveries[delivery].delivery)
            for slot, delivery in enumerate(slots[first:], first)
            if state is not None
        ]

    @atomic
    def waits(self, conversation_id: str) -> Sequence[Wait]:
        state = self._opened(conversation_id)
        if state is None or not state.waiting or state.status is ConversationStatus.KILLED:
            return []
        rows = (s.row for s in state.deliveries.values() if s.state == DeliveryState.WAITING)
        return [row for row in rows if isinstance(row, Wait)]

    @atomic
    def stats(self) -> Mapping[str, int]:
        shared = self._shared
        return {
            "conversations": len(self._index),
            "due": len(shared.due),
            "sent": len(shared.sent),
            "dead_letters": len(shared.dead),
        }


def _row(state: ConversationState) -> Conversation:
    shown = state.status
    if not state.is_final and 0 < state.waiting == state.in_flight:
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
