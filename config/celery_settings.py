"""The Celery settings an organism runs with, and why each is what it is.

The file's `celery` section wins over these, except for what correctness stands on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from config.errors import ConfigurationError, Problem
from config.models import OrganismConfig

#: Celery's own default queue, so that a plain `send_task` from any app finds the listeners
DEFAULT_QUEUE = "celery"

#: what the delivery protocol stands on: an organism file may not change these
FIXED: Mapping[str, Any] = {
    # A message is acknowledged after its delivery is committed, so a crash redelivers it …
    "task_acks_late": True,
    # … also when only the pool child died and the main process lives to tell.
    "task_reject_on_worker_lost": True,
    # Nothing that arrives is ever unpickled.
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    # Tasks run in workers, whatever a test setting says: eager mode has no broker to lose.
    "task_always_eager": False,
}

DEFAULTS: Mapping[str, Any] = {
    "task_default_queue": DEFAULT_QUEUE,
    # One message beyond those running: a long handler must not sit on other people's messages.
    "worker_prefetch_multiplier": 1,
    # Flower draws its picture from these events. The one about sending would cost another round
    # trip per message, and Flower shows nothing from it that the others lack.
    "worker_send_task_events": True,
    # A worker may be started before its broker, and outlives a broker's restart.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Handlers that run when a connection breaks go on: their commit does not need the broker.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Only the injected task has a result, and whoever injected it reads it within a day.
    "result_expires": 86_400,
    "broker_transport_options": {
        # Seconds after which Redis hands an unacknowledged message out again. The registry
        # recovers lost deliveries within seconds, so this is but a last resort; a lower value
        # would redeliver what long handlers are still working on.
        "visibility_timeout": 3_600,
    },
}


def celery_settings(config: OrganismConfig, *, redis_url: str | None) -> dict[str, Any]:
    """Return the settings for `app.conf`.

    `redis_url` is the Redis of the environment (`THREADLOOM_REDIS_URL`); the file's
    `backend.redis_url` and `celery.broker_url` win over it. Raises ConfigurationError when no
    broker is named anywhere, or when the file changes a setting that delivery stands on.
    """
    given = config.organism.celery.to_dict()
    changed = [name for name in FIXED if name in given and given[name] != FIXED[name]]
    if changed:
        raise ConfigurationError(
            config.source,
            [
                Problem(f"organism.celery.{name}", f"has to stay {FIXED[name]!r}; remove it")
                for name in changed
            ],
        )
    url = registry_url(config, redis_url=redis_url, required="broker_url" not in given)
    urls = {"broker_url": celery_url(url), "result_backend": celery_url(url)} if url else {}
    if "result_backend" not in given and not url:
        raise ConfigurationError(
            config.source,
            [Problem("organism.celery.result_backend", "is missing: name where results go")],
        )
    return {**DEFAULTS, **urls, **given, **FIXED}


def registry_url(
    config: OrganismConfig, *, redis_url: str | None, required: bool = True
) -> str | None:
    """The Redis URL of the registry, in redis-py's form; the file wins over the environment."""
    url = config.organism.backend.redis_url or redis_url
    if url is None and required:
        raise ConfigurationError(
            config.source,
            [
                Problem(
                    "organism.backend.redis_url",
                    "no Redis is named: set THREADLOOM_REDIS_URL or this key, or start with "
                    "`threadloom up`, which brings its own",
                )
            ],
        )
    return url


def celery_url(redis_url: str) -> str:
    """The same Redis as Celery and kombu write it: they have a form of their own for sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    db = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={db}"
