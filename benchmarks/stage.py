"""Where the contests take place: a private Redis, and the workers of each contestant on it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
import yaml

from threadloom import tasks
from threadloom.config.celery_settings import celery_url
from threadloom.service import EmbeddedRedis

ROOT = Path(__file__).parent.parent
_ORGANISM = Path(__file__).parent / "ours.yaml"
_START_S = 60.0


class Stage:
    """Contestants on one Redis, each with a database of its own; workers start when asked for.

    `queued` is our organism with every delivery over the broker, `local` the same as it ships.
    """

    def __init__(self, folder: Path, server: EmbeddedRedis, *, processes: int) -> None:
        self._folder = folder
        self._server = server
        self._processes = processes
        self._stack = ExitStack()
        self._workers: dict[str, psutil.Process] = {}
        self._apps: dict[str, Any] = {}
        self._dbos: subprocess.Popen[str] | None = None
        self._turn = ""

    def close(self) -> None:
        """End every worker."""
        self._alone("nobody")
        for worker in self._workers.values():
            for process in (worker, *worker.children(recursive=True)):
                process.send_signal(signal.SIGCONT)
        self._stack.close()

    # --- ours ---------------------------------------------------------------------------

    def ours(self, kind: str) -> Any:
        """The app of `local` or `queued`, its worker ready."""
        self._alone(kind)
        if kind not in self._apps:
            organism, url = self._organism(kind), self._server.url(1 + (kind == "queued"))
            environment = {"THREADLOOM_ORGANISM": str(organism), "THREADLOOM_REDIS_URL": url}
            self._start_celery(kind, "threadloom", environment)
            self._apps[kind] = tasks.create_app(organism, redis_url=url)
        return self._apps[kind]

    def _organism(self, kind: str) -> Path:
        content = yaml.safe_load(_ORGANISM.read_text())
        if kind == "queued":
            content["organism"]["local_slice_ms"] = 0
        file = self._folder / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def resident_mib(self, kind: str) -> float:
        """Resident memory of the largest process of a worker."""
        worker = self._workers[kind]
        sizes = [each.memory_info().rss for each in (worker, *worker.children(recursive=True))]
        return float(max(sizes)) / 2**20

    @contextmanager
    def pushed(self, kind: str) -> Iterator[list[int]]:
        """The bytes of every message that goes to a queue of this contestant meanwhile."""
        sizes: list[int] = []
        client = redis.Redis.from_url(self._server.url(1 + (kind == "queued")))
        database = client.connection_pool.connection_kwargs["db"]
        with client, client.monitor() as monitor:

            def listen() -> None:
                for seen in monitor.listen():
                    if seen["command"] == "ECHO over":
                        return
                    if seen["db"] == database and seen["command"].startswith(
                        ("LPUSH celery", "LPUSH contest")
                    ):
                        sizes.append(len(seen["command"]))

            thread = threading.Thread(target=listen)
            thread.start()
            try:
                yield sizes
            finally:
                redis.Redis.from_url(self._server.url(0)).echo("over")
                thread.join()

    # --- theirs -------------------------------------------------------------------------

    def bare(self) -> Any:
        """Bare Celery's module, its worker ready."""
        self._alone("bare")
        url = celery_url(self._server.url(3))
        if "bare" not in self._workers:
            os.environ["BENCHMARK_URL"] = url
            self._start_celery("bare", "benchmarks.bare", {"BENCHMARK_URL": url})
            self._apps["bare"] = _anew("benchmarks.bare")
        return self._apps["bare"]

    def dramatiq(self) -> Any:
        """Dramatiq's module, its workers ready. Raises ImportError where it is not installed."""
        self._alone("dramatiq")
        if "dramatiq" not in self._workers:
            os.environ["DRAMATIQ_URL"] = url = self._server.url(4)
            self._apps["dramatiq"] = _anew("benchmarks.dramatiq_side")
            command = ["dramatiq", "benchmarks.dramatiq_side", "--threads", "1", "--processes"]
            self._start(
                "dramatiq", [*command, str(self._processes)], {"DRAMATIQ_URL": url}, "is ready"
            )
        return self._apps["dramatiq"]

    def dbos(self, what: str, count: int) -> float:
        """The seconds that DBOS takes. Raises ImportError where it is not installed."""
        self._alone("dbos")
        if self._dbos is None:
            __import__("dbos")
            self._dbos = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.dbos_side"], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self._stack.callback(_end, self._dbos)
            self._workers["dbos"] = psutil.Process(self._dbos.pid)
        process = self._dbos
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{what} {count}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise RuntimeError("DBOS ended")

    def _alone(self, name: str) -> None:
        """Stop everybody else's processes, where one is measured: they poll, on two cores."""
        if name == self._turn or self._processes > 1:
            return
        self._turn = name
        for other, worker in self._workers.items():
            order = signal.SIGCONT if other == name else signal.SIGSTOP
            for process in (worker, *worker.children(recursive=True)):
                process.send_signal(order)

    # --- processes ----------------------------------------------------------------------

    def _start_celery(self, name: str, app: str, environment: dict[str, str]) -> None:
        command = ["celery", "-A", app, "worker", "-c", str(self._processes), "-l", "INFO",
                   "--without-gossip", "--without-mingle"]  # fmt: skip
        self._start(name, command, environment, " ready.")

    def _start(
        self, name: str, command: list[str], environment: dict[str, str], ready: str
    ) -> None:
        log = self._folder / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **environment},
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._stack.callback(_end, process)
        give_up = time.monotonic() + _START_S
        while ready not in log.read_text():
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{name} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        self._workers[name] = psutil.Process(process.pid)


def _anew(module: str) -> Any:
    """A module that reads its URL from the environment, with that of this stage."""
    sys.modules.pop(module, None)
    return importlib.import_module(module)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def stage(folder: Path, *, processes: int) -> Iterator[Stage]:
    """A stage whose workers have so many pool processes each."""
    folder.mkdir()
    with EmbeddedRedis(folder / "redis", persistent=False) as server:
        built = Stage(folder, server, processes=processes)
        try:
            yield built
        finally:
            built.close()
