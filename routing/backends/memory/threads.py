"""Threads of the registry in memory, and the joins that they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.errors import UnknownConversationError, UnknownThreadError
from threadloom.routing.records import JoinState, StoredResult, Thread
from threadloom.routing.store import ROOTS


class Joins(Conversations):
    """The part of `SharedBackend` about joins and stored lists."""

    @atomic
    def join(self, conversation: str, join: str) -> JoinState | None:
        stored = self._join(conversation, join)
        if stored is None:
            return None
        return JoinState(stored.spec, stored.ok, stored.failed, stored.fired)

    @atomic
    def results(
        self, conversation: str, join: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        stored = self._join(conversation, join)
        branches = stored.branches if stored else {}
        found = (branches[index].result for index in range(start, stop) if index in branches)
        return [result for result in found if result is not None]

    @atomic
    def put_items(self, conversation: str, name: str, start: int, items: Sequence[bytes]) -> None:
        if not items:
            return
        state = self._opened(conversation)
        if state is None:
            raise UnknownConversationError(conversation)
        state.items.setdefault(name, {}).update(enumerate(items, start))
        state.touch(self._ttl_ms)

    @atomic
    def items(self, conversation: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        state = self._opened(conversation)
        known = state.items.get(name, {}) if state else {}
        return [known[index] for index in range(start, stop) if index in known]


class Threads(Conversations):
    """The part of `SharedBackend` about threads."""

    @atomic
    def put_thread(self, conversation: str, thread: Thread) -> bool:
        state = self._state(conversation) or self._new_state(conversation)
        if thread.id in state.threads:
            return False
        state.threads[thread.id] = thread
        state.touch(self._ttl_ms)
        return True

    @atomic
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

    @atomic
    def thread(self, conversation: str, thread: str) -> Thread | None:
        state = self._state(conversation)
        return state.threads.get(thread) if state else None

    @atomic
    def threads(self, conversation: str) -> Mapping[str, Thread]:
        state = self._state(conversation)
        return dict(state.threads) if state else {}

    @atomic
    def drop_threads(self, conversation: str, threads: Sequence[str]) -> int:
        state = self._state(conversation)
        return sum(state.drop_thread(thread) for thread in threads) if state else 0
