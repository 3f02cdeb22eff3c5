"""The census' organism on this machine: a private Redis and a Celery worker, for one run.

Both end with the run, however it ends. Started is what a user would start: the embedded Redis
of `threadloom up`, and `celery -A threadloom worker`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from celery import Celery

from threadloom import tasks
from threadloom.service import EmbeddedRedis
from threadloom.tasks import ORGANISM_VARIABLE, REDIS_VARIABLE

ORGANISM = Path(__file__).with_name("organism.yaml")
PROJECT = Path(__file__).parent.parent.parent
#: seconds that running handlers get to finish
_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_LINES = 15
#: settings of the user's other deployments
_LEADS_ELSEWHERE = ("CELERY_", "THREADLOOM_")


class WorkerEndedError(Exception):
    """The worker process is gone; `log_tail` is what it said last."""

    def __init__(self, status: int, log_tail: str) -> None:
        super().__init__(status, log_tail)
        self.status, self.log_tail = status, log_tail

    def __str__(self) -> str:
        return f"the worker ended with status {self.status}; its last words:\n{self.log_tail}"


class Deployment:
    """An app to inject with, and the worker that carries out what is injected."""

    def __init__(self, app: Celery, worker: subprocess.Popen[bytes], log: Path) -> None:
        self.app = app
        self._worker = worker
        self._log = log

    def check(self) -> None:
        """Raise WorkerEndedError if the worker is gone."""
        status = self._worker.poll()
        if status is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            raise WorkerEndedError(status, "\n".join(lines[-_LOG_TAIL_LINES:]))


@contextlib.contextmanager
def deployed(directory: Path, *, processes: int) -> Iterator[Deployment]:
    """Run the organism with so many pool processes, its files in `directory`, for the body.

    Call it from the main thread of a process that is there for this run: it forgets what its
    environment says about other deployments. Raises EmbeddedRedisError, RedisServerNotFoundError or
    ConfigurationError.
    """
    for name in [name for name in os.environ if name.startswith(_LEADS_ELSEWHERE)]:
        del os.environ[name]  # Celery obeys these even against what an app is created with
    with EmbeddedRedis(directory / "redis", persistent=False) as server:
        app = tasks.create_app(ORGANISM, redis_url=server.url())
        try:
            with _worker(server.url(), directory / "worker.log", processes) as worker:
                yield Deployment(app, worker, directory / "worker.log")
        finally:
            tasks.runtime_of(app).backend.close()
            app.close()


@contextlib.contextmanager
def _worker(redis_url: str, log: Path, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [
                sys.executable, "-m", "celery", "-A", "threadloom", "worker",
                "--concurrency", str(processes), "--loglevel", "WARNING",
                "--without-gossip", "--without-mingle",
            ],
            cwd=PROJECT,
            env=_environment(redis_url),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the worker
        )  # fmt: skip
    try:
        yield worker
    finally:
        _stop(worker)


def _environment(redis_url: str) -> dict[str, str]:
    """This process' environment, and where the organism and its Redis are."""
    return {
        **os.environ,
        ORGANISM_VARIABLE: str(ORGANISM),
        REDIS_VARIABLE: redis_url,
    }


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """Let running handlers finish, and end what does not."""
    worker.terminate()
    try:
        worker.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
