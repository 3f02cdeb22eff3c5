"""A registry of another version: whatever starts on it says so, and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.desk import close_app
from tests.harness import ORGANISMS, ROOT, START_TIMEOUT_S
from tests.stories import Bench
from threadloom import tasks
from threadloom.routing.backends import RedisBackend
from threadloom.routing.errors import RegistryFormatError
from threadloom.routing.store import FORMAT

#: the key that holds a registry's format
KEY = "tl:desk:{0}:format"


def test_a_new_registry_takes_this_version(bench: Bench) -> None:
    """The check passes on every backend, and passes again when it is repeated."""
    bench.backend.check_format()
    bench.backend.check_format()


def test_a_registry_of_another_version_is_refused(redis_client: redis.Redis) -> None:
    """An older and a newer format are refused with a text that says what to do, and the format
    stays.
    """
    backend = RedisBackend(redis_client, organism="desk")
    for found, which in ((FORMAT + 1, "a newer"), (FORMAT - 1, "an older")):
        redis_client.set(KEY, found)
        with pytest.raises(RegistryFormatError, match=which) as caught:
            backend.check_format()
        assert (caught.value.found, caught.value.expected) == (found, FORMAT)
        assert redis_client.keys() == [KEY.encode()]
        assert redis_client.get(KEY) == str(found).encode()


def test_neither_worker_nor_command_starts_on_it(redis_client: redis.Redis, redis_url: str) -> None:
    """Both end with the reason and write nothing there."""
    redis_client.set(KEY, FORMAT + 1)
    organism = ORGANISMS / "desk" / "organism.yaml"
    worker = _run(
        "celery", "-A", "threadloom", "worker", "-c", "1", organism=organism, url=redis_url
    )
    assert worker.returncode != 0
    assert "written by a newer version" in worker.stderr
    listing = _run("threadloom", "threads", "-o", str(organism), organism=organism, url=redis_url)
    assert listing.returncode == 2
    assert "written by a newer version" in listing.stderr.replace("\n", " ")
    assert redis_client.keys("tl:*") == [KEY.encode()]


def test_nothing_is_injected_into_it(redis_client: redis.Redis, redis_url: str) -> None:
    """A sender of another version would write rows that the workers cannot read."""
    redis_client.set(KEY, FORMAT + 1)
    app = tasks.create_app(ORGANISMS / "desk" / "organism.yaml", redis_url=redis_url)
    with pytest.raises(RegistryFormatError):
        tasks.inject(app, "clerk", {"number": 1})
    assert redis_client.keys() == [KEY.encode()]
    close_app(app)


def _run(*module: str, organism: Path, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "200",
            "THREADLOOM_ORGANISM": str(organism),
            "THREADLOOM_REDIS_URL": url,
            "THREADLOOM_TEST_RECORDS": "/dev/null",
        },
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
