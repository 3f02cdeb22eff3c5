"""The registry in Redis."""

from threadloom.routing.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
