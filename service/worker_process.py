"""The Celery worker that `threadloom up` runs, as a child process.

It stands in a process group of its own, so that Ctrl-C reaches it through `up` alone and asks
for a warm shutdown once, not twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TextIO

from threadloom.service.lifeline import tied_to_owner

#: what each further request to stop sends: finish what runs, drop what runs, end at once
_ESCALATION = (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL)


class WorkerProcess:
    """A running `celery -A threadloom worker`; its output goes to `log`."""

    def __init__(
        self,
        *,
        hostname: str,
        environ: Mapping[str, str],
        log: TextIO,
        loglevel: str,
        concurrency: int | None,
    ) -> None:
        self.hostname = hostname
        #: requests to stop so far
        self.stops = 0
        self._status: int | None = None
        command = [
            # -P: the folder is not in front of the standard library, see tasks/startup.py.
            *[sys.executable, "-P", "-m", "celery", "--quiet", "-A", "threadloom", "worker"],
            *["--hostname", hostname, "--loglevel", loglevel],
            *(["--concurrency", str(concurrency)] if concurrency else []),
        ]
        self._process = subprocess.Popen(  # noqa: S603  (this interpreter, our own words)
            tied_to_owner(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Process id of the worker's main process, and of its group."""
        return self._process.pid

    def status(self) -> int | None:
        """Its exit status once it has ended, minus the signal that ended it; None before."""
        if self._status is not None:
            return self._status
        # Looked at, not reaped: until then its group's number cannot be somebody else's.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._end_group()
        self._status = self._process.wait()
        return self._status

    def request_stop(self) -> None:
        """Ask for a warm shutdown; a second time for a cold one; a third time end it at once."""
        if self.status() is not None:
            return
        number = _ESCALATION[min(self.stops, len(_ESCALATION) - 1)]
        self.stops += 1
        if number == signal.SIGKILL:
            self._end_group()
        else:
            self._process.send_signal(number)

    def end(self) -> None:
        """End it at once, with its pool; for a way out that nobody planned."""
        if self.status() is None:
            self._end_group()
            self._status = self._process.wait()

    def _end_group(self) -> None:
        """End what is left of the pool, which would go on without its main process."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS: a group of zombies alone
            return


def told(status: int) -> str:
    """Say how a process ended: `with status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
