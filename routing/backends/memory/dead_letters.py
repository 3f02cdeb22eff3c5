"""Dead letters of the registry in memory."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.gate import Refused
from threadloom.routing.records import DeadLetter, Publication
from threadloom.routing.store import REFUSED


class DeadLetters(Conversations):
    """The part of `SharedBackend` about deliveries that failed for good."""

    @atomic
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

    @atomic
    def drop(self, conversation_id: str, delivery_id: str) -> bool:
        state, stored = self._stored(conversation_id, delivery_id)
        return bool(state and stored and state.exhume(stored))

    @atomic
    def refuse(self, message: Refused) -> None:
        self._refused[message.id] = (self._now + self._ttl_ms, message)
        for name in list(self._refused)[:-REFUSED]:
            del self._refused[name]

    @atomic
    def refused(self) -> Sequence[Refused]:
        for name, (until_ms, _) in list(self._refused.items()):
            if until_ms <= self._now:
                del self._refused[name]
        return [message for _, message in reversed(self._refused.values())]

    @atomic
    def drop_refused(self, refused_id: str) -> bool:
        return self._refused.pop(refused_id, None) is not None

    @atomic
    def replay(self, conversation_id: str, delivery_id: str) -> Publication | None:
        state, stored = self._stored(conversation_id, delivery_id)
        if not state or not stored or not state.replay(stored):
            return None
        state.aged, state.over_ms = False, self._now + self._max_age_ms
        state.touch(self._ttl_ms)
        return state.publications()[0]
