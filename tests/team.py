"""A Celery app that a team already has, with an organism attached and tasks of its own.

`celery -A tests.team worker` runs it with the settings of its environment: TEAM_BROKER,
TEAM_SETTINGS (JSON, over Celery's own defaults) and the organism file. Nothing else about the app
is ours.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery

from tests.recording import append
from threadloom import attach

BROKER_VARIABLE, SETTINGS_VARIABLE = "TEAM_BROKER", "TEAM_SETTINGS"
#: times that the task which asks for another try has run before it succeeds
TRIES = 2


def team_app(organism: Path, *, redis_url: str, broker: str, settings: Mapping[str, Any]) -> Celery:
    """The team's app, its results beside its messages, with the organism attached."""
    made = Celery("team", broker=broker, backend=broker, set_as_current=False)
    made.conf.update(settings)

    @made.task(name="team.note", bind=True, shared=False)
    def note(self: Any, text: str) -> str:
        append(event="note", text=text, queue=self.request.delivery_info["routing_key"])
        return text

    @made.task(name="team.again", bind=True, shared=False, max_retries=TRIES)
    def again(self: Any, countdown_s: float) -> str:
        append(event="again", retries=self.request.retries)
        if self.request.retries < TRIES:
            raise self.retry(countdown=countdown_s)
        return "done"

    @made.task(name="team.fatal", bind=True, shared=False)
    def fatal(self: Any) -> None:
        append(event="fatal", task=self.request.id)
        os.kill(os.getpid(), signal.SIGKILL)

    return attach(made, organism, redis_url=redis_url)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    return team_app(
        Path(os.environ["THREADLOOM_ORGANISM"]),
        redis_url=os.environ["THREADLOOM_REDIS_URL"],
        broker=os.environ[BROKER_VARIABLE],
        settings=json.loads(os.environ[SETTINGS_VARIABLE]),
    )
