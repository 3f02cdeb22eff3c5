"""A canvas is told of an unknown listener where nobody's code can stop the worker."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.signals import task_unknown

from tests.harness import WAIT_S
from threadloom.routing import Organism
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.runtime import Runtime
from threadloom.tasks.unregistered import TellCanvas


class Consumer:
    """As much of Celery's as the step looks at."""

    def __init__(self, app: Celery) -> None:
        self.app = app


#: whatever a sender may have put where Celery keeps a canvas
ODD: list[dict[str, Any]] = [
    {"errbacks": 5},
    {"errbacks": [{"task": ["x"]}]},
    {"chord": "x"},
    {"chain": [None]},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_a_link_error_does_stops_no_worker(odd: dict[str, Any]) -> None:
    """Celery calls a `link_error` of three parameters itself: here not in the main process's loop.

    The signal returns while it still runs, and an odd canvas before it has ended nothing.
    """
    app = Celery("team", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.threadloom = Runtime(Organism("o", {}), MemoryBackend(organism="o"))  # type: ignore[attr-defined]
    gate, called = threading.Event(), threading.Event()

    @app.task(name="slow")
    def slow(request: Any, exc: Any, traceback: Any) -> None:
        called.set()
        gate.wait(WAIT_S)

    consumer = Consumer(app)
    step = TellCanvas(consumer)
    [queue] = step._queues
    for number, embed in enumerate([odd, {"errbacks": [{"task": "slow"}]}]):
        message = SimpleNamespace(
            headers={"id": str(number)},
            payload=[[], {}, embed],
            delivery_info={"routing_key": queue},
        )
        sent = task_unknown.send(sender=consumer, message=message, name="nobody", id=str(number))
        assert not [answer for _, answer in sent if answer is not None]
    assert called.wait(WAIT_S)
    gate.set()
