"""Workers that can be killed where it hurts: `celery -A tests.chaos.killable worker`.

The app is that of `threadloom.create_app`; only its runtime's `reached` is used. Each point that a
delivery reaches is written to a journal, and is where an order (`orders.py`) may end the
process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from tests.chaos.hooks import listen
from tests.chaos.orders import HANDLING, Orders, append_line
from threadloom import tasks
from threadloom.routing.records import Delivery
from threadloom.tasks import delivery as delivering
from threadloom.tasks.request import turns_of
from threadloom.tasks.runtime import Point

#: the journal: lines of [s since 1970, pid, point, listener, conversation, delivery]
JOURNAL = "CHAOS_JOURNAL"
#: the directory of the orders
ORDERS = "CHAOS_ORDERS"
#: ms of a lease, where a test cannot wait for the default
LEASE = "CHAOS_LEASE_MS"
#: s after which a message is handed back that a registry which is away does not let begin
PATIENCE = "CHAOS_PATIENCE_S"


def killable_app() -> Celery:
    """The app of THREADLOOM_ORGANISM, its points journalled and obeyed."""
    made: Celery = tasks.app_from_environment()
    runtime = tasks.runtime_of(made)
    runtime.lease_ms = int(os.environ.get(LEASE, runtime.lease_ms))
    delivering.PATIENCE_S = float(os.environ.get(PATIENCE, delivering.PATIENCE_S))
    orders = Orders(Path(os.environ[ORDERS]))
    journal = os.environ[JOURNAL]

    at_hand: list[Delivery] = []
    entries: list[Delivery] = []

    def reached(point: str, delivery: Delivery | None) -> None:
        task = made.current_task
        if task is None:  # the main process, sweeping: no delivery's way
            return
        if delivery is not None or point == Point.RETURNED:
            at_hand.clear()
        if delivery is not None:
            at_hand.append(delivery)
        together = len(turns_of(task.request)) > 1
        if together and delivery is not None and delivery.parent_id is None:
            entries[:] = [delivery]  # one conversation of several that share the message
        conversation = entries[0].id if together and entries else turns_of(task.request)[0][0]
        # A run goes on with other deliveries than the one that its task is for.
        name, message = (at_hand[0].to, at_hand[0].id) if at_hand else (task.name, task.request.id)
        append_line(journal, [time.time(), os.getpid(), point, name, conversation, message])
        orders.reached(point, name, conversation)

    runtime.reached = reached
    listen(lambda: reached(HANDLING, None))
    return made


app = killable_app()
