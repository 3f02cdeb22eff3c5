"""From an organism's `backend` section to a backend."""

from __future__ import annotations

import redis

from config import OrganismConfig
from routing.backends.base import SharedBackend
from routing.backends.redis import RedisBackend

#: seconds that a registry call waits for a connection or an answer before it is an error
_TIMEOUT_S = 5.0


def connect(config: OrganismConfig, *, url: str | None) -> SharedBackend:
    """Return the backend that the organism asks for; nothing is contacted before its first use.

    `url` is the registry's, as redis-py writes it. Raises ValueError if redis is asked for
    without one.
    """
    section = config.organism.backend
    name = config.organism.name
    if section.type == "memory":
        from routing.backends.memory import MemoryBackend

        return MemoryBackend(organism=name, ttl_s=section.redis_ttl)
    if url is None:
        raise ValueError("a redis backend needs a URL")
    client = redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        health_check_interval=30,
    )
    return RedisBackend(client, organism=name, prefix=section.redis_prefix, ttl_s=section.redis_ttl)
