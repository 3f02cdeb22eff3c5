"""`threadloom up`: run a worker and, unless a Redis is named, an embedded Redis."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from celery import Celery
from kombu.exceptions import OperationalError
from rich.table import Table
from rich.text import Text

from threadloom import tasks
from threadloom.config import OrganismConfig, masked
from threadloom.config.celery_settings import registry_url
from threadloom.routing import Organism, PayloadDefinitionError
from threadloom.routing.backends import MANAGER_VARIABLE
from threadloom.service.commands.options import FAILED, INVALID, OrganismArgument
from threadloom.service.deployment import (
    DEFAULT_FILE,
    ORGANISM_VARIABLE,
    REDIS_VARIABLE,
    backend_of,
    embedded_redis,
    examine,
    manager_door,
    needs_embedded_redis,
    needs_own_manager,
    plain_name,
)
from threadloom.service.display import console, one_line, plain
from threadloom.service.embedded_redis import EmbeddedRedis
from threadloom.service.manager_process import ManagerProcess, ManagerTakenError
from threadloom.service.signals import SignalQueue
from threadloom.service.worker_process import WorkerProcess, told

#: seconds between two pings that ask whether the worker is ready
_READY_POLL_S = 0.5


class LogLevel(StrEnum):
    """The log levels of the worker."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


def up(
    organism: OrganismArgument = DEFAULT_FILE,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", min=1, metavar="N",
            help="How many handlers run at once; default: one per processor.",
        ),
    ] = None,
    loglevel: Annotated[
        LogLevel, typer.Option("--loglevel", "-l", case_sensitive=False, help="What is logged.")
    ] = LogLevel.INFO,
) -> None:  # fmt: skip
    """Start an organism on this machine: check it, then run its worker until Ctrl-C.

    Unless the file or THREADLOOM_REDIS_URL names a Redis, it starts one and keeps its data for
    the next start. The status goes to standard output, the log to standard error.
    """
    config, found = examine(organism, os.environ)
    with ExitStack() as stack:
        signals = stack.enter_context(SignalQueue(*_heard()))
        server = _own_redis(config, stack)
        url = server.url() if server else os.environ.get(REDIS_VARIABLE)
        manager = _own_manager(config, stack)
        backend = backend_of(config, url, os.environ)
        app = tasks.assemble(config, found, redis_url=url, backend=backend)
        stack.callback(app.close)
        # A Redis that is not there, or a registry of another version, is told now.
        tasks.runtime_of(app).backend.check_format()
        worker = WorkerProcess(
            hostname=f"{plain_name(found.name)}-{os.getpid()}@{socket.gethostname()}",
            environ={
                **os.environ,
                ORGANISM_VARIABLE: str(organism.resolve()),
                **({REDIS_VARIABLE: url} if url else {}),
                **({MANAGER_VARIABLE: str(manager.door)} if manager else {}),
            },
            log=sys.stderr,
            loglevel=loglevel.upper(),
            concurrency=concurrency,
        )
        stack.callback(worker.end)
        console().print(_status(config, found, server, url, manager))
        served = {"Redis": server, "manager": manager}
        pids = {name: process.pid for name, process in served.items() if process}
        status = _Watch(app, worker, pids, signals).until_it_ends()
    raise typer.Exit(status)


def _heard() -> list[signal.Signals]:
    heard = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
    # Under nohup, SIGHUP must stay ignored.
    return heard if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*heard, signal.SIGHUP]


def _own_redis(config: OrganismConfig, stack: ExitStack) -> EmbeddedRedis | None:
    if not needs_embedded_redis(config, os.environ):
        return None
    server = stack.enter_context(embedded_redis(config))
    if not server.owns_server:
        text = (
            f"{plain(config.organism.name)} is up already: process {server.pid} is its Redis, in "
            f"{server.directory}. For more workers: {REDIS_VARIABLE}={shlex.quote(server.url())} "
            f"{ORGANISM_VARIABLE}={shlex.quote(config.source)} celery -A threadloom worker"
        )
        _complain(text)
        raise typer.Exit(INVALID)
    return server


def _own_manager(config: OrganismConfig, stack: ExitStack) -> ManagerProcess | None:
    if not needs_own_manager(config, os.environ):
        return None
    door = manager_door(config, os.environ)
    try:
        return stack.enter_context(ManagerProcess(door, log=sys.stderr))
    except ManagerTakenError as exc:
        _complain(f"{plain(config.organism.name)} is up already: {plain(str(exc))}")
        raise typer.Exit(INVALID) from exc


