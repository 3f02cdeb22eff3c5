"""The Celery settings an organism runs with, and the reason for each value.

The file's `celery` section overrides these. The settings that delivery depends on are not among
them: late acknowledgement, rejection on loss, time limits and the serializer are set on the
listeners' tasks (`tasks.listener`), so that other tasks of the same app behave as Celery documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.models import OrganismConfig
from threadloom.config.urls import REDIS_SCHEMES, url_fault, urls_fault

#: the URL schemes under which Celery reaches RabbitMQ
_AMQP_SCHEMES = ("amqp", "amqps", "pyamqp", "librabbitmq")

#: settings that an organism file may not change
FIXED: Mapping[str, Any] = {
    # In eager mode a task runs in the sender's process, without a broker: nothing would be durable.
    "task_always_eager": False,
}

#: Celery's priorities run from 0 to 9
HIGHEST_PRIORITY = 9

DEFAULTS: Mapping[str, Any] = {
    # A worker holds as many unacknowledged messages as it has processes. With a higher prefetch,
    # messages would wait behind a long handler while another worker has a free process.
    "worker_prefetch_multiplier": 1,
    # Flower needs these events. `task_send_sent_event` stays off: it would cost another round trip
    # per message, and Flower shows nothing from it that the other events lack.
    "worker_send_task_events": True,
    # A worker may be started before its broker, and outlives a broker's restart.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A worker also outlives a channel error. RabbitMQ closes the channel of a worker that has not
    # acknowledged a message for 30 minutes (`consumer_timeout`), which a long handler may exceed,
    # and a Redis may be out of memory or be a replica for a while.
    "broker_channel_error_retry": True,
    # Handlers keep running when the connection breaks: their commit does not need the broker.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Seconds. Only the injected task has a result, and its sender reads it within a day.
    "result_expires": 86_400,
    # Seconds. A publisher (a worker or a web request) gives up soon: a message that was not
    # published stays in the outbox, and the sweep publishes it.
    "broker_connection_timeout": 2.0,
    # Seconds. Results are stored on Redis with either broker. With Celery's default of 120 s, a
    # silent server would block a process that long. After a timeout the result is stored once
    # more, on a new connection.
    "redis_socket_timeout": 5.0,
    "redis_socket_connect_timeout": 5.0,
    "redis_retry_on_timeout": True,
}

#: seconds of silence after which a connected broker counts as lost
_SILENCE_S = 5

ON_REDIS: Mapping[str, Any] = {
    # redis-py itself replaces a broken connection.
    "task_publish_retry_policy": {"max_retries": 0},
    "broker_transport_options": {
        # Without these, a publisher waits forever for a server whose machine is gone.
        "socket_timeout": _SILENCE_S,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # A worker finds its pending BRPOP (1 s) overdue within 1 + 2 * 5 s instead of 51 s.
        "health_check_interval": 5,
    },
}

ON_RABBITMQ: Mapping[str, Any] = {
    # Seconds. A worker reopens a connection that was silent for twice as long, and RabbitMQ closes
    # it on its side. RabbitMQ advises against less: a busy machine would count as dead.
    "broker_heartbeat": 5,
    # One immediate retry on a new connection: the pooled one may have broken since its last use.
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0},
    "broker_transport_options": {
        # Without confirms, AMQP reports nothing to a publisher: a message sent on a connection that
        # just broke, or refused by the broker, would count as published and leave the outbox.
        "confirm_publish": True,
        # Only a worker's own connections have heartbeats. Without a timeout, a publisher would wait
        # forever for a confirmation while the broker's memory or disk alarm is on.
        "read_timeout": _SILENCE_S,
        "write_timeout": _SILENCE_S,
    },
}


def celery_settings(config: OrganismConfig, *, redis_url: str | None) -> dict[str, Any]:
    """Return the settings for `app.conf`.

    `redis_url` is the Redis of the environment (`THREADLOOM_REDIS_URL`); the file's
    `backend.redis_url` and `celery.broker_url` override it. Raises ConfigurationError when no
    broker is named anywhere, or when the file changes a setting that delivery depends on.
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
    """Return (name, remedy) for each setting whose value no organism can run with."""
    faults = [
        (name, f"has to stay {value!r}; remove it")
        for name, value in FIXED.items()
        if settings.get(name, value) != value
    ]
    accepted = settings.get("accept_content")
    if accepted is not None and not {"json", "application/json"} & set(accepted):
        faults.append(("accept_content", "has to contain 'json', the form of listeners' messages"))
    for name in ("broker_url", "broker_read_url", "broker_write_url", "result_backend"):
        if fault := urls_fault(settings.get(name)):
            faults.append((name, fault))
    if settings.get("task_protocol", 2) != 2:
        faults.append(("task_protocol", "has to stay 2, which carries a message's headers"))
    return faults


def _broker_settings(url: str | Sequence[str], config: OrganismConfig) -> Mapping[str, Any]:
    """Return the settings for the kind of broker at `url`."""
    if not is_rabbitmq(url):
        # The organism keeps its unacknowledged messages under keys of its own. Under shared keys,
        # another app's workers would redeliver our messages after their visibility timeout.
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
    """Return the registry's Redis URL in redis-py's form; the file overrides the environment."""
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
    if url is not None and (fault := url_fault(url, REDIS_SCHEMES)):
        place = "organism.backend.redis_url"
        if not config.organism.backend.redis_url:
            place = "THREADLOOM_REDIS_URL"
        raise ConfigurationError(config.source, [Problem(place, fault)])
    return url


def celery_url(redis_url: str) -> str:
    """Return a redis-py URL in the form of Celery and kombu, which differs for Unix sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    db = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={db}"


def registry_url_of(settings: Mapping[str, Any]) -> str | None:
    """Return the Redis URL that an app uses as broker, else as result backend; redis-py's form.

    None if neither of the two is a single Redis server.
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
