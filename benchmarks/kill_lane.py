"""A lane runs cases of one contestant, one after another, on a Redis database of its own.

Its active worker has one pool process, so that the order of tasks is known. For the loss of a
whole worker a second one stands by: it lives, sweeps and restores like any worker, but takes
no tasks until the first is gone, and is the active one from then on.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis
from celery import Celery

from benchmarks import kill_bare, kill_ours
from benchmarks.kill_cases import Canvas, Case, Contestant, Observation, Verdict, judge
from benchmarks.kill_points import (
    DIRECTORY_VARIABLE,
    URL_VARIABLE,
    VISIBILITY_VARIABLE,
    Process,
    order,
    struck_at,
)
from threadloom import tasks
from threadloom.service.lifeline import tied_to_owner

ROOT = Path(__file__).parent.parent
#: how long a canvas is waited for after the visibility timeout: there is a look each second,
#: and the machine may be busy
_MARGIN_S = 6.0
_START_S = 60.0
_LOOK_S = 0.03
#: looks in a row at which nothing is under way: between its queue and the list of what is
#: unacknowledged a message is in neither
_QUIET_LOOKS = 5

T = TypeVar("T")


def within(seconds: float, look: Callable[[], T | None]) -> T | None:
    """What `look` gives as soon as it gives something; None if it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found or time.monotonic() > deadline:
            return found or None
        time.sleep(_LOOK_S)


