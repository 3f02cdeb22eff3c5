"""What a dead worker held on a Redis broker is redelivered, and nobody else's messages are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from tests.desk import close_app
from tests.harness import ORGANISMS, eventually
from threadloom import tasks
from threadloom.tasks.unacknowledged import Unacknowledged

#: so short that a test can wait until a message is stale
STALE_S = 0.4
#: a time long past, as one message after the other of a killed worker may have it
LONG_AGO_S = 1_600_000_000.0


class Site:
    """The desk on a Redis broker, and a worker of which nothing is left but what it held."""

    def __init__(self, url: str) -> None:
        self.app: Celery = tasks.create_app(ORGANISMS / "desk" / "organism.yaml", redis_url=url)
        self.redis = redis.Redis.from_url(url)
        self._connection = self.app.connection_for_read()
        self.channel: Any = self._connection.default_channel
        self._workers: list[Unacknowledged] = []

    def held(self, count: int, task: str = "clerk") -> list[bytes]:
        """Send messages and receive them without acknowledging; the tags of all that are held."""
        for _ in range(count):
            self.app.send_task(task, [{"number": 1}], queue="desk", ignore_result=True)
        queue = self.app.amqp.queues["desk"](self.channel)  # type: ignore[attr-defined]
        for _ in range(count):
            assert queue.get() is not None
        found: list[bytes] = self.redis.zrange(self.channel.unacked_index_key, 0, -1)  # type: ignore[assignment]
        return found

    def date(self, tags: list[bytes], time_s: float) -> None:
        """Say when these messages were received."""
        self.redis.zadd(self.channel.unacked_index_key, dict.fromkeys(tags, time_s))

    def worker(self) -> Unacknowledged:
        """Another worker's view of what is held."""
        organism = tasks.runtime_of(self.app).organism
        self._workers.append(Unacknowledged(self.app, organism, stale_s=STALE_S))
        return self._workers[-1]

    def close(self) -> None:
        self.channel.qos._delivered.clear()  # a dead worker gives nothing back
        self._connection.close()
        for worker in self._workers:
            worker.close()
        self.redis.close()
        close_app(self.app)


@pytest.fixture
def site(deployment_url: Callable[[], str]) -> Iterator[Site]:
    site = Site(deployment_url())
    yield site
    site.close()


def redelivered(worker: Unacknowledged, wanted: int) -> int:
    """Sweep until so many messages were redelivered; returns how many were."""
    found = [0]

    def swept() -> bool:
        found[0] += worker.sweep([])
        return found[0] >= wanted

    eventually(swept, what=f"{wanted} messages are redelivered")
    return found[0]


def test_all_of_a_workers_messages_come_back(site: Site) -> None:
    """A worker updates the times of all its messages at once, so they are the same ones.

    There are more of them than one sweep examines, and other tasks' messages among them.
    """
    mine = site.held(450)
    both = site.held(30, task="somebody.elses")
    site.date(both, LONG_AGO_S)
    worker = site.worker()
    assert redelivered(worker, len(mine)) == len(mine)
    assert site.redis.llen("desk") == len(mine)
    assert site.redis.zcard(site.channel.unacked_index_key) == 30
    assert [worker.sweep([]) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("clock", ["behind", "ahead"])
def test_a_workers_clock_does_not_count(site: Site, clock: str) -> None:
    """kombu dates a message by the clock of the worker that received it, which may be wrong.

    As long as its worker lives, the message is dated by Redis: nobody redelivers it. Once the
    worker is dead it comes back as soon as any other.
    """
    [tag] = site.held(1)
    seconds, _ = site.redis.time()  # type: ignore[misc]
    site.date([tag], seconds + (3600 if clock == "ahead" else -3600))
    alive, other = site.worker(), site.worker()
    request: Any = SimpleNamespace(message=SimpleNamespace(delivery_tag=tag))
    begun, _ = site.redis.time()  # type: ignore[misc]

    def long_enough() -> bool:
        assert alive.sweep([request]) == 0
        assert other.sweep([]) == 0
        return bool(site.redis.time()[0] > begun + 3 * STALE_S)  # type: ignore[index]

    eventually(long_enough, what="both have swept for three times as long as a message may lie")
    assert redelivered(other, 1) == 1


def test_after_an_outage_nobodys_messages_are_stale(site: Site) -> None:
    """While the broker was away no worker could update its messages: all look stale at first."""
    tags = site.held(3)
    worker = site.worker()
    redelivered_before = worker.sweep([])
    site.date(tags, LONG_AGO_S)
    requests: list[Any] = [
        SimpleNamespace(message=SimpleNamespace(delivery_tag=tag)) for tag in tags
    ]
    assert (redelivered_before, site.worker().sweep([])) == (0, 0)
    assert site.worker().sweep(requests) == 0, "its owner is the next to update them"
    oldest = site.redis.zrange(site.channel.unacked_index_key, 0, 0, withscores=True)
    assert oldest[0][1] > LONG_AGO_S  # type: ignore[index]
