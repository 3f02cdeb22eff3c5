"""Several messages to RabbitMQ in one go: all are written, then their confirmations are waited for.

py-amqp waits for the confirmation of each message before it writes the next one, which is a round
trip for every message. RabbitMQ confirms messages of a channel by numbers that count up, and says
"all up to this one" when it is behind; so it is enough to know the number of the first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp import Channel, spec
from amqp.exceptions import MessageNacked


class _Confirmations:
    """What RabbitMQ has confirmed of the messages that a channel has published since."""

    def __init__(self) -> None:
        self.published = 0
        self._first = 0
        #: the first number that is not known to be confirmed
        self._next = 0
        self._confirmed: set[int] = set()
        self._all_up_to = 0
        self.refused = False

    def ack(self, number: int, multiple: bool) -> None:
        """Called with each confirmation; nothing else is under way on this channel."""
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
    """Have what is published on a channel confirmed when this ends, instead of each by itself.

    Changes nothing for a channel that asks for no confirmations, or is not RabbitMQ's. Raises
    MessageNacked if one of the messages was refused, and what a broken connection raises.
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
            # It is waited for: its number is the batch's first, and it turns confirmations on
            # where the channel is new.
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
            # Also after an error: what is left would be taken for the next one's confirmation.
            while seen.are_missing:
                channel.wait([spec.Basic.Ack, spec.Basic.Nack])
        finally:
            channel.events["basic_ack"].discard(seen.ack)
            channel.events["basic_nack"].discard(seen.nack)
    if seen.refused:
        raise MessageNacked
