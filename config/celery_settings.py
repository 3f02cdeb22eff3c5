"""The Celery settings an organism runs with, and why each is what it is.

The file's `celery` section wins over these. What delivery stands on is not among them: late
acknowledgement, rejection on loss, time limits and the serializer are set on the listeners'
tasks (`tasks.listener`), so that other tasks of the same app behave as Celery documents them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.models import OrganismConfig

#: how Celery's URLs call RabbitMQ
_AMQP_SCHEMES = ("amqp", "amqps", "pyamqp", "librabbitmq")

#: what an organism file may not change
FIXED: Mapping[str, Any] = {
    # Tasks run in workers, whatever a test setting says: eager mode has no broker to lose.
    "task_always_eager": False,
}

#: Celery's priorities run from 0 to 9
HIGHEST_PRIORITY = 9

DEFAULTS: Mapping[str, Any] = {
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
    problems = setting_faults(given)
    if problems:
        raise ConfigurationError(
            config.source,
            [Problem(f"organism.celery.{name}", message) for name, message in problems],
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
    own_queue = {"task_default_queue": config.organism.queue or config.organism.name}
    settings = {**DEFAULTS, **own_queue, **broker, **urls, **given, **FIXED}
    return {**settings, "broker_transport_options": options}


def setting_faults(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that no organism can run with, each with what to do about it."""
    faults = [
        (name, f"has to stay {value!r}; remove it")
        for name, value in FIXED.items()
        if settings.get(name, value) != value
    ]
    accepted = settings.get("accept_content")
    if accepted is not None and not {"json", "application/json"} & set(accepted):
        faults.append(("accept_content", "has to contain 'json', the form of listeners' messages"))
    if settings.get("task_protocol", 2) != 2:
        faults.append(("task_protocol", "has to stay 2, which carries a message's headers"))
    return faults


def _broker_settings(url: str | Sequence[str], config: OrganismConfig) -> Mapping[str, Any]:
    """What the kind of broker asks for."""
    if not is_rabbitmq(url):
        # Lists of our own of what is unacknowledged: in shared ones the workers of another app
        # would hand our messages out again after a visibility timeout of theirs.
        section = config.organism
        prefix = f"{section.backend.redis_prefix}{section.name}:unacked"
        own = {
            "unacked_key": prefix,
            "unacked_index_key": f"{prefix}_index",
            "unacked_mutex_key": f"{prefix}_mutex",
        }
        options = {**ON_REDIS["broker_transport_options"], **own}
        return {**ON_REDIS, "broker_transport_options": options}
    return ON_RABBITMQ


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


def registry_url_of(settings: Mapping[str, Any]) -> str | None:
    """The Redis of an app's own settings, in redis-py's form: its broker, else its results.

    None if neither is a single Redis server.
    """
    for name in ("broker_url", "result_backend"):
        url = settings.get(name)
        if not isinstance(url, str) or ";" in url:
            continue
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss"):
            return url
        if parts.scheme == "redis+socket":
            db = parse_qs(parts.query).get("virtual_host", ["0"])[0]
            return f"unix://{parts.path}?db={db}"
    return None
