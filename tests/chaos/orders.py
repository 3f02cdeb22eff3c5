"""Orders to end a process at a chosen point of a delivery's way, each carried out once.

An order lies as a file named by the conversation it is meant for, so that many can be under
way in few workers. Whoever reaches its point counts that by creating numbered files, which
only one process can: so an order strikes once, however many processes pass there.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: a point beside those of `tasks.runtime.Point`: inside the handler
HANDLING = "handling"
#: environment variable: seconds by which a worker's clock is wrong
SKEW = "CHAOS_CLOCK_SKEW_S"


@dataclass(frozen=True)
class Order:
    """End whoever reaches `point` of a delivery to `listener`, after `let_pass` others."""

    listener: str
    point: str
    #: so often the point is passed before
    let_pass: int = 0
    #: the pool process alone, or its whole worker
    whole_worker: bool = False


class Orders:
    """The orders of one deployment: a directory that its processes share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def give(self, conversation_id: str, order: Order) -> None:
        """Have this order carried out in a conversation that has not begun yet."""
        file = self.directory / conversation_id
        unfinished = file.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(order)))
        unfinished.rename(file)

    def carried_out(self, conversation_id: str) -> float | None:
        """When the process was ended (s since 1970); None: not yet."""
        try:
            text = (self.directory / f"{conversation_id}.done").read_text()
        except FileNotFoundError:
            return None
        return float(text) if text.endswith("\n") else None  # else it is being written

    def reached(self, point: str, listener: str, conversation_id: str) -> None:
        """Called by a pool process at each point: does not return if an order is due here."""
        try:
            order = Order(**json.loads((self.directory / conversation_id).read_text()))
        except FileNotFoundError:
            return
        if (order.listener, order.point) != (listener, point):
            return
        if self._count(conversation_id) == order.let_pass and _created(
            self.directory / f"{conversation_id}.done",
            f"{time.clock_gettime(time.CLOCK_REALTIME)!r}\n",
        ):
            end_myself(whole_worker=order.whole_worker)

    def _count(self, conversation_id: str) -> int:
        """How many have been here before."""
        passed = 0
        while not _created(self.directory / f"{conversation_id}.passed{passed}", ""):
            passed += 1
        return passed


def _created(file: Path, text: str) -> bool:
    """Whether this process is the one that created a file."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    os.write(descriptor, text.encode())
    os.close(descriptor)
    return True


def end_myself(*, whole_worker: bool) -> None:
    """SIGKILL this process, or every process of its worker; neither can do anything about it."""
    if whole_worker:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def append_line(file: str, line: Any) -> None:
    """Append a JSON value; lines of several processes do not mix."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
