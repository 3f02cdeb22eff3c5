"""What a worker needs at its start, and which app a process means by the current one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.harness import ORGANISMS, ROOT, START_TIMEOUT_S
from threadloom.routing.backends import MemoryBackend, RedisBackend, SharedBackend
from threadloom.tasks.pools import pool_fault

MEMORY = MemoryBackend(organism="o")
REDIS = RedisBackend(redis.Redis(), organism="o", prefix="tl:", ttl_s=1)


@pytest.mark.parametrize(
    ("pool", "backend", "instead"),
    [
        ("gevent", REDIS, "-P prefork"),
        ("eventlet", REDIS, "-P prefork"),
        ("prefork", MEMORY, "-P solo"),
        ("prefork", REDIS, None),
        ("solo", MEMORY, None),
        ("thread", MEMORY, None),
    ],
)
def test_a_pool_that_cannot_hold_is_refused(
    pool: str, backend: SharedBackend, instead: str | None
) -> None:
    """The reason says what to use; the others are let through."""
    fault = pool_fault(f"celery.concurrency.{pool}", backend)
    assert (instead in fault) if fault and instead else fault is instead


def test_a_registry_in_memory_is_refused_under_prefork(tmp_path: Path) -> None:
    """Each process would have its own, and eleven of twelve conversations would be nowhere."""
    (tmp_path / "organism.yaml").write_text(
        "organism: {name: o, backend: {type: memory}, celery: {broker_url: 'memory://', "
        "result_backend: 'cache+memory://'}}\nlisteners: []\n"
    )
    refused = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "threadloom", "worker", "-c", "2"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        timeout=START_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "-P solo" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_redis_that_evicts_is_told(redis_client: redis.Redis, redis_url: str) -> None:
    """Only one that has a limit can be full; one that keeps everything is as it should be."""
    backend = RedisBackend(redis_client, organism="o", prefix="tl:", ttl_s=1)
    assert backend.eviction_policy() is None
    try:
        redis_client.config_set("maxmemory-policy", "allkeys-lru")
        assert backend.eviction_policy() is None, "it has no limit"
        redis_client.config_set("maxmemory", "1gb")
        assert backend.eviction_policy() == "allkeys-lru"
    finally:
        redis_client.config_set("maxmemory", "0")
        redis_client.config_set("maxmemory-policy", "noeviction")


CURRENT = """
import sys
{first}
import threadloom
from threadloom.routing.backends import MemoryBackend
nowhere = MemoryBackend(organism="desk")
ours = threadloom.create_app(sys.argv[1], redis_url="redis://localhost:1", backend=nowhere)
import threading
from celery import current_app, shared_task, signature
@shared_task
def plain(): ...
seen = [current_app._get_current_object(), signature("clerk").app, plain.app]
other = threading.Thread(target=lambda: seen.append(current_app._get_current_object()))
other.start(); other.join()
print([app.main == ours.main for app in seen])
"""


@pytest.mark.parametrize(
    ("first", "ours"),
    [
        ("", [True] * 4),
        ("from celery import current_app; current_app.conf", [True] * 4),  # Celery's fallback
        ("import celery; team = celery.Celery('team')", [False] * 4),
        ("import celery; team = celery.Celery('team', set_as_current=False)", [True] * 4),
        (
            "import celery, threading; made = []; t = threading.Thread("
            "target=lambda: made.append(celery.Celery('team'))); t.start(); t.join()",
            [False] * 4,
        ),
    ],
)
def test_our_app_is_current_where_it_is_the_only_one(first: str, ours: list[bool]) -> None:
    """A `shared_task` or `signature` of a producer goes to our broker; a team's app stays."""
    done = subprocess.run(
        [sys.executable, "-c", CURRENT.format(first=first), str(ORGANISMS / "desk/organism.yaml")],
        cwd=ROOT, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == str(ours), done.stderr[-2000:]
