"""What a dead worker had in hand of a Redis broker, handed out again within seconds.

Redis has no acknowledgements: kombu keeps a message that a worker has taken in a hash and, by the
time of taking, in a sorted set, and hands it out again after the visibility timeout, which is an
hour unless the app says otherwise. For Celery's other tasks that time has to be longer than any
of them runs or waits, so it is left alone here.

So every worker moves the times of the listeners' messages that it holds on with each sweep, and
hands out again those whose time has stood still. A plain `send_task` that its worker had not begun
is in nobody else's knowledge. A delivery that the registry knows is found without this, mostly
sooner; its message is then skipped, and does not lie about for an hour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.worker.request import Request

from threadloom.routing import Organism

#: header of our own messages: the organism that published them
ORGANISM_HEADER = "threadloom_organism"
#: s after which a message whose time was not moved on is handed out again
STALE_S = 10.0
#: messages looked at in one sweep
_PAGE = 200


class Unacknowledged:
    """The messages for an organism's listeners that workers hold, as one worker sees them.

    Costs one command per sweep and one per message that came since: a message of somebody else
    is looked at once. Does nothing on brokers that hand out a lost connection's messages
    themselves. Methods raise what kombu's connection raises for a broker that does not answer.
    """

    def __init__(self, app: Celery, organism: Organism) -> None:
        self._app = app
        self._organism = organism
        self._connection: Any = None
        #: the time up to which everything that is left was looked at, and belongs to others
        self._looked_until = 0.0

    def close(self) -> None:
        """Forget the connection; the next call opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken, and is not needed any more
                connection.close()

    def sweep(self, held: Iterable[Request]) -> int:
        """Say that `held` are in hand here, hand out what nobody says so of; returns how many."""
        channel = self._channel()
        if channel is None:
            return 0
        now = time.time()
        tags = [request.message.delivery_tag for request in held]
        with channel.conn_or_acquire() as client:
            if tags:
                client.zadd(channel.unacked_index_key, dict.fromkeys(tags, now), xx=True)
            return self._hand_out(channel, client, now - STALE_S)

    def _channel(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_read()
        if str(self._connection.transport.driver_type) != "redis":
            return None
        return self._connection.default_channel

    def _hand_out(self, channel: Any, client: Any, stale_at: float) -> int:
        found = client.zrange(
            channel.unacked_index_key, f"({self._looked_until!r}", stale_at,
            byscore=True, offset=0, num=_PAGE, withscores=True,
        )  # fmt: skip
        restored = 0
        for tag, taken_at in found:
            raw = client.hget(channel.unacked_key, tag)
            if raw is not None and self._is_ours(raw):
                # kombu's own way, in one transaction: whoever comes second finds nothing.
                channel.qos.restore_by_tag(tag, client)
                restored += 1
            self._looked_until = taken_at
        return restored

    def _is_ours(self, raw: bytes) -> bool:
        """Whether it is a message for a listener, on a queue of the organism."""
        try:
            message, exchange, routing_key = json.loads(raw)
            headers = message["headers"]
            sender = headers.get(ORGANISM_HEADER, self._organism.name)
            known = headers["task"] in self._organism.listeners
        except (ValueError, KeyError, TypeError, AttributeError):
            return False  # nothing that a listener could be sent
        queues = {exchange, routing_key} & set(self._organism.queues)
        return known and sender == self._organism.name and bool(queues)
