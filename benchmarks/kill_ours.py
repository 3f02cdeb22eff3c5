"""The Threadloom worker of the kill matrix: the product as it is, with `Runtime.reached` heard.

`app` is made when it is first asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, current_task, signals

from benchmarks.kill_points import URL_VARIABLE, Place, strike
from threadloom import tasks
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.canvas import CONVERSATION, INJECTED
from threadloom.tasks.listener import ListenerTask
from threadloom.tasks.request import DeliveryRequest

ORGANISM = Path(__file__).parent / "kill.yaml"


def make_app(redis_url: str) -> Celery:
    """The organism's app, nobody listening."""
    return tasks.create_app(ORGANISM, redis_url=redis_url)


def victim_of(app: Celery, request: Any) -> str:
    """What the running delivery is in its canvas: `two`, `item0`, `opener`, `body`, `tail`, ….

    `entry` is the injected message, `handover` the same one once it hands the value over.
    """
    task = str(request.task if isinstance(request.task, str) else request.task.name)
    if task == "item":
        return f"item{request.group_index}"
    if task.startswith("system."):
        return "opener" if request.argsrepr.endswith("Start") else "body"
    if task != "starter":
        return task
    if CONVERSATION in request.kwargs and INJECTED not in request.kwargs:
        return "tail"
    conversation = tasks.runtime_of(app).backend.conversation(request.id)
    running = conversation is None or conversation.status is ConversationStatus.RUNNING
    return "entry" if running else "handover"


class StruckRequest(DeliveryRequest):
    """The main process's view of a delivery, with a place to die in."""

    def acknowledge(self) -> None:
        strike(victim_of(self.task.app, self), Place.ACKNOWLEDGING)
        super().acknowledge()


def struck_app(redis_url: str) -> Celery:
    """The organism's app for a worker that is to die."""
    app = make_app(redis_url)

    def reached(point: str, _delivery: str) -> None:
        if current_task:  # not in the sweep of a main process
            strike(victim_of(app, current_task.request), point)

    tasks.runtime_of(app).reached = reached
    for task in app.tasks.values():
        if isinstance(task, ListenerTask):
            task.Request = f"{StruckRequest.__module__}:{StruckRequest.__name__}"
    return app


@signals.task_prerun.connect
def _taken(task: Any, **_: Any) -> None:
    strike(victim_of(task.app, task.request), Place.TAKEN)


@signals.task_postrun.connect
def _finished(task: Any, **_: Any) -> None:
    strike(victim_of(task.app, task.request), Place.FINISHED)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = made = struck_app(os.environ[URL_VARIABLE])
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