class Worker:
    """A Celery worker in a process group of its own."""

    def __init__(self, module: str, name: str, environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        command = [
            *[sys.executable, "-m", "celery", "-A", f"{module}:app", "worker", "-c", "1"],
            *["-l", "INFO", "-n", name, "-Q", f"{name}.standby"],
            *["--without-gossip", "--without-mingle"],
        ]
        with self._log.open("w") as out:
            self.process = subprocess.Popen(
                tied_to_owner(command),
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_ready(self) -> None:
        """Return once it takes commands. Raises RuntimeError with its log if it does not."""
        ready = within(_START_S, lambda: self.ended or " ready." in self._log.read_text())
        if not ready or self.ended:
            raise RuntimeError(f"{self.name} did not start:\n{self.log_tail}")

    @property
    def log_tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text().splitlines()[-40:])

    @property
    def ended(self) -> bool:
        """Whether its main process is gone."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """End it with everything it runs."""
        if not self.ended:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Lane:
    """Runs cases of one contestant; a context manager that ends its workers."""

    def __init__(
        self, contestant: Contestant, visibility_s: int, redis_url: str, folder: Path
    ) -> None:
        folder.mkdir()
        self._contestant = contestant
        self._folder = folder
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._patience_s = visibility_s + _MARGIN_S
        self._environment = {
            DIRECTORY_VARIABLE: str(folder),
            URL_VARIABLE: redis_url,
            VISIBILITY_VARIABLE: str(visibility_s),
        }
        module = kill_bare if contestant is Contestant.BARE else kill_ours
        self._module = module.__name__
        self._app: Celery = module.make_app(redis_url)
        self._workers: list[Worker] = []
        self._normal: dict[Canvas, Observation] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._close)
        self._activate(self._new_worker())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, case: Case) -> Verdict:
        """Run one case. Raises RuntimeError if its moment never came."""
        normal = self.normal(case.row.canvas)
        standby = self._new_worker() if case.process is Process.WORKER else None
        active = self._workers[0]
        if standby is not None:
            standby.wait_ready()
        before = self._leftovers()
        order(self._folder, case.row.victim, case.point, case.process)
        run, result = self._begin(case.row.canvas)
        at = within(self._patience_s, lambda: struck_at(self._folder))
        if at is None:
            raise RuntimeError(f"never came to {case}: {self._runs(run)}\n{active.log_tail}")
        if standby is not None:
            active.process.wait()
            self._workers.remove(active)
            self._activate(standby)
        seen = self._observe(run, result, at, before)
        return judge(case, seen, normal)

    def normal(self, canvas: Canvas) -> Observation:
        """What a run without a kill shows; made once."""
        if canvas not in self._normal:
            before = self._leftovers()
            run, result = self._begin(canvas)
            seen = self._observe(run, result, time.time(), before)
            if seen.value is None:
                raise RuntimeError(f"the {canvas} does not run even without a kill: {seen}")
            self._normal[canvas] = seen
        return self._normal[canvas]

    @property
    def _queue(self) -> str:
        return str(self._app.conf.task_default_queue)

    # --- workers ------------------------------------------------------------------------

    def _new_worker(self) -> Worker:
        name = f"{self._folder.name}-{uuid.uuid4().hex[:6]}@kill"
        worker = Worker(self._module, name, self._environment, self._folder)
        self._workers.append(worker)
        return worker

    def _activate(self, worker: Worker) -> None:
        worker.wait_ready()
        answers = self._app.control.add_consumer(
            self._queue, destination=[worker.name], reply=True, timeout=10.0, limit=1
        )
        if not answers:
            raise RuntimeError(f"{worker.name} does not answer")

    def _close(self) -> None:
        for worker in self._workers:
            worker.stop()
        gc.collect()  # Celery's results unsubscribe when they are collected: while the server runs
        self._app.close()
        self._redis.close()

    # --- canvases -----------------------------------------------------------------------

    def _begin(self, canvas: Canvas) -> tuple[str, str]:
        """Start one; the name of the run, and the id of its result."""
        run = str(uuid.uuid4())
        if self._contestant is Contestant.OURS:
            name = "sequence" if canvas is Canvas.SEQUENCE else "buffer"
            tasks.inject(self._app, "starter", {"case": run, "canvas": name}, conversation_id=run)
            return run, run
        build = {
            Canvas.SEQUENCE: kill_bare.chain,
            Canvas.BUFFER: kill_bare.chord,
            Canvas.OPENED_BUFFER: kill_bare.opened_chord,
        }[canvas]
        return run, str(build(self._app, run).apply_async().id)

    def _observe(self, run: str, result: str, at: float, before: Counter[str]) -> Observation:
        deadline = at + self._patience_s
        value = within(deadline - time.time(), lambda: self._value(result))
        recovered_s = time.time() - at if value else None
        self._settle(deadline)
        return Observation(
            value, recovered_s, self._runs(run), self._deliveries(run),
            tuple(f"{n} {what}" for what, n in sorted((self._leftovers() - before).items())),
        )  # fmt: skip

    def _value(self, result: str) -> tuple[str, ...] | None:
        meta = self._app.backend.get_task_meta(result, cache=False)
        if meta["status"] != "SUCCESS":
            return None
        value: Any = meta["result"]
        if self._contestant is Contestant.OURS:
            return tuple(value["payload"]["trail"].split())
        return tuple(value)

    def _runs(self, run: str) -> Counter[str]:
        return Counter(map(str, self._redis.lrange(f"runs:{run}", 0, -1)))

    def _deliveries(self, run: str) -> Counter[str]:
        if self._contestant is Contestant.BARE:
            return Counter()
        log = tasks.runtime_of(self._app).backend.log(run)
        return Counter(e.detail["delivery"].to for e in log if e.event == "message")

    # --- afterwards ---------------------------------------------------------------------

    def _settle(self, deadline: float) -> None:
        """Wait until nothing is under way any more, so that what comes twice has come."""
        quiet = 0
        while quiet < _QUIET_LOOKS and time.time() < deadline:
            quiet = 0 if self._under_way() else quiet + 1
            time.sleep(_LOOK_S)

    def _under_way(self) -> int:
        with self._redis.pipeline() as both:  # a transaction: a message moves from one to the other
            both.llen(self._queue)
            both.hlen("unacked")
            queued, unacknowledged = both.execute()
        return int(queued) + int(unacknowledged) + sum(self._watched().values())

    def _watched(self) -> dict[str, int]:
        """What the registry still has to act on, or gave up."""
        if self._contestant is Contestant.BARE:
            return {}
        stats = tasks.runtime_of(self._app).backend.stats()
        return {name: stats[name] for name in ("due", "sent", "dead_letters")}

    def _leftovers(self) -> Counter[str]:
        """What lies in Redis and is no result or record that expires as it should."""
        found = Counter(
            {
                "queued": self._redis.llen(self._queue),
                "unacknowledged": self._redis.hlen("unacked"),
                **self._watched(),
            }
        )
        for key in self._redis.scan_iter(count=1000):
            kind = _kind_of(key)
            if kind == "chord keys":
                found[kind] += 1
            elif kind and self._redis.ttl(key) == -1:
                found[f"{kind} without expiry"] += 1
        return +found


def _kind_of(key: str) -> str:
    """What a key is, if it belongs to one canvas or conversation; else ""."""
    if key.startswith("celery-task-meta-"):
        return "results"
    if key.startswith("celery-taskset-meta-"):
        # `.c` is Celery's mark that a chord is done, kept for five minutes after each.
        return "" if key.endswith(".c") else "chord keys"
    uuids = re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-", key)
    return "records" if key.startswith("tl:") and uuids else ""
