"""What is told of a server's URL, and what is not."""

from __future__ import annotations

import pytest

from threadloom.config.urls import REDIS_SCHEMES, url_fault, urls_fault

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        f"redis://:{PASSWORD}/x@localhost/0",
        f"redis://:{PASSWORD}#x@localhost/0",
        f"redis://:{PASSWORD}?x@localhost/0",
        f"redis://:/{PASSWORD}@localhost/0",
        "redis://user:1234/x@localhost/0",
        f"redis://user:a@b/{PASSWORD}@localhost/0",
        "redis://localhost:port",
        "redis://[::1",
    ],
)
def test_a_url_that_would_be_misread_is_a_fault(url: str) -> None:
    """The text says what to do, and shows nothing of the URL."""
    fault = url_fault(url, REDIS_SCHEMES)
    assert fault
    assert PASSWORD not in fault
    assert "localhost" not in fault


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://user:p%2Fw@[::1]:6379/3?ssl_cert_reqs=none",
        "unix://user:pw@/run/redis.sock?db=2",
        "unix:///run/a@b/redis.sock",
        "redis://:p@ss@localhost:6379/0",
    ],
)
def test_a_url_that_is_read_as_meant_is_none(url: str) -> None:
    """Every form of redis-py passes."""
    assert url_fault(url, REDIS_SCHEMES) is None


def test_settings_may_name_several_servers_or_a_backend_by_its_name() -> None:
    """Each of them is looked at."""
    assert urls_fault(["amqp://a//", "amqp://b/desk"]) is None
    assert urls_fault("sentinel://a:26379;sentinel://b:26379") is None
    assert urls_fault("django-db") is None
    assert urls_fault(f"amqp://a//;amqp://user:{PASSWORD}/x@b/desk")
