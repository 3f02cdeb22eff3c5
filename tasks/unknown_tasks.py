"""A bootstep for messages whose task this worker does not know, which Celery drops.

Two kinds of them are not to be dropped. A delivery of this organism's registry may be for a
listener that was removed: then its caller gets an error. And in a rolling deploy any message may be
for a listener that only newer workers know: then such a worker gets it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps

from threadloom.config import RegistryUnavailableError
from threadloom.primitives import BUFFER
from threadloom.tasks.recovery import processes_of
from threadloom.tasks.request import is_of_another, is_ours
from threadloom.tasks.runtime import runtime_of

logger = logging.getLogger(__name__)

#: s for which a message is handed back, because another worker may know its listener
PATIENCE_S = 10.0
#: s between its arrival and its return to the queue
_PAUSE_S = 0.5
#: a listener of every organism: its task performs whatever delivery a message names
_STAND_IN = BUFFER


class UnknownTasks(bootsteps.StartStopStep):
    """Has deliveries for listeners that are not there end as errors, after some patience."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._runtime = runtime_of(consumer.app)
        give_up = consumer.on_unknown_task

        def on_unknown_task(body: Any, message: Any, exc: Exception) -> None:
            self._handle(consumer, message, lambda: give_up(body, message, exc))

        consumer.on_unknown_task = on_unknown_task

    def _handle(self, consumer: Any, message: Any, give_up: Callable[[], None]) -> None:
        headers, info = message.headers, message.delivery_info or {}
        queue = info.get("routing_key")
        if not isinstance(headers, dict) or queue not in self._runtime.organism.queues:
            give_up()
            return
        if is_of_another(self._runtime, message):
            message.ack_log_error(logger, consumer.connection_errors)
            return
        ours = is_ours(self._runtime, message)
        if self._is_fresh(str(headers.get("id"))) and (ours or self._has_company(consumer)):
            logger.info(
                "message.handed_back task=%r message_id=%r queue=%r: this worker has no such "
                "listener", headers.get("task"), headers.get("id"), queue,
            )  # fmt: skip
            consumer.timer.call_after(
                _PAUSE_S, message.reject_log_error, (logger, consumer.connection_errors, True)
            )
        elif ours:
            self._perform(consumer, message)
        else:
            give_up()

    def _is_fresh(self, message_id: str) -> bool:
        """Whether this worker has not handed a message back for long."""
        now, seen = time.monotonic(), self._runtime.handed_back
        for each in [each for each, at in seen.items() if now - at > 2 * PATIENCE_S]:
            del seen[each]
        return now - seen.setdefault(message_id, now) < PATIENCE_S

    def _has_company(self, consumer: Any) -> bool:
        """Whether there are other workers, one of which may know more listeners."""
        try:
            processes = self._runtime.backend.processes()
        except RegistryUnavailableError:
            return True
        return bool(processes > processes_of(consumer.controller))

    @staticmethod
    def _perform(consumer: Any, message: Any) -> None:
        """Perform a delivery as any other: what has no listener ends as an error for its caller."""
        headers = message.headers
        logger.warning(
            "listener.unknown task=%r message_id=%r: its delivery ends as an error",
            headers.get("task"), headers.get("id"),
        )  # fmt: skip
        headers["shadow"], headers["task"] = headers.get("task"), _STAND_IN
        acknowledge, reject = (
            partial(consumer.call_soon_ack, answer)
            for answer in (message.ack_log_error, message.reject_log_error)
        )
        strategy = consumer.strategies[_STAND_IN]
        strategy(message, None, acknowledge, reject, consumer.on_task_message)
