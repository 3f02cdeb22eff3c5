"""How the registry in Redis is reached: its keys, its scripts, and its errors as ours."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # redis's own, which is what this module maps
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from threadloom.config import RegistryUnavailableError
from threadloom.routing.backends.redis.layout import OWN_KEYS, SHARDS, Keys
from threadloom.routing.backends.redis.script_line import Call, ScriptLine
from threadloom.routing.backends.redis.scripts import load_scripts
from threadloom.routing.store import BEGIN_GRACE_MS, MAX_AGE_S, PUBLISH_GRACE_MS, Published

P = ParamSpec("P")
R = TypeVar("R")

_UNAVAILABLE = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
#: answers of a Redis that will do it later, for which redis-py has no class: another script runs
#: too long, the disk is full, too few replicas. Redis 6.2 wraps what a script met in a text.
_LATER = re.compile(r"(?:^|: -)(?:BUSY|MISCONF|NOREPLICAS|MASTERDOWN|OOM|READONLY) ")


def at_the_edge(method: Callable[P, R]) -> Callable[P, R]:
    """Map what redis-py raises when Redis cannot answer to RegistryUnavailableError."""

    @functools.wraps(method)
    def mapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except _UNAVAILABLE as exc:
            raise RegistryUnavailableError(f"{type(exc).__name__}: {exc}") from exc
        except ResponseError as exc:
            if _LATER.search(str(exc)):
                raise RegistryUnavailableError(str(exc)) from exc
            raise

    return mapped


class RegistryConnection:
    """One organism's registry in Redis: what every part of the backend stands on.

    Safe to share between threads. `publish_grace_ms` and `begin_grace_ms`: see `routing.store`.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        organism: str,
        prefix: str = "tl:",
        ttl_s: int = 86_400,
        max_age_s: int = MAX_AGE_S,
        publish_grace_ms: int = PUBLISH_GRACE_MS,
        begin_grace_ms: int = BEGIN_GRACE_MS,
    ) -> None:
        self._redis = client
        self._prefix = f"{prefix}{organism}:"
        self._ttl_ms = ttl_s * 1000
        self._max_age_ms = max_age_s * 1000
        self._publish_grace_ms = publish_grace_ms
        self._begin_grace_ms = begin_grace_ms
        #: by shard: what the keys of a conversation begin with, and those that they share
        self._shard_keys = [
            (
                tuple(f"{self._shard_key(shard, part)}:" for part in Keys._fields[:OWN_KEYS]),
                tuple(self._shard_key(shard, part) for part in Keys._fields[OWN_KEYS:]),
            )
            for shard in range(SHARDS)
        ]
        self._line = ScriptLine(client, load_scripts())

    def _run(self, script: str, conversation_id: str, *args: str | bytes | int) -> Any:
        return self._line.run(self._call(script, conversation_id, args))[0]

    def _run_after(
        self, published: Published, script: str, conversation_id: str, *args: str | bytes | int
    ) -> Any:
        """Run a script, and before it `published` for what the broker has, in one round trip."""
        before = [
            self._call("published", name, (self._begin_grace_ms, *deliveries))
            for name, deliveries in published.items()
        ]
        return self._line.run(*before, self._call(script, conversation_id, args))[-1]

    def _call(self, script: str, conversation_id: str, args: Sequence[str | bytes | int]) -> Call:
        return Call(
            script, self._keys(conversation_id), (conversation_id, self._publish_grace_ms, *args)
        )

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds * 1000 + micros // 1000)

    def _keys(self, conversation_id: str) -> Keys:
        own, shared = self._shard_keys[shard_of(conversation_id)]
        return Keys(*[part + conversation_id for part in own], *shared)

    def _shard_key(self, shard: int, part: str) -> str:
        return f"{self._prefix}{{{shard}}}:{part}"

    def _hmget(self, key: str, fields: list[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._redis.hmget(key, fields))

    def _newest(self, part: str, top: bytes, limit: int) -> list[bytes]:
        """The last members of a list of all shards below `top`, by their names."""
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.zrevrangebylex(self._shard_key(shard, part), top, "-", start=0, num=limit)
        return sorted((m for found in pipe.execute() for m in found), reverse=True)[:limit]


def shard_of(conversation_id: str) -> int:
    """The shard that a conversation lies in."""
    return zlib.crc32(conversation_id.encode()) % SHARDS
