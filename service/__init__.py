"""What people and machines run Threadloom with: the command line and the embedded Redis.

Names are looked up when they are first used: `service.cli` must be able to check what stands
in front of the project's packages before anything is imported from them.
"""

from __future__ import annotations

import typing as _typing

if _typing.TYPE_CHECKING:
    from service.embedded_redis import EmbeddedRedis, EmbeddedRedisError
    from service.redis_binary import RedisServerNotFoundError, find_redis_server

__all__ = [
    "EmbeddedRedis",
    "EmbeddedRedisError",
    "RedisServerNotFoundError",
    "find_redis_server",
]


def __getattr__(name: str) -> _typing.Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service import embedded_redis, redis_binary

    return getattr(embedded_redis, name, None) or getattr(redis_binary, name)
