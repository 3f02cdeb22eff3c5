"""The manager process that `threadloom up` runs for an organism of `backend: {type: manager}`.

Like the worker, the manager has a process group of its own, so that Ctrl-C reaches only `up`,
which ends the manager last.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from threadloom.config import PermanentError
from threadloom.routing.backends.manager import Door
from threadloom.routing.backends.manager.server import TAKEN
from threadloom.service.lifeline import tied_to_owner

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02


class ManagerTakenError(PermanentError):
    """Another manager already serves this door."""

    def __init__(self, door: str) -> None:
        super().__init__(door)
        self.door = door

    def __str__(self) -> str:
        return f"another manager serves {self.door}"


class ManagerError(PermanentError):
    """The manager of a door cannot run; its own messages are in the log."""

    def __init__(self, door: str, reason: str) -> None:
        super().__init__(door, reason)
        self.door, self.reason = door, reason

    def __str__(self) -> str:
        return f"the manager of {self.door} {self.reason}"


class ManagerProcess:
    """A context manager that runs the manager of the file `door`, from entry to exit.

    Enter it from the main thread; entering returns once the manager serves. The manager's output
    goes to `log`. Entering raises ManagerTakenError or ManagerError.
    """

    def __init__(self, door: Path, *, log: TextIO) -> None:
        self.door = door
        self._log = log

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-P",  # a `queue.py` in the folder is the organism's, and not the manager's
            "-m",
            "threadloom.routing.backends.manager.server",
            str(self.door),
        ]
        self._process = subprocess.Popen(  # noqa: S603  (this interpreter, our own words)
            tied_to_owner(command),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            process_group=0,
        )
        try:
            self._await_answer()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process id of the manager."""
        return self._process.pid

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._serves():
            if time.monotonic() >= deadline_s:
                raise ManagerError(str(self.door), f"did not answer within {_START_TIMEOUT_S} s")
            time.sleep(_POLL_S)

    def _serves(self) -> bool:
        status = self._process.poll()
        if status == TAKEN:
            raise ManagerTakenError(str(self.door))
        if status is not None:
            raise ManagerError(str(self.door), f"has ended with status {status}")
        try:
            return Door.read(self.door).pid == self.pid
        except FileNotFoundError:
            return False
