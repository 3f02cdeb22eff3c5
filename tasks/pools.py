"""What a worker needs of its pool and of its registry, looked at when it starts."""

from __future__ import annotations

import logging

from threadloom.routing.backends import MemoryBackend, SharedBackend
from threadloom.tasks.unfailing import unfailing

logger = logging.getLogger(__name__)

_GREEN = ("gevent", "eventlet")


def pool_fault(pool_module: str, backend: SharedBackend) -> str | None:
    """Return why a worker with this pool cannot run an organism, or None if it can.

    `pool_module` is the module of the pool's class.
    """
    pool = pool_module.rpartition(".")[2]
    if pool in _GREEN:
        return (
            f"the pool {pool!r} switches between handlers inside their calls, where neither a time "
            "limit nor an event loop of theirs would hold. Use `-P prefork`, `-P threads` or "
            "`-P solo`; async handlers need no other pool"
        )
    if isinstance(backend, MemoryBackend) and pool == "prefork":
        return (
            "backend {type: memory} is for one process, and each process of the pool would have a "
            "registry of its own. Use `-P solo` or `-P threads`, or backend {type: redis}"
        )
    return None


def eviction_warning(policy: str) -> str:
    """Return what to tell about a Redis that drops rows by this policy when it is full."""
    return (
        f"the registry's Redis has a maxmemory limit and the policy {policy!r}: when it is full, "
        "it drops rows of conversations that are under way, and they end with an error or never. "
        "Set `maxmemory-policy noeviction`, or give the registry a Redis of its own"
    )


@unfailing
def warn_of_eviction(backend: SharedBackend) -> None:
    """Log an error if the registry may drop what it holds."""
    if policy := backend.eviction_policy():
        logger.error("registry.may_drop_rows reason=%s", eviction_warning(policy))
