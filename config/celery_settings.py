"""The Celery settings an organism runs with, and why each is what it is.

The file's `celery` section wins over these, except for what correctness stands on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.models import OrganismConfig

#: Celery's own default queue, so that a plain `send_task` from any app finds the listeners
DEFAULT_QUEUE = "celery"
#: how Celery's URLs call RabbitMQ
_AMQP_SCHEMES = ("amqp", "amqps", "pyamqp", "librabbitmq")

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

#: Celery's priorities run from 0 to 9
HIGHEST_PRIORITY = 9

DEFAULTS: Mapping[str, Any] = {
    "task_default_queue": DEFAULT_QUEUE,
    # As many messages as processes, those that run included, since they are acknowledged late: a
    # long handler must not sit on messages that another worker has a free process for.
    "worker_prefetch_multiplier": 1,
    # Flower draws its picture from these events. The one about sending would cost another round
    # trip per message, and Flower shows nothing from it that the others lack.
    "worker_send_task_events": True,
    # A worker may be started before its broker, and outlives a broker's restart.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # Nor does a broker that refuses something end it: RabbitMQ closes the channel of a worker that
    # has not acknowledged for 30 minutes (`consumer_timeout`), which a long handler may take, and
    # a Redis may be out of memory or a replica for a while.
    "broker_channel_error_retry": True,
    # Celery's own ends the worker when the broker goes away in the middle of something.
    "worker_consumer": "threadloom.tasks.consumer:PatientConsumer",
    # Handlers that run when a connection breaks go on: their commit does not need the broker.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Only the injected task has a result, and whoever injected it reads it within a day.
    "result_expires": 86_400,
    # A publisher gives up within seconds, whether it is a worker or somebody's web request: what
    # it has not published stays in the outbox, and the sweep publishes it.
    "broker_connection_timeout": 2.0,
    # Results lie on Redis whatever the broker is. Celery's 120 s would keep a process that long
    # at a server that is silent; the result is then stored once more, on a new connection.
    "redis_socket_timeout": 5.0,
    "redis_socket_connect_timeout": 5.0,
    "redis_retry_on_timeout": True,
}

#: seconds until a broker that is connected and says nothing is taken for lost
_SILENCE_S = 5

ON_REDIS: Mapping[str, Any] = {
    # redis-py replaces a connection that has broken by itself.
    "task_publish_retry_policy": {"max_retries": 0},
    "broker_transport_options": {
        # Seconds after which Redis hands an unacknowledged message out again. The registry
        # recovers what it knows within seconds; this is for a plain `send_task` whose worker
        # died before it began. Celery's hour is for tasks that must not run twice: what is
        # handed out again here, while its handler still works, is skipped.
        "visibility_timeout": 60,
        # Look for such messages every 5 s, not every 100, and not 300 s after a worker died
        # looking.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 10,
        # Without these a publisher waits for ever for a server whose machine is gone …
        "socket_timeout": _SILENCE_S,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # … and a worker's pending BRPOP (1 s) is found overdue within 1 + 2 * 5 s, not 51.
        "health_check_interval": 5,
    },
}

ON_RABBITMQ: Mapping[str, Any] = {
    # Seconds. A worker's connections that were silent for twice as long are opened anew, and
    # RabbitMQ does the same on its side. It advises against less: a busy machine is not a dead one.
    "broker_heartbeat": 5,
    # Once, at once, on a new connection: the one at hand may have broken since it was last used.
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0},
    "broker_transport_options": {
        # AMQP says nothing to a publisher: a message for a connection that just broke, or one that
        # the broker refuses, would count as published, and its outbox would be cleared.
        "confirm_publish": True,
        # Only a worker's own connections have heartbeats. A publisher that waits for a
        # confirmation, for ever when the broker's memory or disk alarm is on, gives up.
        "read_timeout": _SILENCE_S,
        "write_timeout": _SILENCE_S,
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
    broker = _broker_settings({**urls, **given}["broker_url"], config)
    options = {
        **broker["broker_transport_options"],
        **given.get("broker_transport_options", {}),
    }
    return {**DEFAULTS, **broker, **urls, **given, "broker_transport_options": options, **FIXED}


def _broker_settings(url: str | Sequence[str], config: OrganismConfig) -> Mapping[str, Any]:
    """What the kind of broker asks for."""
    if not is_rabbitmq(url):
        # Our own lists of what is unacknowledged: in shared ones our workers would hand out the
        # messages of other apps' long tasks after our visibility timeout.
        section = config.organism
        prefix = f"{section.backend.redis_prefix}{section.name}:unacked"
        own = {
            "unacked_key": prefix,
            "unacked_index_key": f"{prefix}_index",
            "unacked_mutex_key": f"{prefix}_mutex",
        }
        options = {**ON_REDIS["broker_transport_options"], **own}
        return {**ON_REDIS, "broker_transport_options": options}
    if config.organism.thread_scheduling != "depth-first":
        return ON_RABBITMQ
    # RabbitMQ knows priorities only in queues that were declared with them, and takes the same
    # queue without for another one: every app that sends here needs this setting too.
    return {**ON_RABBITMQ, "task_queue_max_priority": HIGHEST_PRIORITY}


def is_rabbitmq(url: str | Sequence[str]) -> bool:
    """Whether Celery speaks AMQP to the broker at `url`, or to the first one of several."""
    first = url if isinstance(url, str) else url[0]
    return urlsplit(first.partition(";")[0]).scheme in _AMQP_SCHEMES


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
