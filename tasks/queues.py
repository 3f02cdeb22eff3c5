"""The queues of an organism: the same names for publishing, consuming and monitoring.

A listener's queue is the one that its `queue` names, else the one that the app's `task_routes`
give its task, else the organism's own. `with_routes` decides this once, when the organism joins an
app; from then on all code asks `Organism.queue_of`.

The app's settings are not changed. The organism's queues are added to those that the app's workers
consume from by default; a worker that is started with `-Q` serves exactly the queues named there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

from celery import Celery
from celery.app.annotations import resolve_all
from kombu import Queue

from threadloom.config import ConfigurationError, Problem
from threadloom.config.celery_settings import HIGHEST_PRIORITY, is_rabbitmq
from threadloom.routing import Listener, Organism


def with_routes(organism: Organism, app: Celery) -> Organism:
    """Return the organism with the queues that the app's `task_routes` give its listeners.

    Raises ConfigurationError for a route that names an exchange and no queue.
    """
    routed = {name: _routed(entry, organism, app) for name, entry in organism.listeners.items()}
    return replace(organism, listeners=MappingProxyType(routed))


def with_rates(organism: Organism, app: Celery) -> Organism:
    """Return the organism with the rate limits that the app's settings give its listeners.

    A listener's own `rate_limit` is first, then what `task_annotations` say of it or of every
    task, then `task_default_rate_limit`. What has a limit always goes through its queue, where
    the workers' main processes keep it.
    """
    limited = {
        name: entry if entry.rate_limit is not None else replace(entry, rate_limit=rate)
        for name, entry in organism.listeners.items()
        for rate in [_rate_given(name, app)]
    }
    return replace(organism, listeners=MappingProxyType(limited))


def _rate_given(name: str, app: Celery) -> str | None:
    task = SimpleNamespace(name=name)
    found: Any = resolve_all(app.annotations, task)
    for said in found:
        if said.get("rate_limit") is not None:
            return str(said["rate_limit"])
    default = app.conf.task_default_rate_limit
    return None if default is None else str(default)


def _routed(listener: Listener, organism: Organism, app: Celery) -> Listener:
    if listener.queue is not None:
        return listener
    route: Any = app.amqp.router.lookup_route(listener.name, (), {}, {})
    if not route:
        return listener
    queue = route.get("queue")
    if queue is None:
        text = f"sends {listener.name!r} to an exchange; name the queue to serve it from"
        raise ConfigurationError(str(app.main), [Problem("task_routes", text)])
    name = str(getattr(queue, "name", queue))
    return listener if name == organism.own_queue else replace(listener, queue=name)


def add_queues(organism: Organism, app: Celery, *, kept: Collection[str] = ()) -> None:
    """Make the app's workers consume from the organism's queues, unless started with `-Q`.

    `kept`: queues that are the app's own, whose declaration is not changed.
    """
    known: Any = app.amqp.queues
    for name in organism.queues:
        queue = known[name] if name in known else known.new_missing(name)
        if name not in kept and organism.depth_first and is_rabbitmq(broker_url(app)):
            # RabbitMQ supports priorities only in queues declared with them, and refuses to
            # declare the same queue without them: every sender must declare it like this.
            queue.max_priority = HIGHEST_PRIORITY
        known.select_add(queue)


def broker_url(app: Celery) -> str | list[str]:
    """Return the URL, or URLs, of the broker that the app publishes to."""
    url: str | list[str] | None = app.conf.broker_write_url
    return url or "amqp://"  # Celery's own default


def queues_of(organism: Organism, app: Celery) -> list[Queue]:
    """Return the organism's queues as the app declares them."""
    known: Any = app.amqp.queues
    return [known[name] for name in organism.queues]


def served_queues(organism: Organism, app: Celery) -> set[str]:
    """Return the names of the organism's queues that this worker consumes from."""
    return set(app.amqp.queues.consume_from) & set(organism.queues)
