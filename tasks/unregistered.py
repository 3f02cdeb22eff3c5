"""Telling the rest of a canvas that one of its tasks names a listener which is not there.

Celery stores such a task's failure as its result, and nothing else: its `link_error` is not called,
a chord that it is part of never gets its answer, and a chain behind it never ends. Celery does tell
them when a task fails in a worker. Here they are told the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any

from celery import bootsteps
from celery.app.task import Context
from celery.exceptions import NotRegistered
from celery.signals import task_unknown

from threadloom.tasks.canvas import CONVERSATION, TOGETHER
from threadloom.tasks.runtime import runtime_of
from threadloom.tasks.unfailing import unfailing


class TellCanvas(bootsteps.StartStopStep):
    """Has the failure of an unknown task in one of the organism's queues reach its canvas."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._queues = runtime_of(consumer.app).organism.queues
        self._untold: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._teller: threading.Thread | None = None
        task_unknown.connect(self._tell, sender=consumer)  # a weak reference: the step is kept

    def _tell(self, sender: Any, message: Any, name: str, **_signal: Any) -> None:
        """Called by Celery after it has rejected the message and stored its failure.

        The canvas is told in a thread of its own: Celery calls a `link_error` that takes the
        exception where it is told, and the worker's main process must wait for nobody's code.
        """
        self._untold.put(partial(unfailing(self._fail_canvas), sender.app, message, name))
        if self._teller is None:
            self._teller = threading.Thread(
                target=self._tell_all, name="threadloom-unregistered", daemon=True
            )
            self._teller.start()

    def _tell_all(self) -> None:
        while True:
            self._untold.get()()

    def _fail_canvas(self, app: Any, message: Any, name: str) -> None:
        if (message.delivery_info or {}).get("routing_key") not in self._queues:
            return  # a task of the app that the organism is attached to
        request = _request_of(message)
        if request is not None:
            app.backend.mark_as_failure(request.id, NotRegistered(name), request=request)


def _request_of(message: Any) -> Context | None:
    """Return the request of a sender's message as its canvas is told of it.

    None if there is nobody to tell: it is one of our own messages, whose canvas the registry goes
    on with, or no message of Celery's second protocol.
    """
    headers, body = message.headers, message.payload
    match body:
        case [_, Mapping() as kwargs, Mapping() as embed] if (
            not {CONVERSATION, TOGETHER} & kwargs.keys()
        ):
            given = {name: embed.get(name) for name in ("chain", "chord", "callbacks", "errbacks")}
            return Context({**headers, **given, "delivery_info": message.delivery_info or {}})
    return None
