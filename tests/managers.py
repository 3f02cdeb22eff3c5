"""Manager processes for tests, started as `threadloom up` starts them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness import ROOT, START_TIMEOUT_S, WAIT_S, eventually
from threadloom.config import RegistryUnavailableError
from threadloom.routing.backends import ManagerBackend


@dataclass(frozen=True)
class RunningManager:
    """A manager, and where its door is."""

    process: subprocess.Popen[bytes]
    door: Path


def start_manager(door: Path) -> subprocess.Popen[bytes]:
    """Start a manager, which may not be ready yet."""
    return subprocess.Popen(
        [sys.executable, "-m", "threadloom.routing.backends.manager.server", str(door)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )


def _serves(process: subprocess.Popen[bytes], door: Path) -> bool:
    assert process.poll() is None, process.stderr and process.stderr.read()
    try:
        ManagerBackend(door, organism="anybody").stats()
    except RegistryUnavailableError:
        return False
    return True


@contextlib.contextmanager
def running_manager(door: Path) -> Iterator[RunningManager]:
    """Run a manager behind this door until the block is left."""
    with start_manager(door) as process:
        try:
            eventually(lambda: _serves(process, door), timeout_s=START_TIMEOUT_S)
            yield RunningManager(process, door)
            process.terminate()
            process.wait(WAIT_S)
        finally:
            process.kill()
