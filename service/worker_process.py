"""The Celery worker that `threadloom up` runs, as a child process.

The worker has a process group of its own, so that Ctrl-C reaches it only through `up` and requests
a warm shutdown once instead of twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TextIO

from threadloom.service.lifeline import tied_to_owner

#: the signals of the first, second and third request to stop: finish running handlers, drop
#: running handlers, end at once
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
        #: how many times a stop was requested
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
        """The worker's exit status, minus the signal number if a signal ended it; None before."""
        if self._status is not None:
            return self._status
        # WNOWAIT leaves the process unreaped: until it is reaped, no other process group can get
        # its number, so `_end_group` kills only this group.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._end_group()
        self._status = self._process.wait()
        return self._status

    def request_stop(self) -> None:
        """Request a warm shutdown; a second call requests a cold one, a third ends the worker."""
        if self.status() is not None:
            return
        number = _ESCALATION[min(self.stops, len(_ESCALATION) - 1)]
        self.stops += 1
        if number == signal.SIGKILL:
            self._end_group()
        else:
            self._process.send_signal(number)

    def end(self) -> None:
        """End the worker and its pool at once; for exits by an unexpected error."""
        if self.status() is None:
            self._end_group()
            self._status = self._process.wait()

    def _end_group(self) -> None:
        """End the remaining pool processes, which would outlive the worker's main process."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS: the group has only zombies
            return


def told(status: int) -> str:
    """Return how a process ended: `with status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
