"""Redelivery, within seconds, of the messages that a dead worker held on a Redis broker.

Redis has no acknowledgements. kombu keeps a message that a worker has received in a hash and, with
the time of receipt, in a sorted set, and redelivers it after the visibility timeout, one hour by
default. For Celery's other tasks that timeout must be longer than any of them runs or waits, so it
is not changed here.

Instead, in each sweep every worker updates the times of the listeners' messages that it holds, by
Redis's clock, and redelivers messages whose time was not updated. This is the only way to recover a
plain `send_task` message that its worker had not begun, because the registry does not know it yet.
A delivery in the registry is recovered without this, mostly sooner; its message is then redelivered
and skipped instead of remaining in the hash for an hour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.worker.request import Request

from threadloom.routing import Organism

#: header of our own messages: the organism that published them
ORGANISM_HEADER = "threadloom_organism"
#: s after which a message whose time was not updated is redelivered
STALE_S = 10.0
#: most messages examined in one sweep
_PAGE = 200


class Unacknowledged:
    """Redelivers the unacknowledged messages of dead workers for one organism's listeners.

    A sweep costs up to three commands, and one for each message that became stale since the last
    sweep. A worker redelivers nothing until it has updated its own messages without a gap for as
    long as it takes to become stale: after an outage the others' messages look stale, too. Does
    nothing on brokers that themselves redeliver the messages of a lost connection. If the broker
    does not answer, the methods raise the errors of kombu's connection.
    """

    def __init__(self, app: Celery, organism: Organism, *, stale_s: float = STALE_S) -> None:
        self._app = app
        self._organism = organism
        self._stale_s = stale_s
        self._connection: Any = None
        #: all messages with an earlier time were examined; those left are not ours
        self._looked_until = 0.0
        #: the messages with exactly that time that were examined and are not ours
        self._looked_at: set[bytes] = set()
        #: s since 1970, by Redis's clock: the first and the last update without a gap between
        self._updating_since = self._updated_at = 0.0

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken and is not needed any more
                connection.close()

    def sweep(self, held: Iterable[Request]) -> int:
        """Update the times of `held`, redeliver stale messages, and return how many."""
        channel = self._channel()
        if channel is None:
            return 0
        tags = [request.message.delivery_tag for request in held]
        with channel.conn_or_acquire() as client:
            seconds, micros = client.time()
            now = seconds + micros / 1_000_000
            if tags:
                client.zadd(channel.unacked_index_key, dict.fromkeys(tags, now), xx=True)
            if now - self._updated_at > self._stale_s / 2:  # this worker could not; could others?
                self._updating_since = now
            self._updated_at = now
            if now - self._updating_since < self._stale_s:
                return 0
            return self._redeliver(channel, client, now - self._stale_s)

    def _channel(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_read()
        if str(self._connection.transport.driver_type) != "redis":
            return None
        return self._connection.default_channel

    def _redeliver(self, channel: Any, client: Any, stale_at: float) -> int:
        found = client.zrange(
            channel.unacked_index_key, self._looked_until, stale_at,
            byscore=True, offset=0, num=_PAGE + len(self._looked_at), withscores=True,
        )  # fmt: skip
        redelivered = 0
        for tag, taken_at in found:
            if tag in self._looked_at:
                continue
            if taken_at > self._looked_until:
                self._looked_until, self._looked_at = taken_at, set()
            raw = client.hget(channel.unacked_key, tag)
            if raw is not None and self._is_ours(raw):
                # kombu's own transaction: if two workers do this, the second finds nothing.
                channel.qos.restore_by_tag(tag, client)
                redelivered += 1
            else:
                self._looked_at.add(tag)
        return redelivered

    def _is_ours(self, raw: bytes) -> bool:
        """Whether this is a message for a listener, on a queue of the organism."""
        try:
            message, exchange, routing_key = json.loads(raw)
            headers = message["headers"]
            sender = headers.get(ORGANISM_HEADER, self._organism.name)
            known = headers["task"] in self._organism.listeners
            queues = {exchange, routing_key} & set(self._organism.queues)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False  # not a message in Celery's format, so not for a listener
        return known and sender == self._organism.name and bool(queues)
