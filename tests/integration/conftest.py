"""The backends under the common contract: each test runs once on every one of them.

Each test has an organism name of its own, so it meets no other test's data. For `memory` a test
moves the clock itself; the other backends use their own clock, and a test waits until something is
due.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.managers import running_manager
from tests.stories import Bench, Story
from threadloom.routing.backends import ManagerBackend, MemoryBackend, RedisBackend, SharedBackend

#: so short that a test can wait for it, and longer than the commands in between take
GRACE_MS = 30


@pytest.fixture(scope="session")
def manager_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A manager of this test run, in a process of its own; each organism is a registry of its."""
    with running_manager(tmp_path_factory.mktemp("manager") / "door") as manager:
        yield manager.door


@pytest.fixture(params=["memory", "manager", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A backend of its own for this test, and a way to let its time pass."""
    organism = f"test-{uuid.uuid4().hex[:12]}"
    graces = {"publish_grace_ms": GRACE_MS, "begin_grace_ms": GRACE_MS}
    if request.param == "memory":
        now = [1_700_000_000_000]

        def memory(**options: Any) -> SharedBackend:
            given = {"organism": organism, "clock": lambda: now[0], **graces, **options}
            return MemoryBackend(**given)

        def jump() -> None:
            now[0] += 10

        yield Bench(memory(), memory, jump)
        return
    if request.param == "manager":
        door, numbers = request.getfixturevalue("manager_door"), itertools.count()

        def in_manager(**options: Any) -> SharedBackend:
            name = f"{organism}-{next(numbers)}"
            return ManagerBackend(door, **{"organism": name, **graces, **options})

        yield Bench(in_manager(), in_manager, lambda: time.sleep(0.002))
        return
    client = request.getfixturevalue("redis_client")

    def on_redis(**options: Any) -> SharedBackend:
        return RedisBackend(client, **{"organism": organism, **graces, **options})

    backend = on_redis()
    yield Bench(backend, on_redis, lambda: time.sleep(0.002))
    backend.clear()
    left = list(client.scan_iter(match=f"tl:{organism}:*"))
    assert not left, "clear() leaves nothing of its organism"


@pytest.fixture
def backend(bench: Bench) -> SharedBackend:
    return bench.backend


@pytest.fixture
def story(backend: SharedBackend) -> Story:
    """A new conversation that is not opened yet."""
    return Story(backend, id=str(uuid.uuid4()))
