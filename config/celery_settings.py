"""The Celery settings an organism runs with, and the reason for each value.

The file's `celery` section overrides these. The settings that delivery depends on are not among
them: late acknowledgement, rejection on loss, time limits and the serializer are set on the
listeners' tasks (`tasks.listener`), so that other tasks of the same app behave as Celery documents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

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
    names = {entry.name for entry in config.listeners}
    problems = [*setting_faults(given, names), *_unused_settings(given)]
    if problems:
        raise ConfigurationError(
            config.source,
            [Problem(f"organism.celery.{name}", message) for name, message in problems],
        )
    url = registry_url(config, redis_url=redis_url, required="broker_url" not in given)
    given |= {name: _verified(given[name]) for name in _URLS if isinstance(given.get(name), str)}
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
    # Seconds. A result is kept as long as the conversation that it is the end of.
    results = {"result_expires": config.organism.backend.redis_ttl}
    settings = {**DEFAULTS, **results, **own_queue, **broker, **urls, **given, **FIXED}
    return {**settings, "broker_transport_options": options}


def setting_faults(
    settings: Mapping[str, Any], listeners: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Return (name, remedy) for each setting whose value no organism can run with.

    `listeners`: the organism's, whose tasks' attributes are not for `task_annotations` to say.
    """
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
    if str(settings.get("result_backend") or "").startswith("rpc:"):
        text = (
            "rpc:// gives a result only to the connection that sent the task, and an injector "
            "is not that; name a Redis, for example the registry's"
        )
        faults.append(("result_backend", text))
    faults += [(name, remedy) for name, remedy in _REFUSED.items() if settings.get(name)]
    if settings.get("task_default_queue_type") not in (None, "classic"):
        text = (
            "listeners' messages lie in classic queues, which need not survive a broker since the "
            "registry publishes them again; remove it, and give other tasks' queues their type in "
            "an app of their own"
        )
        faults.append(("task_default_queue_type", text))
    return [*faults, *_annotation_faults(settings.get("task_annotations"), listeners)]


#: settings that a listener's delivery cannot keep, and what to use instead
_REFUSED: Mapping[str, str] = {
    "task_soft_time_limit": (
        "would interrupt a delivery in the middle of its commit; a listener's limit is its "
        "`timeout_seconds`, and a plain task takes `soft_time_limit` of its own"
    ),
    "task_inherit_parent_priority": (
        "is not kept from hop to hop of a conversation; say `thread_scheduling: depth-first`, "
        "which lets conversations that have begun go before new ones, or give the urgent "
        "listeners a `queue` of their own"
    ),
}

#: settings of an organism file that its listeners would not have, and what to use instead
_UNUSED: Mapping[str, str] = {
    "task_time_limit": (
        "is not a listener's, whose limit is its `timeout_seconds`; give a plain task `time_limit`"
    ),
    "task_queues": (
        "names no queue of a listener; say `queue` in the organism section or at a listener, and "
        "start a worker with `-Q` for what it is to serve"
    ),
}


def _unused_settings(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, remedy) for name, remedy in _UNUSED.items() if given.get(name)]


def _annotation_faults(
    annotations: object, listeners: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield the faults of what `task_annotations` say of listeners."""
    entries = annotations if isinstance(annotations, list | tuple) else [annotations]
    for entry in entries:
        for name, said in entry.items() if isinstance(entry, dict) else ():
            for key in said if isinstance(said, dict) and name in listeners else ():
                if key not in _KEPT:
                    remedy = _OWN_KEYS.get(key, "a listener's other keys in the organism file")
                    text = f"is not kept for a listener; use {remedy}"
                    yield f"task_annotations.{name}.{key}", text


#: what `task_annotations` may say of a listener: its rate, and the pool's hard limit, at which the
#: process that runs it is ended
_KEPT = ("rate_limit", "time_limit")
#: attributes of a Celery task, and the key of a listener that says the same
_OWN_KEYS: Mapping[str, str] = {
    "soft_time_limit": "`timeout_seconds`",
    "max_retries": "`max_retries`",
    "default_retry_delay": "`retry_backoff`",
    "queue": "`queue`",
    "priority": "`thread_scheduling: depth-first`",
}


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
    return _in_redis_pys_words(url) if url else url


def celery_url(redis_url: str) -> str:
    """Return a redis-py URL in the form of Celery and kombu, which differs for Unix sockets."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return _verified(redis_url)
    query = dict(parse_qsl(parts.query))
    db = query.get("db", "0")
    # redis-py reads both of them from either place.
    name = query.get("username") or unquote(parts.username or "")
    password = query.get("password") or unquote(parts.password or "")
    user = f"{quote(name, safe='')}:{quote(password, safe='')}@" if name or password else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={db}"


#: settings that hold a URL which Celery opens
_URLS = ("broker_url", "result_backend", "broker_read_url", "broker_write_url")
_CHECKS = "ssl_cert_reqs"


def _verified(url: str) -> str:
    """Return a URL of one Redis by TLS that says that the server's certificate is checked.

    Where a URL does not say, redis-py checks it, kombu does not, and Celery refuses the URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss" or ";" in url or _CHECKS in parse_qs(parts.query):
        return url
    query = urlencode([*parse_qsl(parts.query), (_CHECKS, "required")])
    return parts._replace(query=query).geturl()


def _in_redis_pys_words(url: str) -> str:
    """Return a Redis URL whose way to check a certificate is spelled as redis-py knows it.

    Celery's documentation spells it `CERT_REQUIRED`, where redis-py takes `required`.
    """
    parts = urlsplit(url)
    if f"{_CHECKS}=CERT_" not in parts.query:
        return url
    query = [
        (name, value.removeprefix("CERT_").lower() if name == _CHECKS else value)
        for name, value in parse_qsl(parts.query)
    ]
    return parts._replace(query=urlencode(query)).geturl()


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
            user, at, _ = parts.netloc.rpartition("@")
            return f"unix://{user}{at}{parts.path}?db={db}"
    return None
