"""Helpers that read what happened in one conversation, and wait until nothing more will happen."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue

from tests.harness import WAIT_S, Deployment, eventually
from threadloom.routing import ConversationError
from threadloom.routing.records import Conversation


class Story:
    """The records, the ending and the log of one conversation."""

    def __init__(self, deployment: Deployment, conversation_id: str) -> None:
        self.conversation: Conversation = deployment.ended(conversation_id)
        self.threads = deployment.backend.threads(conversation_id)
        self._records = [r for r in deployment.records() if r["thread"] in self.threads]
        self.log = deployment.backend.log(conversation_id, limit=10_000)

    def records(self, event: str) -> list[dict[str, Any]]:
        """Return what handlers recorded of one event, in order."""
        return [r for r in self._records if r["event"] == event]

    def chain(self, thread_id: str) -> tuple[str, ...]:
        """Return the names on the way from the injector to a thread."""
        return self.threads[thread_id].chain

    @property
    def notes(self) -> str:
        """Return the notes for operators."""
        return "\n".join(e.detail["text"] for e in self.log if e.event == "note")

    @property
    def messages(self) -> list[tuple[str, str, str]]:
        """Return every message as sender, receiver and payload."""
        found = [e.detail["delivery"] for e in self.log if e.event == "message"]
        return [(d.from_id, d.to, d.payload_name) for d in found]


def told(deployment: Deployment, to: str, payload: Any) -> tuple[Any, Story]:
    """Inject, wait, and return the value with the story."""
    result = deployment.inject(to, payload)
    value = result.get(timeout=WAIT_S)
    return value, Story(deployment, result.id)


def failed(deployment: Deployment, to: str, payload: Any) -> tuple[ConversationError, Story]:
    """Inject, wait, and return the error that the injector got, with the story."""
    result = deployment.inject(to, payload)
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    return caught.value, Story(deployment, result.id)


def settled(deployment: Deployment) -> None:
    """Return once nothing is pending: no message, no lease, no outbox, no release.

    Any duplicate has arrived by then, since nothing is left that could publish again.
    """
    with deployment.app.connection_for_read() as broker:
        taken = _taken_from_redis if broker.transport.driver_type == "redis" else _taken_by_workers

        def quiet() -> bool:
            lying = any(_waiting(broker, queue) for queue in deployment.queues())
            return not (lying or deployment.backend.stats()["due"] or taken(deployment, broker))

        eventually(quiet, what="everything settled")


def waiting(deployment: Deployment, queue: str) -> int:
    """Return how many messages lie in a queue of the deployment."""
    with deployment.app.connection_for_read() as broker:
        return _waiting(broker, deployment.app.amqp.queues[queue])


def _waiting(broker: Connection, queue: Queue) -> int:
    with broker.channel() as channel:
        try:
            return int(queue(channel).queue_declare(passive=True).message_count)
        except broker.channel_errors:
            return 0  # the queue was never used


def _taken_from_redis(deployment: Deployment, broker: Connection) -> int:
    """Return how many messages are unacknowledged, in any process."""
    channel: Any = broker.default_channel
    return int(channel.client.hlen(channel.unacked_key))


def _taken_by_workers(deployment: Deployment, broker: Connection) -> int:
    """Return the same as far as this deployment's workers know, because RabbitMQ does not tell
    it over AMQP.
    """
    names = [worker.name for worker in deployment.workers if worker.process.poll() is None]
    # Uses the open connection, because an idle one of the app's pool may have been closed.
    inspect = deployment.app.control.inspect(names, timeout=WAIT_S, connection=broker)
    looks = [inspect.reserved, inspect.active] if names else []
    return sum(len(found) for look in looks for found in (look() or {}).values())


def plain_app(deployment: Deployment) -> Celery:
    """A Celery app on the same broker that knows none of the listeners."""
    conf = deployment.app.conf
    app = Celery(
        "elsewhere", broker=conf.broker_write_url, backend=conf.result_backend, set_as_current=False
    )
    app.conf.task_default_queue = deployment.queue  # as a sender says `queue="desk"`
    # RabbitMQ refuses to declare a queue again with other arguments.
    [declared] = [q for q in deployment.queues() if q.name == deployment.queue]
    app.conf.task_queue_max_priority = declared.max_priority
    return app


def close_app(app: Celery) -> None:
    """Close an app whose results may outlive the server.

    A result that is collected later unsubscribes, and would try to reach the server for that.
    """
    app.backend.result_consumer.subscribed_to.clear()
    app.backend.result_consumer.stop()
    app.close()
