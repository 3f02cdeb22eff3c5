"""From an organism's `backend` section to a backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import redis

from threadloom.config import ConfigurationError, OrganismConfig, Problem
from threadloom.routing.backends.manager import Door, ManagerBackend
from threadloom.routing.backends.memory import MemoryBackend
from threadloom.routing.backends.redis import RedisBackend
from threadloom.routing.store import SharedBackend

#: names the door of the manager that hosts the registry
MANAGER_VARIABLE = "THREADLOOM_MANAGER"
#: seconds that a registry call waits for a connection or an answer before it is an error
_TIMEOUT_S = 5.0


def connect(
    config: OrganismConfig, *, url: str | None, environ: Mapping[str, str] | None = None
) -> SharedBackend:
    """Return the backend that the organism asks for; nothing is contacted before its first use.

    `url` is the registry's, as redis-py writes it; a manager is found by THREADLOOM_MANAGER in
    `environ`, by default the process's. Raises ValueError if redis is asked for without a URL,
    ConfigurationError if a manager is and none is there.
    """
    section = config.organism.backend
    name = config.organism.name
    ttl_s, max_age_s = section.redis_ttl, config.organism.max_age
    if section.type == "memory":
        return MemoryBackend(organism=name, ttl_s=ttl_s, max_age_s=max_age_s)
    if section.type == "manager":
        door = _manager_door(config, os.environ if environ is None else environ)
        return ManagerBackend(door, organism=name, ttl_s=ttl_s, max_age_s=max_age_s)
    if url is None:
        raise ValueError("a redis backend needs a URL")
    client = redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        health_check_interval=30,
    )
    return RedisBackend(
        client, organism=name, prefix=section.redis_prefix, ttl_s=ttl_s, max_age_s=max_age_s
    )


def _manager_door(config: OrganismConfig, environ: Mapping[str, str]) -> Path:
    named = environ.get(MANAGER_VARIABLE)
    if not named:
        text = f"{MANAGER_VARIABLE} names no manager; `threadloom up` starts one"
        raise ConfigurationError(config.source, [Problem("organism.backend.type", text)])
    try:
        Door.read(Path(named))
    except FileNotFoundError as exc:
        text = f"no manager serves {named}, which {MANAGER_VARIABLE} names"
        raise ConfigurationError(config.source, [Problem("organism.backend.type", text)]) from exc
    except (OSError, ValueError) as exc:
        text = f"{MANAGER_VARIABLE}: {exc}"
        raise ConfigurationError(config.source, [Problem("organism.backend.type", text)]) from exc
    return Path(named)
