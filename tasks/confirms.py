"""Batched publisher confirms: write several messages to RabbitMQ, then await all confirmations.

py-amqp waits for the confirmation of each message before it writes the next one, which costs a
round trip per message. RabbitMQ confirms a channel's messages by ascending numbers, singly or with
"all up to this number"; so it is enough to know the number of the batch's first message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp import Channel, spec
from amqp.exceptions import MessageNacked


class _Confirmations:
    """The confirmations that RabbitMQ has sent for the messages of one batch."""

    def __init__(self) -> None:
        self.published = 0
        self._first = 0
        #: the first number that is not known to be confirmed
        self._next = 0
        self._confirmed: set[int] = set()
        self._all_up_to = 0
        self.refused = False

    def ack(self, number: int, multiple: bool) -> None:
        """Record a confirmation; the channel carries no other unconfirmed messages."""
        if not self._first:
            self._first = self._next = number
        if multiple:
            self._all_up_to = max(self._all_up_to, number)
        else:
            self._confirmed.add(number)

    def nack(self, number: int, multiple: bool) -> None:
        self.refused = True
        self.ack(number, multiple)

    @property
    def are_missing(self) -> bool:
        while self._next <= self._all_up_to or self._next in self._confirmed:
            self._next += 1
        return self._first > 0 and self._next < self._first + self.published


@contextmanager
def confirmed_together(channel: Any) -> Iterator[None]:
    """Await the confirmations of all messages published in the body once, when the body ends.

    Has no effect on a channel without confirms or of another broker. Raises MessageNacked if
    RabbitMQ refused one of the messages, and the connection's errors if it breaks.
    """
    asks = isinstance(channel, Channel) and channel.connection.confirm_publish
    if not asks:
        yield
        return
    seen = _Confirmations()
    publish_and_wait = channel.basic_publish

    def publish(*args: Any, **kwargs: Any) -> Any:
        seen.published += 1
        if seen.published == 1:
            # The first message is confirmed at once: this gives the batch's first number, and
            # turns confirms on if the channel is new.
            return publish_and_wait(*args, **kwargs)
        return channel._basic_publish(*args, **kwargs)

    channel.events["basic_ack"].add(seen.ack)
    channel.events["basic_nack"].add(seen.nack)
    channel.basic_publish = publish
    try:
        yield
    finally:
        channel.basic_publish = publish_and_wait
        try:
            # Also after an error: a leftover confirmation would count for the next batch.
            while seen.are_missing:
                channel.wait([spec.Basic.Ack, spec.Basic.Nack])
        finally:
            channel.events["basic_ack"].discard(seen.ack)
            channel.events["basic_nack"].discard(seen.nack)
    if seen.refused:
        raise MessageNacked
