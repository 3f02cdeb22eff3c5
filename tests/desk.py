"""How tests read what happened in one conversation, and wait until nothing more will."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from routing import ConversationError
from routing.records import Conversation
from tests.harness import WAIT_S, Deployment, eventually


class Story:
    """One conversation as it was: its records, its ending and its log."""

    def __init__(self, deployment: Deployment, conversation: str) -> None:
        self.conversation: Conversation = deployment.ended(conversation)
        self.threads = deployment.backend.threads(conversation)
        self._records = [r for r in deployment.records() if r["thread"] in self.threads]
        self.log = deployment.backend.log(conversation, limit=10_000)

    def records(self, event: str) -> list[dict[str, Any]]:
        """What handlers recorded of one event, in order."""
        return [r for r in self._records if r["event"] == event]

    def chain(self, thread: str) -> tuple[str, ...]:
        """Who called whom on the way to a thread."""
        return self.threads[thread].chain

    @property
    def notes(self) -> str:
        """What the operators are told."""
        return "\n".join(e.detail["text"] for e in self.log if e.event == "note")

    @property
    def messages(self) -> list[tuple[str, str, str]]:
        """Every message: from, to, payload."""
        found = [e.detail["delivery"] for e in self.log if e.event == "message"]
        return [(d.from_id, d.to, d.payload_name) for d in found]


def told(deployment: Deployment, to: str, payload: Any) -> tuple[Any, Story]:
    """Inject, wait, and return the value with the story."""
    result = deployment.inject(to, payload)
    value = result.get(timeout=WAIT_S)
    return value, Story(deployment, result.id)


def failed(deployment: Deployment, to: str, payload: Any) -> tuple[ConversationError, Story]:
    """Inject, wait, and return the error the injector got with the story."""
    result = deployment.inject(to, payload)
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    return caught.value, Story(deployment, result.id)


def settled(deployment: Deployment) -> None:
    """Return once nothing is pending: no message, no lease, no outbox, no release.

    What comes twice has come by then, since nothing is left that could publish it again.
    """
    broker = deployment.app.connection_for_read()
    with broker:
        channel = broker.default_channel

        def quiet() -> bool:
            waiting = sum(
                channel.client.llen(channel._q_for_pri(queue.name, priority))
                for queue in deployment.app.conf.task_queues
                for priority in channel.priority_steps
            )
            unacknowledged = channel.client.hlen(channel.unacked_key)
            return not (waiting or unacknowledged or deployment.backend.stats()["due"])

        eventually(quiet, what="everything settled")


def plain_app(deployment: Deployment) -> Celery:
    """A Celery app on the same broker that knows none of the listeners."""
    conf = deployment.app.conf
    return Celery(
        "elsewhere", broker=conf.broker_write_url, backend=conf.result_backend, set_as_current=False
    )


def close_app(app: Celery) -> None:
    """Close an app whose results may outlive the server.

    A result that is collected later unsubscribes, and would try to reach the server for that.
    """
    app.backend.result_consumer.subscribed_to.clear()
    app.backend.result_consumer.stop()
    app.close()
