"""A site whose workers reach broker and registry through proxies; its tests see the real thing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site
from tests.chaos.verdict import await_end, flaws, story
from tests.chaos.workload import PLANS, Plan
from tests.harness import eventually
from threadloom import tasks
from threadloom.routing.backends.redis.scripts import load_scripts
from threadloom.service.embedded_redis import EmbeddedRedis

#: seconds before a test gives up on what has to come
PATIENCE_S = 200.0


class Patient:
    """A run of a handler that waits at the gate named like its conversation."""

    def __init__(self, site: Site, conversation_id: str) -> None:
        self.site, self.conversation = site, conversation_id
        self.plan = Plan("patient", {"gate": conversation_id}, {"gate": conversation_id})
        self._first = eventually(self._ran, what="the handler runs")[0]

    def _ran(self) -> list[dict[str, Any]]:
        return self.site.records(event="ran", what=f"Visit(gate='{self.conversation}')")

    def end_process(self) -> None:
        """Kill the pool process of the first run."""
        os.kill(self._first["pid"], signal.SIGKILL)

    def runs(self) -> int:
        """How often the handler has begun."""
        return len(self._ran())

    def leave(self, run: int = 0) -> None:
        """Have this run finish, the first one if not told else."""
        self.site.open_gate(self.conversation, self._ran()[run]["pid"])
        eventually(lambda: self.site.records(event="passed", gate=self.conversation))


class Wires:
    """A site whose workers reach their servers through proxies."""

    def __init__(self, site: Site, registry: Proxy, broker: Proxy) -> None:
        self.site, self.registry, self.broker = site, registry, broker

    def begin(self, plan: Plan, conversation_id: str = "") -> str:
        """Start a conversation of this plan."""
        conversation_id = conversation_id or str(uuid.uuid4())
        tasks.inject(self.site.app, plan.to, plan.message, conversation_id=conversation_id)
        return conversation_id

    def admit(self) -> Patient:
        """A handler that waits until it is told to leave."""
        conversation = str(uuid.uuid4())
        self.begin(Plan("patient", {"gate": conversation}, {"gate": conversation}), conversation)
        return Patient(self.site, conversation)

    def connections(self) -> int:
        """How often a worker has connected to the broker."""
        return self.site.fleet.logs().count("Connected to")

    def republished(self) -> int:
        """How many messages the sweep has missed and published again."""
        return self.site.fleet.logs().count("sweep.republished")

    def came_out_right(self, conversation_id: str, plan: Plan) -> None:
        """It ends, with the value it should have, and every delivery settled once."""
        await_end(self.site, conversation_id, timeout_s=PATIENCE_S)
        assert not flaws(self.site, conversation_id, plan.expected), story(
            self.site, conversation_id
        )


def script(name: str) -> bytes:
    """What names one of the registry's scripts on the wire."""
    text = load_scripts()[name]
    return hashlib.sha1(text.encode()).hexdigest().encode()


def wired(
    directory: Path,
    nursery: Nursery,
    redis_server: EmbeddedRedis,
    url: str,
    environment: Mapping[str, str],
    *,
    size: int,
    concurrency: int,
) -> Iterator[Wires]:
    """A site of its own in a database of a Redis, until the iterator is closed."""
    db = int(url.rpartition("=")[2])
    registry, broker = (Proxy(str(redis_server.socket_path)) for _ in range(2))
    site = Site(
        directory,
        nursery,
        redis_url=url,
        registry_url=registry.url(db),
        broker_url=broker.url(db),
        environment=environment,
        size=size,
        concurrency=concurrency,
    )
    try:
        site.fleet.await_ready()
        wires = Wires(site, registry, broker)
        # Redis has to know every script before the reply to one is worth losing.
        wires.came_out_right(wires.begin(PLANS["buffer"]), PLANS["buffer"])
        yield wires
    finally:
        site.close()
        registry.close()
        broker.close()


class Told:
    """What injectors are told, each time, while it happens."""

    def __init__(self, client: redis.Redis) -> None:
        self._channel = client.pubsub(ignore_subscribe_messages=True)
        self._channel.psubscribe("*celery-task-meta-*")
        self._states: dict[str, list[str]] = {}

    def states(self, conversation_id: str) -> list[str]:
        """The states of its result, in their order."""
        while message := self._channel.get_message(timeout=0.1):
            result = json.loads(message["data"])
            self._states.setdefault(result["task_id"], []).append(result["status"])
        return self._states.get(conversation_id, [])

    def close(self) -> None:
        """Listen no more."""
        self._channel.close()


@contextmanager
def out_of_reach(proxy: Proxy, how: str) -> Iterator[None]:
    """Nobody gets through, by connections that end or by connections that are mute."""
    (proxy.go_away if how == "away" else proxy.fall_silent)()
    try:
        yield
    finally:
        (proxy.come_back if how == "away" else proxy.speak_again)()
