"""Threads of the registry in memory, and the joins that they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.errors import (
    ConversationTooLargeError,
    UnknownConversationError,
    UnknownThreadError,
)
from threadloom.routing.records import JoinState, StoredResult, Thread
from threadloom.routing.store import ROOTS


class Joins(Conversations):
    """The part of `SharedBackend` about joins and stored lists."""

    @atomic
    def join(self, conversation_id: str, join_id: str) -> JoinState | None:
        stored = self._join(conversation_id, join_id)
        if stored is None:
            return None
        return JoinState(stored.spec, stored.ok, stored.failed, stored.fired)

    @atomic
    def results(
        self, conversation_id: str, join_id: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        stored = self._join(conversation_id, join_id)
        branches = stored.branches if stored else {}
        found = (branches[index].result for index in range(start, stop) if index in branches)
        return [result for result in found if result is not None]

    @atomic
    def put_items(
        self,
        conversation_id: str,
        name: str,
        start: int,
        items: Sequence[bytes],
        *,
        max_bytes: int = 0,
    ) -> None:
        if not items:
            return
        state = self._opened(conversation_id)
        if state is None:
            raise UnknownConversationError(conversation_id)
        if 0 < max_bytes < state.bytes + sum(map(len, items)):
            raise ConversationTooLargeError(conversation_id, max_bytes)
        known = state.items.setdefault(name, {})
        new = {index: item for index, item in enumerate(items, start) if index not in known}
        state.bytes += sum(map(len, new.values()))
        known |= new
        state.touch(self._ttl_ms)

    @atomic
    def items(self, conversation_id: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        state = self._opened(conversation_id)
        known = state.items.get(name, {}) if state else {}
        return [known[index] for index in range(start, stop) if index in known]


class Threads(Conversations):
    """The part of `SharedBackend` about threads."""

    @atomic
    def put_thread(self, conversation_id: str, thread: Thread) -> bool:
        state = self._state(conversation_id) or self._new_state(conversation_id)
        if thread.id in state.threads:
            return False
        state.threads[thread.id] = thread
        state.touch(self._ttl_ms)
        return True

    @atomic
    def child_thread(
        self, conversation_id: str, parent_id: str, name: str, proposed: str
    ) -> Thread:
        state = self._state(conversation_id)
        if parent_id == ROOTS:
            state = state or self._new_state(conversation_id)
        elif state is None or parent_id not in state.threads:
            raise UnknownThreadError(parent_id)
        known = state.children.get(parent_id, {}).get(name)
        if known is not None:
            return state.threads[known]
        chain = state.threads[parent_id].chain if parent_id else ()
        child = state.threads[proposed] = Thread(proposed, (*chain, name), parent_id or None)
        state.adopt(parent_id, name, proposed)
        state.touch(self._ttl_ms)
        return child

    @atomic
    def thread(self, conversation_id: str, thread_id: str) -> Thread | None:
        state = self._state(conversation_id)
        return state.threads.get(thread_id) if state else None

    @atomic
    def threads(self, conversation_id: str) -> Mapping[str, Thread]:
        state = self._state(conversation_id)
        return dict(state.threads) if state else {}

    @atomic
    def drop_threads(self, conversation_id: str, threads: Sequence[str]) -> int:
        state = self._state(conversation_id)
        return sum(state.drop_thread(thread) for thread in threads) if state else 0
