"""The works on a broker of its own that a test makes fail, and jobs with known answers.

The registry and the results are on another server, so only the broker loses anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis
from celery.result import AsyncResult

from tests.chaos.proxy import Proxy
from tests.desk import Story
from tests.harness import ORGANISMS, Deployment, eventually
from tests.rabbit import Rabbit
from tests.works import as_xml, fields_of, jobs, text_of, xml
from threadloom.primitives import BufferStart, SequenceStart
from threadloom.service.embedded_redis import EmbeddedRedis

#: seconds before a test stops waiting for an expected event
PATIENCE_S = 200.0


class Broker(Protocol):
    """A broker behind a proxy."""

    #: the proxy through which every process reaches it
    proxy: Proxy
    #: through the proxy, as Celery writes it
    url: str

    def drop_connections(self) -> None:
        """Make the server close all of its connections."""


class RedisBroker:
    """A Redis that keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedRedis(directory, persistent=False)
        self._server.start()
        self.proxy = Proxy(str(self._server.socket_path))
        self.url = self.proxy.url(0)

    def drop_connections(self) -> None:
        with redis.Redis.from_url(self._server.url()) as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)

    def restart(self) -> None:
        """Lose every message, including those that workers have in hand."""
        self._server.stop()
        self._server.start()

    def close(self) -> None:
        """Stop the server."""
        self.proxy.close()
        self._server.stop()


class RabbitBroker:
    """A virtual host of a RabbitMQ."""

    def __init__(self, rabbit: Rabbit, url: str) -> None:
        self._rabbit = rabbit
        self._direct_url = url
        self.proxy = Proxy(rabbit.address)
        parts = urlsplit(url)
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.proxy.port}"
        self.url = parts._replace(netloc=netloc).geturl()

    def drop_connections(self) -> None:
        self._rabbit.close_connections(self._direct_url)


@contextmanager
def redis_broker(directory: Path) -> Iterator[RedisBroker]:
    """A private Redis as the broker."""
    broker = RedisBroker(directory)
    try:
        yield broker
    finally:
        broker.close()


@contextmanager
def rabbit_broker(rabbit: Rabbit) -> Iterator[RabbitBroker]:
    """A private virtual host as the broker."""
    with rabbit.virtual_host() as url:
        broker = RabbitBroker(rabbit, url)
        try:
            yield broker
        finally:
            broker.proxy.close()


@dataclass(frozen=True)
class Job:
    """One conversation and the text of its answer."""

    to: str
    message: Any
    expected: str


def press_run(sheets: int) -> Job:
    """A buffer whose items are all published at once."""
    items = [xml("Sheet", number=number) for number in range(sheets)]
    return Job("system.buffer", BufferStart("press", items), "".join(map(str, range(sheets))))


def polishing(times: int) -> Job:
    """A sequence in which every step calls a peer."""
    start = SequenceStart(["line.polish"] * times, xml("Part", name="bolt"))
    return Job("system.sequence", start, "bolt" + "+polish" * times)


def line_of_buffers() -> Job:
    """A sequence whose first step is a buffer.

    The buffer's items start sequences and buffers of their own.
    """
    sequences = [("sequence", name) for name in "abcd"]
    buffers = [("buffer", f"machine:{name}") for name in "xy"]
    items = jobs(*sequences, *buffers)
    start = SequenceStart(["system.buffer", "archive"], as_xml(BufferStart("worker", items)))
    return Job("system.sequence", start, "filed BufferComplete")


WORK = [press_run(60), polishing(6), line_of_buffers(), press_run(20), polishing(3)]


class Plant:
    """The works with two workers of two processes each, on a broker that fails."""

    def __init__(self, broker: Broker, deployment: Deployment) -> None:
        self.broker = broker
        self.deployment = deployment

    def begin(self, *work: Job) -> list[tuple[Job, AsyncResult[Any]]]:
        """Start these conversations."""
        return [(job, self.deployment.inject(job.to, job.message)) for job in work]

    def busy(self, runs: int = 10) -> None:
        """Return when handlers have run this many more times."""
        before = len(self.deployment.records())
        eventually(lambda: len(self.deployment.records()) >= before + runs, what="handlers run")

    def purge(self) -> int:
        """Remove every waiting message; return their number."""
        app = self.deployment.app
        with app.connection_for_write() as connection, connection.channel() as channel:
            return sum(queue(channel).purge() for queue in self.deployment.queues())

    def came_right(self, begun: list[tuple[Job, AsyncResult[Any]]]) -> float:
        """Check that every job has its answer and every effect happened once; return the
        seconds it took.
        """
        start = time.monotonic()
        for job, result in begun:
            answer = fields_of(result.get(timeout=PATIENCE_S))
            found = answer.get("final_result") or answer.get("results")
            assert text_of(found) == job.expected
        took_s = time.monotonic() - start
        for _, result in begun:
            self._once(Story(self.deployment, result.id))
        return took_s

    def _once(self, story: Story) -> None:
        """Check that nothing happened twice: no run of a handler, no message, no ending."""
        records = [r for r in self.deployment.records() if r["thread"] in story.threads]
        runs = Counter(record["message"] for record in records)
        assert set(runs.values()) == {1}, runs
        sent = [e.detail["delivery"] for e in story.log if e.event == "message"]
        effects = Counter((d.parent_id, d.to, d.payload_name, d.scope) for d in sent)
        assert set(effects.values()) == {1}, effects
        assert [e.event for e in story.log].count("ended") == 1
        assert not [e for e in story.log if e.event == "late"]
        assert story.conversation.status == "completed"

    def resumed_s(self, since: float) -> float:
        """Return the seconds from `since` (s since 1970) until a handler ran, or 0 if none ran
        later.
        """
        later = [r["at"] for r in self.deployment.records() if r["at"] > since]
        return min(later) - since if later else 0.0


@contextmanager
def plant(broker: Broker, registry_url: str, directory: Path) -> Iterator[Plant]:
    """The plant at work."""
    deployment = Deployment(
        ORGANISMS / "works" / "organism.yaml",
        redis_url=registry_url,
        directory=directory,
        broker_url=broker.url,
    )
    try:
        for _ in range(2):
            deployment.start_worker(concurrency=2)
        yield Plant(broker, deployment)
    finally:
        deployment.close()
