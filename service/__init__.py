"""The command line and the embedded Redis."""

from threadloom.service.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from threadloom.service.redis_binary import RedisServerNotFoundError, find_redis_server

__all__ = [
    "EmbeddedRedis",
    "EmbeddedRedisError",
    "RedisServerNotFoundError",
    "find_redis_server",
]

#: modules that others import from by their own names: the command line, which loads everything
PUBLIC_MODULES = ("cli",)
