"""The conversations of one process, under one lock: what every part of the backend stands on."""

from __future__ import annotations

import bisect
import functools
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from threadloom.routing.backends.memory.conversation import ConversationState
from threadloom.routing.backends.memory.stored import SharedLists, StoredDelivery, StoredJoin
from threadloom.routing.gate import Refused
from threadloom.routing.records import Ending, Opening, Publication
from threadloom.routing.store import BEGIN_GRACE_MS, MARGIN_MS, MAX_AGE_S, PUBLISH_GRACE_MS

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Conversations")


def _system_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def atomic(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run a method as a Redis runs a script: alone, and at one moment."""

    @functools.wraps(method)
    def alone(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            self._now = self._clock()
            return method(self, *args, **kwargs)

    return alone


class Conversations:
    """All conversations of an organism; safe to share between threads.

    `publish_grace_ms` and `begin_grace_ms`: see `routing/store.py`. `clock`: the time in ms since
    1970, as every time the registry tells.
    """

    def __init__(
        self,
        *,
        organism: str,
        ttl_s: int = 86_400,
        max_age_s: int = MAX_AGE_S,
        publish_grace_ms: int = PUBLISH_GRACE_MS,
        begin_grace_ms: int = BEGIN_GRACE_MS,
        clock: Callable[[], int] = _system_clock_ms,
    ) -> None:
        self.organism = organism
        self._ttl_ms = ttl_s * 1000
        self._max_age_ms = max_age_s * 1000
        self._publish_grace_ms = publish_grace_ms
        self._begin_grace_ms = begin_grace_ms
        self._clock = clock
        self._now = 0
        self._lock = threading.Lock()
        self._states: dict[str, ConversationState] = {}
        self._shared = SharedLists()
        #: by name: until when a worker is there, and how many processes it has
        self._workers: dict[str, tuple[int, int]] = {}
        #: messages that were put aside, by id, oldest first, each with the ms of its expiry
        self._refused: dict[str, tuple[int, Refused]] = {}
        #: (created ms, id), oldest first
        self._index: list[tuple[int, str]] = []

    def _state(self, conversation_id: str) -> ConversationState | None:
        """A conversation that is still there, ready for an operation."""
        state = self._states.get(conversation_id)
        if state is None or (not state.owes and state.over_ms + MARGIN_MS <= self._now):
            return None
        state.now, state.publish = self._now, []
        return state

    def _opened(self, conversation_id: str) -> ConversationState | None:
        state = self._state(conversation_id)
        return state if state is not None and state.opening is not None else None

    def _stored(
        self, conversation_id: str, delivery_id: str
    ) -> tuple[ConversationState | None, StoredDelivery | None]:
        state = self._opened(conversation_id)
        return state, state.deliveries.get(delivery_id) if state else None

    def _run(
        self, conversation_id: str, turn_id: str
    ) -> tuple[ConversationState | None, StoredDelivery | None]:
        """The delivery that a turn has come to; it is named by the one that it began with."""
        state = self._opened(conversation_id)
        return state, state.deliveries.get(state.turns.get(turn_id, turn_id)) if state else None

    def _new_state(self, conversation_id: str) -> ConversationState:
        self._forget(conversation_id)
        state = ConversationState(
            conversation_id, shared=self._shared, grace_ms=self._publish_grace_ms
        )
        state.now = self._now
        self._states[conversation_id] = state
        return state

    def _create(self, opening: Opening) -> ConversationState:
        state = self._state(opening.conversation_id) or self._new_state(opening.conversation_id)
        state.opening = opening
        state.created_ms = self._now
        bisect.insort(self._index, (self._now, state.id))
        for thread in (opening.root, opening.thread):
            state.threads[thread.id] = thread
        for parent, name, child in opening.children:
            state.adopt(parent, name, child)
        state.create_delivery(opening.entry)
        state.over_ms = self._now + self._max_age_ms
        state.touch(self._ttl_ms)
        return state

    def _kill(self, state: ConversationState, ending: Ending) -> Publication | None:
        if not state.finish(ending):
            return None
        state.drop_all_waits()
        state.touch(self._ttl_ms)
        return state.resume()

    def _forget(self, conversation_id: str) -> None:
        state = self._states.pop(conversation_id, None)
        if state is None:
            return
        state.leave_lists()
        if state.opening is not None:
            del self._index[bisect.bisect_left(self._index, (state.created_ms, conversation_id))]

    def _join(self, conversation_id: str, join_id: str) -> StoredJoin | None:
        state = self._opened(conversation_id)
        return state.joins.get(join_id) if state else None
