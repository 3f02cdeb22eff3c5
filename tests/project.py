"""A user's own project folder, and a worker started in it as users start one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from celery import Celery

from tests.desk import close_app
from tests.harness import WAIT_S, Worker
from threadloom.config.celery_settings import celery_url


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files by their paths in the folder; return the folder."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).lstrip())
    return folder


class Project:
    """A folder with an organism file and a Redis database of its own, without any of our test
    code.
    """

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.environment = {
            # The tests' own environment points to the checkout, which a user does not have.
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "THREADLOOM_REDIS_URL": redis_url,
            "SITE_BROKER": celery_url(redis_url),
            "PYTHONWARNINGS": "default",
            "COLUMNS": "200",
            **environment,
        }
        self._workers: list[Worker] = []
        url = celery_url(redis_url)
        self._sender = Celery("sender", broker=url, backend=url, set_as_current=False, fixups=[])

    def run(self, *command: str) -> str:
        """Run a program of the environment's Python in the folder, and return what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_worker(self, *, app: str = "threadloom", cwd: Path | None = None) -> Worker:
        """Start a worker in the folder or in another one; return when it is ready."""
        name = f"project{len(self._workers)}@test"
        log = self.folder.parent / f"{self.folder.name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    # As with the installed command, the folder is not on the path at first.
                    sys.executable, "-P", "-m", "celery", "-A", app, "worker",
                    "--loglevel", "INFO", "--concurrency", "2", "--hostname", name,
                    "--without-gossip", "--without-mingle",
                ],
                cwd=cwd or self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        worker = Worker(process, log, name)
        self._workers.append(worker)
        worker.wait_ready()
        return worker

    def ask(self, listener: str, payload: Any, *, queue: str) -> Any:
        """Return what a sender without any of our code gets for a message."""
        result = self._sender.send_task(listener, [payload], queue=queue)
        return result.get(timeout=WAIT_S)["payload"]

    def result(self, task: str) -> Any:
        """Return the result of one of the project's own Celery tasks, sent to Celery's default
        queue.
        """
        return self._sender.send_task(task).get(timeout=WAIT_S)

    def close(self) -> None:
        """Stop its workers."""
        for worker in self._workers:
            worker.stop()
        close_app(self._sender)
