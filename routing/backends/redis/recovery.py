"""What a sweep asks the registry in Redis: what is late or lost, and which workers are there."""

from __future__ import annotations

from collections.abc import Sequence

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis import replies
from threadloom.routing.backends.redis.commits import publications, resumption
from threadloom.routing.backends.redis.connection import RegistryConnection, at_the_edge, shard_of
from threadloom.routing.backends.redis.layout import SHARDS, Field
from threadloom.routing.backends.redis.script_line import Call
from threadloom.routing.records import Due, Expired, Publication
from threadloom.routing.store import TOO_OLD

#: what forget.lua answers: the conversation is gone, or a piece of it, or it was ended
_GONE, _MORE_OF_IT, _ENDED = 1, 2, 3

#: the policy of a Redis that refuses writes when it is full
_KEEPS_ALL = "noeviction"


class Recovery(RegistryConnection):
    """The part of `SharedBackend` that finds what is late, lost or over."""

    @at_the_edge
    def due(self, *, limit: int) -> Sequence[Due]:
        return self._late("due", self._now_ms(), limit)

    def _late(self, part: str, until_ms: int, limit: int) -> list[Due]:
        """What is late in a list of all shards, the oldest first."""
        return [codec.due_from(member) for member in self._first(part, until_ms, limit)]

    def _first(self, part: str, until_ms: int, limit: int) -> list[bytes]:
        """What stands in a list of all shards up to a time, the oldest first."""
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            key = self._shard_key(shard, part)
            pipe.zrangebyscore(key, "-inf", until_ms, start=0, num=limit, withscores=True)
        late = sorted((at, member) for found in pipe.execute() for member, at in found)
        return [member for _, member in late[:limit]]

    @at_the_edge
    def reclaim(
        self, due: Due, *, retry_in_ms: int, silent_branch: bytes
    ) -> tuple[Publication, ...]:
        args = (due.member, retry_in_ms, silent_branch)
        reply = replies.read(self._run("reclaim", due.conversation_id, *args))
        if isinstance(reply, replies.ResumeReply):
            return (resumption(due.conversation_id, reply),)
        return publications(due.conversation_id, reply.rows)

    @at_the_edge
    def unbegun(self, *, older_than_ms: int, limit: int) -> Sequence[Due]:
        return self._late("sent", self._now_ms() - older_than_ms, limit)

    @at_the_edge
    def addressed(self, unbegun: Sequence[Due]) -> Sequence[str | None]:
        pipe = self._redis.pipeline(transaction=False)
        for due in unbegun:
            _, delivery = codec.due_parts(due.member.encode())
            pipe.hget(self._keys(due.conversation_id).deliveries, Field.ROW.of(delivery))
        return [row and codec.delivery_from(row, b"").to for row in pipe.execute()]

    @at_the_edge
    def republish(self, unbegun: Due, *, older_than_ms: int) -> Publication | None:
        rows = self._run("republish", unbegun.conversation_id, unbegun.member, older_than_ms)
        return next(iter(publications(unbegun.conversation_id, rows)), None)

    @at_the_edge
    def requeued(self, deliveries: Sequence[tuple[str, str]]) -> None:
        self._line.run(
            *(
                self._call("requeued", conversation, (delivery,))
                for conversation, delivery in deliveries
            )
        )

    @at_the_edge
    def expire(self, *, limit: int) -> Expired:
        over = self._first("retention", self._now_ms(), limit)
        answers = self._line.run(*map(self._forget, over)) if over else []
        ended = tuple(
            _conversation_of(member)
            for member, answer in zip(over, answers, strict=True)
            if answer == _ENDED
        )
        return Expired(answers.count(_GONE), ended, _MORE_OF_IT in answers or len(over) == limit)

    def _forget(self, member: bytes, *, in_any_case: bool = False) -> Call:
        """Remove the conversation of this name in the shard's lists, or a piece of it."""
        conversation = _conversation_of(member)
        keys = self._keys(conversation)
        gone = f"{self._shard_key(shard_of(conversation), 'gone')}:{member.decode()}"
        args = (
            conversation, self._publish_grace_ms, member, int(in_any_case), self._max_age_ms,
            TOO_OLD.status, codec.dump(TOO_OLD.value),
        )  # fmt: skip
        return Call("forget", [*keys, f"{gone}:deliveries", f"{gone}:joins"], args)

    @at_the_edge
    def now_ms(self) -> int:
        return self._now_ms()

    @at_the_edge
    def announce(self, worker: str, processes: int, *, ttl_ms: int) -> None:
        self._line.run(Call("workers", [self._workers_key], [ttl_ms, processes, worker]))

    @at_the_edge
    def processes(self) -> int:
        return int(self._line.run(Call("workers", [self._workers_key], ["", "", ""]))[0])

    @at_the_edge
    def eviction_policy(self) -> str | None:
        memory = self._redis.info("memory")
        policy = str(memory.get("maxmemory_policy", _KEEPS_ALL))
        return policy if memory.get("maxmemory") and policy != _KEEPS_ALL else None

    @property
    def _workers_key(self) -> str:
        return self._shard_key(0, "workers")


def _conversation_of(member: bytes) -> str:
    """The conversation that a member of `created` or `retention` names."""
    return member.decode().partition(":")[2]
