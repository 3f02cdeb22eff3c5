"""Where a process of the kill matrix ends itself: both sides call `strike` between their effects.

An order is a file named after the task and the point. Renaming it is atomic, so of all
processes that come by, and of all times that one does, exactly one dies.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path

import redis

#: directory of the orders, in the environment of the workers
DIRECTORY_VARIABLE = "KILL_MATRIX_DIRECTORY"
#: Redis URL, in redis-py's form, of everything that a lane does
URL_VARIABLE = "KILL_MATRIX_URL"
#: seconds until a message of a lost worker is handed out again, in bare Celery
VISIBILITY_VARIABLE = "KILL_MATRIX_VISIBILITY_S"
#: the order once it is carried out
STRUCK = "struck"


class Process(StrEnum):
    """Who is killed."""

    CHILD = "child"
    WORKER = "worker"


class Place(StrEnum):
    """Points that `tasks.runtime.Point` does not have: outside a delivery, or Celery's own."""

    #: the pool process has the message and has done nothing yet
    TAKEN = "taken"
    #: the task's or handler's code has had its effect and has not returned
    HANDLER = "handler"
    #: a task's next step is published (it always is before the result is stored)
    CONTINUED = "continued"
    #: its result is stored; a part of a chord is not counted yet
    STORED = "stored"
    #: the last part of a chord is counted, the claim to publish the body not extended yet
    COUNTED = "counted"
    #: the claim is extended, the body not published yet
    CLAIMED = "claimed"
    #: the body is published, the chord's counters are still there
    BODY_PUBLISHED = "body-published"
    #: some messages of a canvas are published and some are not
    HALFWAY = "halfway"
    #: the pool process has done everything and not told the main process
    FINISHED = "finished"
    #: the main process has been told and has not acknowledged the message
    ACKNOWLEDGING = "acknowledging"


def order(directory: Path, victim: str, point: str, process: Process) -> None:
    """Have `process` end when the task `victim` comes to `point` for the first time."""
    (directory / STRUCK).unlink(missing_ok=True)
    written = directory / "order"
    written.write_text(process)
    written.rename(directory / f"{victim}.{point}")


def struck_at(directory: Path) -> float | None:
    """When the order was carried out, in seconds since 1970; None before."""
    try:
        return (directory / STRUCK).stat().st_mtime
    except FileNotFoundError:
        return None


def strike(victim: str, point: str) -> None:
    """End this process, or its process group, if that was ordered; else return."""
    directory = Path(os.environ[DIRECTORY_VARIABLE])
    struck = directory / STRUCK
    try:
        (directory / f"{victim}.{point}").rename(struck)
    except FileNotFoundError:
        return
    os.utime(struck)
    if struck.read_text() == Process.WORKER:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def record(case: str, name: str) -> None:
    """Note that a task of a case has run: its effect, which outlives the process."""
    with redis.Redis.from_url(os.environ[URL_VARIABLE]) as client:
        client.rpush(f"runs:{case}", name)
