"""Dead letters of the registry in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis.commits import publications
from threadloom.routing.backends.redis.connection import RegistryConnection, at_the_edge
from threadloom.routing.backends.redis.layout import Field
from threadloom.routing.backends.redis.script_line import Call
from threadloom.routing.gate import Refused
from threadloom.routing.records import DeadLetter, Publication

#: what is read of each, in the order in which `_dead_letter` takes it
_FIELDS = (Field.DEAD_MEMBER, Field.ROW, Field.ENVELOPE, Field.STATE, Field.DEAD_REASON)


class DeadLetters(RegistryConnection):
    """The part of `SharedBackend` about deliveries that failed for good."""

    @at_the_edge
    def dead_letters(self, *, limit: int, before: str | None = None) -> Sequence[DeadLetter]:
        top = f"({before}".encode() if before else b"+"
        while members := self._newest("dead", top, limit):
            letters = self._dead_letters(members)
            if letters:
                return letters
        return []

    def _dead_letters(self, members: Sequence[bytes]) -> list[DeadLetter]:
        pipe = self._redis.pipeline(transaction=False)
        names = [codec.due_parts(member.partition(b":")[2]) for member in members]
        for conversation, delivery in names:
            fields = [field.of(delivery) for field in _FIELDS]
            pipe.hmget(self._keys(conversation).deliveries, fields)
        letters = []
        for member, (conversation, _), row in zip(members, names, pipe.execute(), strict=True):
            if row[0] == member:
                letters.append(_dead_letter(conversation, row))
            else:  # its conversation expired while no worker was there to sweep it
                self._redis.zrem(self._keys(conversation).dead, member)
        return letters

    @at_the_edge
    def drop(self, conversation_id: str, delivery_id: str) -> bool:
        return bool(self._run("drop", conversation_id, delivery_id))

    @at_the_edge
    def refuse(self, message: Refused) -> None:
        args: list[str | bytes | int] = [codec.dump(message), self._ttl_ms]
        self._line.run(Call("refuse", [self._refused_key], args))

    @at_the_edge
    def refused(self) -> Sequence[Refused]:
        rows = cast("list[bytes]", self._redis.lrange(self._refused_key, 0, -1))
        return [codec.read_refused(row) for row in rows]

    @at_the_edge
    def drop_refused(self, refused_id: str) -> bool:
        return bool(self._line.run(Call("drop_refused", [self._refused_key], [refused_id]))[0])

    @property
    def _refused_key(self) -> str:
        return self._shard_key(0, "refused")

    @at_the_edge
    def replay(self, conversation_id: str, delivery_id: str) -> Publication | None:
        rows = self._run("replay", conversation_id, delivery_id, self._max_age_ms)
        return next(iter(publications(conversation_id, rows)), None)


def _dead_letter(conversation_id: str, fields: Sequence[bytes]) -> DeadLetter:
    member, row, envelope, state, reason = fields
    return DeadLetter(
        conversation_id,
        codec.delivery_from(row, envelope),
        int(member.partition(b":")[0]),
        int(state.split(b"|")[1]),
        reason.decode(),
        member.decode(),
    )
