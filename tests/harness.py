"""Real workers for tests: `celery -A threadloom worker`, started as a user starts them.

Handlers of the test organisms write what they did to the file named by RECORDS_VARIABLE, one
JSON object per line; `Deployment.records` reads it back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from celery import Celery
from kombu import Queue

from tests import team
from threadloom import tasks
from threadloom.config.celery_settings import celery_url
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Conversation
from threadloom.tasks.queues import queues_of

ROOT = Path(__file__).parent.parent
ORGANISMS = Path(__file__).parent / "organisms"
RECORDS_VARIABLE = "THREADLOOM_TEST_RECORDS"
START_TIMEOUT_S = 200.0
#: seconds to wait for an expected event; even on a busy machine only a hang exceeds it
WAIT_S = 200.0

#: given for a broker's URL: the organism is attached to a team's app on its registry's Redis
ATTACHED = "attached"
#: gives each deployment the URL of a broker of its own; None: its registry's Redis
NewBroker = Callable[[], str | None]

T = TypeVar("T")


def eventually(look: Callable[[], T | None], *, timeout_s: float = WAIT_S, what: str = "") -> T:
    """Return what `look` returns as soon as it is truthy; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or look}")
        time.sleep(0.02)


def whole_lines(file: Path) -> list[bytes]:
    """Return the whole lines of a file that others append to, or none if the file does not exist.

    A last line without a newline is still being written and is left for later.
    """
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


class Worker:
    """One `celery worker` process with its pool."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self.process = process
        self.log = log
        self.name = name

    @property
    def output(self) -> str:
        """Return everything that the worker has logged."""
        return self.log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Return when the worker has logged that it is ready."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended at start:\n{self.output[-4000:]}")
            return f"{self.name} ready" in self.output

        eventually(ready, timeout_s=START_TIMEOUT_S, what=f"{self.name} ready")

    def stop(self) -> None:
        """Shut down warmly: running tasks finish."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill the main process and its pool at once, as the loss of a machine would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT_S)


