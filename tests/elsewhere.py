"""Processes of another Celery application that has none of our code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness import START_TIMEOUT_S, Deployment, Worker, whole_lines

_SCRIPT = Path(__file__).parent / "foreign" / "elsewhere.py"


class Elsewhere:
    """A directory that contains the other application, which uses a deployment's broker."""

    def __init__(self, deployment: Deployment, directory: Path) -> None:
        self.directory = directory
        self.records_file = directory / "records.jsonl"
        self._script = shutil.copy(_SCRIPT, directory)
        conf = deployment.app.conf
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "THREADLOOM"))},
            "ELSEWHERE_BROKER": conf.broker_write_url,
            "ELSEWHERE_RESULTS": conf.result_backend,
            "ELSEWHERE_LISTENERS": deployment.queue,
            "ELSEWHERE_RECORDS": str(self.records_file),
        }

    def _command(self, role: str) -> list[str]:
        return [sys.executable, "-I", self._script, role]

    def ask(self, *messages: tuple[str, list[Any], dict[str, Any]]) -> dict[str, Any]:
        """Send messages from a new process and return what that process saw."""
        done = subprocess.run(
            self._command("client"),
            input=json.dumps(messages),
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def start_worker(self) -> Worker:
        """Start a worker for the application's own tasks, on its own queue."""
        log = self.directory / "elsewhere.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._command("worker"),
                cwd=self.directory,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(process, log, "elsewhere@test")
        worker.wait_ready()
        return worker

    def records(self, task: str, **wanted: Any) -> list[dict[str, Any]]:
        """Return what the application's tasks received, in order."""
        lines = map(json.loads, whole_lines(self.records_file))
        wanted = {"task": task, **wanted}
        return [r for r in lines if all(r.get(k) == v for k, v in wanted.items())]
