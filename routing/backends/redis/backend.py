"""The registry in Redis: one Lua script per operation, one hash tag per shard.

Conversations are spread over a fixed number of *shards*, `{0}` to `{15}`, by the CRC32 of
their id. Everything of a conversation, and its entries in the shard's lists of what is due,
known and expiring, share the shard's hash tag: so each operation is atomic on Redis Cluster
too, and the lists can never disagree with the conversations. `layout.py` is the catalogue of
keys and fields. Time is Redis's. Needs Redis 6.2 or newer.
"""

from __future__ import annotations

from typing import cast

from threadloom.routing.backends.redis.connection import at_the_edge
from threadloom.routing.backends.redis.dead_letters import DeadLetters
from threadloom.routing.backends.redis.deliveries import Deliveries
from threadloom.routing.backends.redis.layout import SHARDS
from threadloom.routing.backends.redis.reading import Reading
from threadloom.routing.backends.redis.recovery import Recovery
from threadloom.routing.backends.redis.script_line import Call
from threadloom.routing.backends.redis.threads import Joins, Threads
from threadloom.routing.errors import RegistryFormatError
from threadloom.routing.store import FORMAT


class RedisBackend(Deliveries, Recovery, DeadLetters, Joins, Threads, Reading):
    """A `SharedBackend` on one Redis, Sentinel or Cluster; safe to share between threads."""

    @at_the_edge
    def check_format(self) -> None:
        call = Call("format", [self._shard_key(0, "format")], [FORMAT])
        found = int(self._line.run(call)[0])
        if found != FORMAT:
            raise RegistryFormatError(self._prefix, found, FORMAT)

    @at_the_edge
    def clear(self) -> None:
        for shard in range(SHARDS):
            kept = self._shard_key(shard, "retention")
            while members := cast(list[bytes], self._redis.zrange(kept, 0, 499)):
                self._line.run(*(self._forget(member, in_any_case=True) for member in members))
            self._redis.unlink(*(self._shard_key(shard, part) for part in ("due", "dead", "sent")))
        self._redis.unlink(self._workers_key, self._refused_key, self._shard_key(0, "format"))

    def close(self) -> None:
        self._line.close()
        self._redis.close()