def _status(
    config: OrganismConfig,
    organism: Organism,
    server: EmbeddedRedis | None,
    url: str | None,
    manager: ManagerProcess | None,
) -> Table:
    own = [name for name, entry in organism.listeners.items() if not entry.system]
    if server:
        redis = f"embedded, data kept in {server.directory}"
    else:
        redis = masked(registry_url(config, redis_url=url) or "")
    option = "" if Path(config.source) == DEFAULT_FILE else f" -o {shlex.quote(config.source)}"
    rows = {
        "organism": Text.assemble((plain(organism.name), "bold"), f"  {plain(config.source)}"),
        "listeners": Text(one_line(", ".join(own) or "none but the system's", 1000)),
        "queue": Text(plain(", ".join(organism.queues))),
        "redis": Text(plain(redis)),
        **(
            {"manager": Text(plain(f"conversations in memory, door {manager.door}"))}
            if manager
            else {}
        ),
        "send": Text(plain(f"threadloom send{option} {_example(organism, own)} --wait"), "cyan"),
        "look": Text(plain(f"threadloom threads{option}"), "cyan"),
        "stop": Text("Ctrl-C"),
    }
    table = Table.grid(padding=(0, 2))
    for title, text in rows.items():
        table.add_row(Text(title, "dim"), text)
    return table


def _example(organism: Organism, names: list[str]) -> str:
    """Return a listener and an example of its payload, quoted for a shell."""
    if not names:
        return "LISTENER PAYLOAD"
    kind = next(iter(organism.listeners[names[0]].accepts.values()))
    try:
        payload = json.dumps(kind.to_json(kind.example()), ensure_ascii=False)
    except PayloadDefinitionError:  # `example` cannot construct a value of every class
        return f"{shlex.quote(names[0])} PAYLOAD"
    return f"{shlex.quote(names[0])} {shlex.quote(payload)}"


class _Watch:
    """Waits for the worker to end, and forwards requests to stop meanwhile."""

    def __init__(
        self,
        app: Celery,
        worker: WorkerProcess,
        servers: Mapping[str, int],
        signals: SignalQueue,
    ) -> None:
        self._app = app
        self._worker = worker
        #: name to process id of each server that the worker needs
        self._servers = servers
        self._signals = signals
        self._out = console()
        # Without remote control the worker cannot be asked whether it is ready.
        self._ready = not app.conf.worker_enable_remote_control
        self._pause_s = 0.0
        self._lost = ""

    def until_it_ends(self) -> int:
        """Return the exit status of `up` once the worker has ended."""
        while (ended := self._worker.status()) is None:
            received = self._signals.wait(None if self._ready else self._pause_s)
            if received is None:
                self._ask_ready()
            elif received != signal.SIGCHLD:
                self._stop()
            elif not self._lost and (lost := self._lost_server()):
                self._lost = lost
                _complain(f"its {lost} has ended; stopping")
                self._worker.request_stop()
        if self._lost:
            return FAILED
        if self._worker.stops:
            self._out.print("stopped")
            return 0
        _complain(f"the worker has ended by itself, {told(ended)}; see its log above")
        return FAILED

    def _ask_ready(self) -> None:
        try:
            answers = self._app.control.ping(
                destination=[self._worker.hostname], timeout=_READY_POLL_S, limit=1
            )
        except OperationalError:  # the worker logs the lost broker and keeps reconnecting
            self._pause_s = _READY_POLL_S
            return
        if answers:
            self._ready = True
            self._out.print(Text.assemble(("● ", "green"), ("ready", "bold")))

    def _stop(self) -> None:
        self._ready = True  # no more pings: readiness does not matter once a stop is requested
        self._worker.request_stop()
        if self._worker.stops == 1:
            self._out.print("stopping once running handlers are done; Ctrl-C again to end them")
        elif self._worker.stops == 2:
            self._out.print("ending them; their deliveries run again at the next start")

    def _lost_server(self) -> str:
        left = os.WEXITED | os.WNOHANG | os.WNOWAIT
        ended = (n for n, pid in self._servers.items() if os.waitid(os.P_PID, pid, left))
        return next(ended, "")


def _complain(text: str) -> None:
    console(stderr=True).print(Text.assemble(("Error: ", "bold red"), text), soft_wrap=True)
