"""A fleet of killable workers: whoever ends is replaced, as a process supervisor would do."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.nursery import ROOT, Nursery
from tests.harness import eventually

_LOOK_S = 0.05


class Killable:
    """One worker: a session with a main process and its pool."""

    def __init__(self, pid: int, name: str, log: Path) -> None:
        self.pid = pid
        self.name = name
        self.log = log
        self._process = psutil.Process(pid)

    @property
    def alive(self) -> bool:
        """Whether the main process is there."""
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False  # it ended between the two questions

    @property
    def ready(self) -> bool:
        """Whether it has said that it is ready."""
        return self.alive and f"{self.name} ready" in self.log.read_text(errors="replace")

    def pool(self) -> list[int]:
        """The pids of its pool processes."""
        try:
            return [child.pid for child in self._process.children()]
        except psutil.NoSuchProcess:
            return []

    def pids(self) -> list[int]:
        """Every pid of it."""
        return [self.pid, *self.pool()]

    def signal(self, number: signal.Signals, *, whole: bool = True) -> None:
        """Send a signal to every process of it, or to the main process alone."""
        try:
            (os.killpg if whole else os.kill)(self.pid, number)
        except ProcessLookupError:
            return  # it was quicker


@dataclass(frozen=True)
class Variant:
    """How a worker differs from the others."""

    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


class Fleet:
    """`size` workers of one organism, replaced when they end, until `close()`."""

    def __init__(
        self,
        nursery: Nursery,
        directory: Path,
        environment: Mapping[str, str],
        *,
        size: int = 2,
        concurrency: int = 2,
        watchers: int = 0,
        variants: Sequence[Variant] = (),
    ) -> None:
        """`watchers` more workers take no messages: they only sweep, and nobody kills them.

        The first worker is as told, the others are of one of the `variants` in turn, if there are
        any, and of the next one after each replacement.
        """
        self._nursery = nursery
        self._directory = directory
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._concurrency = concurrency
        self._variants = itertools.cycle(variants or [Variant()])
        self._closing = threading.Event()
        self.started = 0
        self._watchers = [self._start(Variant(options=("-Q", "watched"))) for _ in range(watchers)]
        self.members = [self._start(self._variant(place)) for place in range(size)]
        self._executor = ThreadPoolExecutor(1)
        self._supervision = self._executor.submit(self._supervise)

    def await_ready(self) -> None:
        """Return when every worker takes messages."""
        eventually(lambda: all(each.ready for each in self._everybody()), what="workers ready")

    def logs(self) -> str:
        """What all workers have logged."""
        files = sorted(self._directory.glob("chaos*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')}" for f in files)

    def close(self) -> None:
        """Have every worker finish what it does and end; fail if one does not."""
        self._closing.set()
        self._supervision.result()
        self._executor.shutdown()
        everybody = self._everybody()
        for each in everybody:
            each.signal(signal.SIGCONT)
            each.signal(signal.SIGTERM, whole=False)
        try:
            eventually(lambda: not any(each.alive for each in everybody), what="warm shutdown")
        finally:
            for each in everybody:
                each.signal(signal.SIGKILL)

    def _everybody(self) -> list[Killable]:
        return [*self._watchers, *self.members]

    def _supervise(self) -> None:
        while not self._closing.wait(_LOOK_S):
            for place, each in enumerate(self.members):
                if not each.alive:
                    self.members[place] = self._start(self._variant(place))

    def _variant(self, place: int) -> Variant:
        return next(self._variants) if place else Variant()

    def _start(self, variant: Variant) -> Killable:
        name = f"chaos{self.started}@test"
        log = self._directory / f"chaos{self.started:03}.log"
        log.touch()
        self.started += 1
        pid = self._nursery.start(
            [
                "-A", "tests.chaos.killable", "worker", "--loglevel", "INFO",
                "--concurrency", str(self._concurrency), "--hostname", name,
                "--without-gossip", "--without-mingle", *variant.options,
            ],
            {**self._environment, **variant.environment},
            log,
        )  # fmt: skip
        return Killable(pid, name, log)