class Deployment:
    """An organism with its workers, its app in this process, and the records of its handlers."""

    def __init__(
        self,
        organism: Path,
        *,
        redis_url: str,
        directory: Path,
        broker_url: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`broker_url` goes into the organism file; None: the broker is on `redis_url`, too.

        With ATTACHED the app is `tests.team`'s, with what the file says of Celery as its settings.
        """
        self.organism = organism
        self.redis_url = redis_url
        self.directory = directory
        self.environment = dict(environment or {})
        self.records_file = directory / "records.jsonl"
        self.workers: list[Worker] = []
        self._app_module = "threadloom"
        if broker_url == ATTACHED:
            self.app = self._attached()
            return
        if broker_url:
            self.organism = on_broker(organism, broker_url, directory)
        self.app = tasks.create_app(self.organism, redis_url=redis_url)

    def _attached(self) -> Celery:
        """Return the team's app with the organism; from now on workers are started from that
        app.
        """
        settings = yaml.safe_load(self.organism.read_text())["organism"].get("celery", {})
        self.organism = adjusted(self.organism, self.directory, celery={})
        self._app_module = "tests.team"
        broker = celery_url(self.redis_url)
        self.environment |= {
            team.BROKER_VARIABLE: broker,
            team.SETTINGS_VARIABLE: json.dumps(settings),
        }
        return team.team_app(
            self.organism, redis_url=self.redis_url, broker=broker, settings=settings
        )

    @property
    def backend(self) -> SharedBackend:
        """The registry."""
        return tasks.runtime_of(self.app).backend

    @property
    def queue(self) -> str:
        """The organism's own queue."""
        return tasks.runtime_of(self.app).organism.own_queue

    def queues(self) -> list[Queue]:
        """Every queue of the organism."""
        return queues_of(tasks.runtime_of(self.app).organism, self.app)

    def start_worker(self, *, concurrency: int = 2, options: tuple[str, ...] = ()) -> Worker:
        """Start a worker and return when it is ready."""
        name = f"worker{len(self.workers)}@test"
        log = self.directory / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "celery", "-A", self._app_module, "worker",
                    "--loglevel", "INFO", "--concurrency", str(concurrency),
                    "--hostname", name, "--without-gossip", "--without-mingle", *options,
                ],
                cwd=ROOT,
                env=self._environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        worker = Worker(process, log, name)
        self.workers.append(worker)
        worker.wait_ready()
        return worker

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            "THREADLOOM_ORGANISM": str(self.organism),
            "THREADLOOM_REDIS_URL": self.redis_url,
            RECORDS_VARIABLE: str(self.records_file),
            **self.environment,
        }

    def command(self, *arguments: str) -> str:
        """Run `threadloom` with these arguments and this organism, and return its output; it
        has to succeed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "threadloom", *arguments, "--organism", str(self.organism)],
            cwd=ROOT,
            env={**self._environment(), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
        )
        return done.stdout

    def inject(self, to: str, payload: Any, **options: Any) -> Any:
        """`threadloom.inject`, returning its AsyncResult."""
        return tasks.inject(self.app, to, payload, **options)

    def ask(self, to: str, payload: Any, *, timeout_s: float = WAIT_S) -> Any:
        """Inject and wait for the value; raise the error if the conversation ended with one."""
        return self.inject(to, payload).get(timeout=timeout_s)

    def conversation(self, conversation_id: str) -> Conversation:
        """Return the conversation as the registry has it."""
        found = self.backend.conversation(conversation_id)
        assert found is not None, f"no conversation {conversation_id}"
        return found

    def ended(self, conversation_id: str, *, timeout_s: float = WAIT_S) -> Conversation:
        """Return the conversation once none of its deliveries is in flight any more."""
        return eventually(
            lambda: next(
                (c for c in [self.backend.conversation(conversation_id)] if c and c.in_flight == 0),
                None,
            ),
            timeout_s=timeout_s,
            what=f"the end of conversation {conversation_id}",
        )

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return what handlers recorded, in order, of the records with the wanted values."""
        lines = map(json.loads, whole_lines(self.records_file))
        return [r for r in lines if all(r.get(k) == v for k, v in wanted.items())]

    def close(self) -> None:
        """Stop every worker."""
        for worker in self.workers:
            worker.process.poll() is None and worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.stop()
        self.app.close()


def on_broker(organism: Path, broker_url: str, directory: Path) -> Path:
    """Write the organism file again, in `directory`, with this broker."""
    celery = yaml.safe_load(organism.read_text())["organism"].get("celery", {})
    return adjusted(organism, directory, celery={**celery, "broker_url": broker_url})


def adjusted(organism: Path, directory: Path, **section: Any) -> Path:
    """Write the organism file again, in `directory`, with other values in its first section.

    Links to the modules beside the file are made there, so that the copy finds its own.
    """
    for module in organism.parent.glob("*.py"):
        link = directory / module.name
        if not link.exists():
            link.symlink_to(module)
    content = yaml.safe_load(organism.read_text())
    content["organism"] |= section
    copy = directory / organism.name
    copy.write_text(yaml.safe_dump(content, sort_keys=False))
    return copy


def queued(organism: Path, directory: Path) -> Path:
    """Write the same organism with every delivery sent over the broker."""
    return adjusted(organism, directory, local_slice_ms=0)


def deployed(
    organism: str,
    redis_url: str,
    directory: Path,
    *,
    broker_url: str | None = None,
    concurrency: int = 2,
) -> Iterator[Deployment]:
    """A deployment of `tests/organisms/<organism>` with one worker, for a fixture to yield from."""
    deployment = Deployment(
        ORGANISMS / organism / "organism.yaml",
        redis_url=redis_url,
        directory=directory,
        broker_url=broker_url,
    )
    try:
        deployment.start_worker(concurrency=concurrency)
        yield deployment
    finally:
        deployment.close()
