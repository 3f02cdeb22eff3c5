"""`threadloom up` with `backend: {type: manager}`: the registry is a manager's, shared by real
processes: two of the worker's pool, `up` itself, and the commands that look from beside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import ORGANISMS, ROOT, START_TIMEOUT_S, WAIT_S, eventually
from threadloom.routing.backends import ManagerBackend
from threadloom.service.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the state directory cannot be moved"
)


class Shop:
    """The shop, its registry a manager's, in a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(directory / "state"),
            "COLUMNS": "200",
        }
        for file in (ORGANISMS / "shop").glob("*.*"):
            (directory / file.name).write_bytes(file.read_bytes())
        organism = directory / "organism.yaml"
        text = organism.read_text().replace(
            "{name: shop}", "{name: shop, backend: {type: manager}}"
        )
        organism.write_text(text)
        self.log = directory / "up.log"
        self.up: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """`threadloom up`, returning when it has said that it is ready."""
        with self.log.open("wb") as log:
            self.up = process = subprocess.Popen(
                [sys.executable, "-m", "threadloom", "up", "--concurrency", "2"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def ready() -> bool:
            log = self.log.read_text(errors="replace")  # perhaps cut in the middle of a character
            assert process.poll() is None, log
            return "● ready" in log

        eventually(ready, timeout_s=START_TIMEOUT_S, what="up is ready")
        return process

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """`threadloom` with these arguments, which has to end with this status."""
        done = subprocess.run(
            [sys.executable, "-m", "threadloom", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    @property
    def door(self) -> Path:
        [found] = self.directory.glob("state/threadloom/*/manager")
        return found


@pytest.fixture
def shop(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Shop]:
    """Needs a redis-server: the broker and the results are the embedded Redis's as ever."""
    found = Shop(tmp_path)
    yield found
    if found.up is not None and found.up.poll() is None:
        found.up.kill()
        found.up.wait()


def test_an_organism_on_a_manager_lives_and_ends_with_up(shop: Shop) -> None:
    """It serves calls between processes; commands see them; nothing of it is left at the end,
    and a manager that is lost is told."""
    assert "is not running here" in shop.run("threads", status=4).stderr
    up = shop.start()
    assert "conversations in memory" in shop.log.read_text()
    sent = shop.json("send", "counter", '{"pieces": 3}', "--wait")
    assert (sent["status"], sent["value"]["type"]) == ("completed", "Receipt")
    for n in range(10):
        shop.json("send", "counter", json.dumps({"pieces": n + 1}))
    rows = shop.json("threads")["conversations"]
    assert len(rows) == 11
    registry = ManagerBackend(shop.door, organism="shop")
    eventually(lambda: {c.status for c in registry.conversations(limit=99)} == {"completed"})
    eventually(lambda: registry.stats()["due"] == 0, what="all are told")
    registry.close()

    refused = shop.run("up", status=2)
    assert "shop is up already" in refused.stderr

    door = shop.door
    processes = psutil.Process(up.pid).children(recursive=True)
    up.send_signal(signal.SIGINT)
    assert up.wait(WAIT_S) == 0, shop.log.read_text()
    assert not door.exists()
    assert not [process for process in processes if process.is_running()]

    up = shop.start()
    assert shop.json("threads")["conversations"] == [], "its memory went with it"
    [manager] = [
        p for p in psutil.Process(up.pid).children() if "manager.server" in str(p.cmdline())
    ]
    manager.kill()
    assert up.wait(WAIT_S) == 1
    assert "its manager has ended; stopping" in shop.log.read_text()
