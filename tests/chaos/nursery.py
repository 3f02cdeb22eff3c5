"""Workers that start at once: forked from a process that has imported everything already.

Chaos ends workers by the hundred, and importing Celery takes each of them a second of one
processor. What is forked here is a process that runs `celery worker` as the command does, in
a session of its own. This module is that process's program, and its client.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Nursery:
    """The client: starts worker processes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test run, which ends the workers itself
        )
        self._lock = threading.Lock()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Run `celery` with these arguments; returns the pid of a new session's leader."""
        wanted = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the nursery, and with it every worker that is left."""
        self._process.communicate()


def main() -> None:
    """Fork a worker for each line on standard input; at its end, end them all."""
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets them when they end
    pids = []
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_worker(json.loads(line))
        pids.append(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _import_everything() -> None:
    for name in (
        "celery.__main__", "celery.app.amqp", "celery.app.control", "celery.app.events",
        "celery.apps.worker", "celery.backends.redis", "celery.bin.celery",
        "celery.concurrency.prefork", "celery.events", "celery.worker.consumer",
        "celery.worker.strategy", "kombu.transport.redis", "redis", "tests.recording",
        "threadloom.tasks",
    ):  # fmt: skip
        importlib.import_module(name)


def _become_worker(wanted: dict[str, Any]) -> None:
    from celery.__main__ import main as celery_main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the pool waits for its processes
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for here, there in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(here, there)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv = ["celery", *wanted["arguments"]]
    try:
        status = celery_main()
    except SystemExit as exc:
        status = exc.code
    os._exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
