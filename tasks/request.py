"""The worker's request class for listeners, which gives up the lease when a pool process dies.

A pool process cannot report its own death. The main process tells the registry here, so that the
delivery is available at once instead of when its lease expires.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.worker.request import Request
from celery.worker.state import task_ready
from celery.worker.strategy import default

from threadloom.config import RegistryUnavailableError
from threadloom.routing.records import Publication
from threadloom.routing.states import Abandonment
from threadloom.tasks.canvas import CONVERSATION, TOGETHER
from threadloom.tasks.publisher import SENT_HEADER, Publisher
from threadloom.tasks.runtime import Runtime, runtime_of
from threadloom.tasks.unacknowledged import ORGANISM_HEADER

logger = logging.getLogger(__name__)


def turns_of(request: Request) -> list[tuple[str, str]]:
    """Return the turns that a message may begin: each one's conversation and first delivery."""
    kwargs = request.kwargs or {}
    if TOGETHER in kwargs:
        together = kwargs[TOGETHER]  # a sender may have put anything there
        ids = together if isinstance(together, list) else []
        return [(each, each) for each in ids if isinstance(each, str)]
    return [(str(kwargs.get(CONVERSATION) or request.id), str(request.id))]


def strategy(task: Any, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return Celery's handler of received messages, with a check before it.

    A message of another organism is acknowledged and not run.
    """
    handle = default(task, app, consumer, **options)
    runtime = runtime_of(app)

    def take_in(message: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_of_another(runtime, message):
            message.ack_log_error(logger, consumer.connection_errors)
            return None
        _note_age(runtime, message, task.name)
        return handle(message, *args, **kwargs)

    return take_in


def _is_of_another(runtime: Runtime, message: Any) -> bool:
    """Whether another organism published a message; if so, an error is logged.

    Such a message is not needed: its delivery is stored in the registry of that organism, whose
    workers notice that it was not begun, and publish it again.
    """
    sender = (message.headers or {}).get(ORGANISM_HEADER, runtime.organism.name)
    if sender == runtime.organism.name:
        return False
    body = message.payload
    kwargs = body["kwargs"] if isinstance(body, dict) else body[1]
    if not {CONVERSATION, TOGETHER} & kwargs.keys():
        return False  # it holds a payload, so no registry has it: a header that anybody wrote
    logger.error(
        "message.of_another_organism organism=%r message_id=%r task=%r queue=%r: two organisms "
        "share a queue; give each its own (the key `queue` of the organism section)",
        sender, message.headers.get("id"), message.headers.get("task"),
        message.delivery_info.get("routing_key"),
    )  # fmt: skip
    return True


def _note_age(runtime: Runtime, message: Any, listener: str) -> None:
    """Note the publishing time of a message that one of our processes has published."""
    published_ms = (message.headers or {}).get(SENT_HEADER)
    if not isinstance(published_ms, int):
        return
    try:
        now_ms = runtime.registry_ms()
    except RegistryUnavailableError:
        return
    priority = (message.delivery_info or {}).get("priority") or message.properties.get("priority")
    queue = runtime.organism.queue_of(listener)
    runtime.arrivals.note(queue, min(published_ms, now_ms), priority)  # anybody may write a header


class DeliveryRequest(Request):
    """A Celery request that gives up its delivery's lease when its pool process is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Errors of a lost connection when one of its messages is acknowledged. An error that is
        # not listed ends the worker, and kombu 5.7 on Redis also raises AttributeError.
        self._connection_errors = (*self.connection_errors, AttributeError)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        exc = getattr(exc_info.exception, "exc", exc_info.exception)  # billiard wraps some
        if isinstance(exc, TimeLimitExceeded):
            return None  # the pool reports a timeout twice; `on_timeout` follows and handles it
        if isinstance(exc, WorkerLostError | SystemExit):
            # Celery requeues the message itself (reject_on_worker_lost): nothing to publish.
            self._give_up(Abandonment.LOST)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        if soft:
            return super().on_timeout(soft, timeout)
        # Celery's own method would store a failure and continue the canvas, although the planner
        # has not yet decided who gets the error and whether the conversation ends with it.
        task_ready(self)
        logger.error("delivery.hard_timeout message_id=%s timeout_s=%s", self.id, timeout)
        given_up = self._give_up(Abandonment.TIMEOUT)
        publisher = Publisher(self.task.app, runtime_of(self.task.app))
        for publication in given_up or ():
            publisher.publish([publication], root_id=self.root_id)
        self.send_event("task-failed", exception=repr(TimeLimitExceeded(timeout)), traceback="")
        if given_up is None:
            # The registry may not know of the message, and whoever gets it next asks again.
            return self.reject(requeue=True)
        return self.acknowledge()

    def _give_up(self, reason: str) -> list[Publication] | None:
        """Give up the lease of the lost process; return the messages to publish for it.

        None if the registry does not answer, or does not know the conversation: the message is
        then all that there is of it.
        """
        runtime, turns = runtime_of(self.task.app), turns_of(self)
        if self.worker_pid is None:  # it was lost before it was known to begin anything
            return None
        owner = runtime.process(self.worker_pid)
        try:
            given_up = [
                runtime.backend.abandon(conversation, turn, owner=owner, reason=reason)
                for conversation, turn in turns
            ]
            is_known = any(given_up) or all(
                runtime.backend.conversation(conversation) for conversation, _ in turns[:1]
            )
        except RegistryUnavailableError as exc:
            # The lease expires by itself, and then the sweep reclaims the delivery.
            logger.warning("lease.not_given_up message_id=%s reason=%s", self.id, exc)
            return None
        return [each for each in given_up if each is not None] if is_known else None
