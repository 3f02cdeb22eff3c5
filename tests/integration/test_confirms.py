"""Batches with confirmations, on a real RabbitMQ."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from amqp.exceptions import MessageNacked
from kombu import Connection, Producer, Queue

from tests.rabbit import Rabbit
from threadloom.tasks.confirms import confirmed_together

pytest_plugins = ["tests.broker_fixtures"]
pytestmark = pytest.mark.rabbitmq

MANY = 300


@pytest.fixture
def producer(rabbit: Rabbit) -> Iterator[Producer]:
    """A producer that waits for confirmations, in a virtual host of its own."""
    options = {"confirm_publish": True}
    with rabbit.virtual_host() as url, Connection(url, transport_options=options) as connection:
        yield Producer(connection.channel())


def a_queue(producer: Producer, **arguments: object) -> Queue:
    """A new queue, bound to this producer's channel."""
    made = Queue(f"q-{uuid.uuid4().hex}", queue_arguments=arguments)(producer.channel)
    made.declare()
    return made


def publish(producer: Producer, queue: Queue, count: int) -> None:
    """Publish this many messages."""
    for number in range(count):
        producer.publish(number, routing_key=queue.name)


def waiting(queue: Queue) -> int:
    """Return how many messages lie in the queue."""
    return int(queue.queue_declare(passive=True).message_count)


def test_all_are_written_before_the_second_is_waited_for(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent alone, each message waits for its own confirmation; in a batch only the first one
    waits before the next is written.
    """
    queue, channel = a_queue(producer), producer.channel
    happened: list[str] = []

    def noted(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            happened.append(what)
            return method(*args, **kwargs)

        return call

    monkeypatch.setattr(channel, "_basic_publish", noted("w", channel._basic_publish))
    monkeypatch.setattr(channel, "wait", noted("?", channel.wait))
    publish(producer, queue, 3)
    assert "".join(happened).replace("w?", "") in ("", "?"), happened  # one more turns them on
    for _ in range(2):
        happened.clear()
        with confirmed_together(channel):
            publish(producer, queue, MANY)
        assert "".join(happened).startswith("w?" + "w" * (MANY - 1))
        assert waiting(queue) % MANY == 3
    happened.clear()
    publish(producer, queue, 1)
    assert happened == ["w", "?"], "as it was before"


def test_a_channel_that_is_new_is_asked_for_confirmations(producer: Producer) -> None:
    """The channel is asked also if its first message belongs to a batch; an empty batch waits
    for nothing.
    """
    queue = a_queue(producer)
    with confirmed_together(producer.channel):
        pass
    with confirmed_together(producer.channel):
        publish(producer, queue, MANY)
    assert waiting(queue) == MANY


def test_one_that_is_refused_is_told(producer: Producer) -> None:
    """A full queue takes some messages and refuses the rest; later messages are published as
    before.
    """
    full, other = (
        a_queue(producer, **{"x-max-length": 5, "x-overflow": "reject-publish"}),
        a_queue(producer),
    )
    with pytest.raises(MessageNacked), confirmed_together(producer.channel):
        publish(producer, full, MANY)
    with pytest.raises(MessageNacked):
        publish(producer, full, 1)
    with confirmed_together(producer.channel):
        publish(producer, other, MANY)
    assert waiting(other) == MANY


def test_a_connection_that_breaks_is_told(producer: Producer, rabbit: Rabbit) -> None:
    """The connection breaks before any confirmation, so no message counts as published."""
    queue = a_queue(producer)
    connection = producer.connection
    errors = (*connection.connection_errors, *connection.channel_errors)

    def broken() -> None:
        with confirmed_together(producer.channel):
            publish(producer, queue, 2)
            rabbit.close_connections(connection.as_uri(include_password=True))
            publish(producer, queue, MANY)

    with pytest.raises(errors):
        broken()


def test_others_are_left_as_they_are() -> None:
    """A broker without confirmations publishes as usual."""
    with Connection("memory://") as connection:
        producer = Producer(connection.channel())
        queue = a_queue(producer)
        with confirmed_together(producer.channel):
            publish(producer, queue, 2)
        assert waiting(queue) == 2
