"""Task events of the deliveries that a turn goes on with: each shows as a task of its own.

Celery's main process sends the events of the tasks that it hands to its pool. What a pool process
goes on with it does not see, so the pool process sends the same events for it: received, started,
succeeded, with parent and root. They wait for the end of the turn, at most a slice.
"""

from __future__ import annotations

import logging
import os
import time
from functools import cached_property
from typing import Any, NamedTuple

from celery import Celery
from celery.events.event import get_exchange
from celery.utils.time import utcoffset
from kombu.exceptions import OperationalError

from threadloom.routing.records import Delivery

logger = logging.getLogger(__name__)

#: number of recorded hops at which their events are sent at once
_BATCH = 100


class _Hop(NamedTuple):
    delivery: Delivery
    root_id: str
    began: float
    ended: float
    summary: str


class HopEvents:
    """Records and sends the task events of one pool process."""

    def __init__(self, app: Celery, *, hostname: str | None) -> None:
        self._app = app
        self._hostname = hostname
        self._hops: list[_Hop] = []

    def record(self, delivery: Delivery, root_id: str, began: float, summary: str) -> None:
        """Record a delivery that has just ended; `began` in s since 1970."""
        self._hops.append(_Hop(delivery, root_id, began, time.time(), summary))
        if len(self._hops) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the recorded events; if the broker does not answer, they are lost and logged."""
        if not self._hops:
            return
        hops, self._hops = self._hops, []
        try:
            self._publish(self._events(hops))
        except self._refusals as exc:
            logger.warning("events.lost hops=%d reason=%r", len(hops), exc)

    @cached_property
    def _refusals(self) -> tuple[type[BaseException], ...]:
        broker = self._app.connection_for_write()  # never opened, only asked for its error classes
        return (OperationalError, *broker.connection_errors, *broker.channel_errors)

    def _events(self, hops: list[_Hop]) -> list[dict[str, Any]]:
        own = {"hostname": self._hostname, "pid": os.getpid(), "utcoffset": utcoffset()}
        clock = self._app.clock.forward  # type: ignore[attr-defined]  # missing in the stubs
        events: list[dict[str, Any]] = []
        for hop in hops:
            task = {"uuid": hop.delivery.id, **own}
            events += (
                {
                    "type": "task-received", "timestamp": hop.began, "clock": clock(), **task,
                    "name": hop.delivery.to, "args": message_summary(hop.delivery),
                    "kwargs": "{}", "root_id": hop.root_id, "parent_id": hop.delivery.parent_id,
                    "retries": 0,
                },
                {"type": "task-started", "timestamp": hop.began, "clock": clock(), **task},
                {
                    "type": "task-succeeded", "timestamp": hop.ended, "clock": clock(), **task,
                    "result": repr(hop.summary), "runtime": hop.ended - hop.began,
                },
            )  # fmt: skip
        return events

    def _publish(self, events: list[dict[str, Any]]) -> None:
        with self._app.amqp.producer_pool.acquire(block=True) as producer:
            exchange = get_exchange(producer.connection, name=self._app.conf.event_exchange)
            producer.publish(
                events,
                routing_key="task.multi",
                exchange=exchange.name,
                declare=[exchange],
                serializer=self._app.conf.event_serializer,
                headers={"hostname": self._hostname},
                delivery_mode=1,
                retry=False,
            )


def message_summary(message: Any) -> str:
    """Return the line that Flower shows for a `Delivery` or a `Publication`."""
    return f"{message.from_id} → {message.to} {message.payload_name}"
