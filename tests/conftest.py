"""Fixtures that every test may use: a private Redis of this test run.

The server is a real one, started by this process on a unix socket in a temporary directory. No test
may reach a Redis that somebody else runs. So variables that name one are taken out of the
environment first, and a database is emptied only after the server has proved by its process id that
it is ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import HealthCheck, settings

from threadloom.service.embedded_redis import DATABASES, EmbeddedRedis
from threadloom.service.redis_binary import RedisServerNotFoundError, find_redis_server

_REDIS_DEFAULT_PORT = 6379

# On a busy machine an example may take any time, which is not a fault.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
#: the same examples each time, so that unchanged code does not start to fail
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.register_profile("fuzz", settings.get_profile("dev"), print_blob=True)  # `make fuzz`
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def _no_foreign_redis() -> Iterator[None]:
    """Hide the user's own services from the tests and from every process they start.

    Celery obeys CELERY_BROKER_URL and CELERY_RESULT_BACKEND even against a configured URL.
    THREADLOOM_TEST_* variables are meant for the tests and stay, unless they name the default
    Redis.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in list(os.environ.items()):
            if name.startswith("THREADLOOM_TEST_"):
                if _is_default_redis(value):
                    pytest.exit(f"{name} points to the Redis on port 6379", returncode=2)
            elif name.startswith(("THREADLOOM_", "CELERY_")):
                patch.delenv(name)
        yield


def _is_default_redis(url: str) -> bool:
    parts = urlsplit(url)
    is_redis = parts.scheme.removeprefix("sentinel+").startswith(("redis", "valkey"))
    default_port = _REDIS_DEFAULT_PORT if is_redis and parts.hostname else None
    return (parts.port or default_port) == _REDIS_DEFAULT_PORT


@pytest.fixture(scope="session")
def redis_server(
    _no_foreign_redis: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedRedis]:
    """A real, in-memory Redis of this test run.

    Without a server on the machine its tests are skipped, but not in CI.
    """
    try:
        find_redis_server()
    except RedisServerNotFoundError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), persistent=False) as server:
        assert server.owns_server, "a fresh directory cannot have a server already"
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client on the empty database 0 of our own server; replies are bytes."""
    with redis.Redis.from_url(redis_server.url()) as client:
        assert client.info("server")["process_id"] == redis_server.pid, "not the server we started"
        client.flushdb()
        yield client


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> str:
    """The redis-py URL of the same empty database; `redis_server.celery_url()` is Celery's."""
    return redis_server.url()


@pytest.fixture(scope="session")
def deployment_url(redis_server: EmbeddedRedis) -> Callable[[], str]:
    """Give each deployment of this run a database of its own that no other test empties."""
    numbers = iter(range(1, DATABASES))
    return lambda: redis_server.url(next(numbers))
