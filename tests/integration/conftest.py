"""The backends under the common contract: each test runs once over every one of them.

A test has an organism name of its own, so it meets nobody's data. Time is a clock in the
test's hand for `memory`; for `redis` it is Redis's, and a test waits until something is due.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from routing.backends import MemoryBackend, RedisBackend, SharedBackend
from tests.stories import Bench, Story

#: so short that a test can wait for it, and longer than the commands in between take
GRACE_MS = 30


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A backend of its own for this test, and how its time passes."""
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
    """A conversation of its own, not opened yet."""
    return Story(backend, id=str(uuid.uuid4()))
