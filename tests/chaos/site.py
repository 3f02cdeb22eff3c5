"""The chaos organism at work on one Redis: its fleet, its app in this process, its traces."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis
import yaml

from tests.chaos.fleet import Fleet, Variant
from tests.chaos.nursery import Nursery
from tests.chaos.orders import SKEW, Orders
from tests.chaos.workload import NOVICE
from tests.harness import ORGANISMS, RECORDS_VARIABLE, adjusted, whole_lines
from threadloom import tasks
from threadloom.config.celery_settings import celery_url
from threadloom.routing.backends import SharedBackend
from threadloom.routing.backends.redis.connection import shard_of
from threadloom.routing.backends.redis.layout import Field

ORGANISM = ORGANISMS / "chaos" / "organism.yaml"


class Step(NamedTuple):
    """One line of the journal: a pool process has reached a point of a delivery's way."""

    at: float
    pid: int
    point: str
    listener: str
    conversation: str
    delivery: str


class Site:
    """One deployment. `broker_url` and `registry_url` are the workers' way to the Redis at
    `redis_url`, e.g. through a proxy; this process always takes the direct one.
    """

    def __init__(
        self,
        directory: Path,
        nursery: Nursery,
        *,
        redis_url: str,
        registry_url: str = "",
        broker_url: str = "",
        environment: Mapping[str, str] | None = None,
        size: int = 2,
        concurrency: int = 2,
        watchers: int = 0,
        local_slice_ms: int | None = None,
        mixed: bool = False,
    ) -> None:
        """`mixed`: every second worker differs from the others in one way, see `_variants`."""
        self.directory = directory
        organism = ORGANISM
        if local_slice_ms is not None:
            place = Path(shutil.copytree(ORGANISM.parent, directory / "chaos"))
            organism = adjusted(place / ORGANISM.name, place, local_slice_ms=local_slice_ms)
        self.redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self.orders = Orders(directory / "orders")
        self.orders.directory.mkdir()
        self._records = directory / "records.jsonl"
        self._journal = directory / "journal.jsonl"
        direct = _urls(redis_url, redis_url)
        self.app = tasks.create_app(organism, environ={**os.environ, **direct})
        self.fleet = Fleet(
            nursery,
            directory,
            {
                **_urls(registry_url or redis_url, broker_url or redis_url),
                "THREADLOOM_ORGANISM": str(organism),
                "CHAOS_GATES_URL": redis_url,
                "CHAOS_JOURNAL": str(self._journal),
                "CHAOS_ORDERS": str(self.orders.directory),
                RECORDS_VARIABLE: str(self._records),
                **(environment or {}),
            },
            size=size,
            concurrency=concurrency,
            watchers=watchers,
            variants=_variants(_without(organism, NOVICE, directory / "older")) if mixed else (),
        )

    @property
    def queue(self) -> str:
        """The organism's own queue: a list in Redis."""
        return tasks.runtime_of(self.app).organism.own_queue

    @property
    def backend(self) -> SharedBackend:
        """The registry, reached directly."""
        return tasks.runtime_of(self.app).backend

    def journal(self, conversation_id: str | None = None) -> list[Step]:
        """Which points were reached, in order: of all conversations, or of one."""
        steps = (Step(*json.loads(line)) for line in whole_lines(self._journal))
        return [s for s in steps if conversation_id in (None, s.conversation)]

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """What handlers recorded, in order; only those with the wanted values."""
        found = map(json.loads, whole_lines(self._records))
        return [r for r in found if all(r.get(k) == v for k, v in wanted.items())]

    def states(self, conversation_id: str) -> dict[str, str]:
        """The state of each delivery of a conversation, by id."""
        fields = self.redis.hgetall(f"{_shard(conversation_id)}:deliveries:{conversation_id}")
        return {
            name.removeprefix(Field.STATE): value.partition("|")[0]
            for name, value in fields.items()
            if name.startswith(Field.STATE)
        }

    def due(self, conversation_id: str) -> list[str]:
        """What the registry still has to watch of a conversation."""
        members = [
            member
            for kind in ("due", "sent")
            for member in self.redis.zrange(f"{_shard(conversation_id)}:{kind}", 0, -1)
        ]
        return [member for member in members if f"|{conversation_id}|" in member]

    def open_gate(self, name: str, pid: int) -> None:
        """Let the handler pass that waits at this gate in this process, or will."""
        self.redis.rpush(f"gate:{name}:{pid}", "pass")

    def close(self) -> None:
        """Stop the workers, and let go of connections."""
        try:
            self.fleet.close()
        finally:
            self.app.close()
            self.redis.close()


def _without(organism: Path, listener: str, place: Path) -> Path:
    """An older version of an organism, which does not know this listener."""
    shutil.copytree(organism.parent, place)
    file = place / organism.name
    content = yaml.safe_load(file.read_text())
    content["listeners"] = [each for each in content["listeners"] if each["name"] != listener]
    file.write_text(yaml.safe_dump(content))
    return file


def _variants(older: Path) -> tuple[Variant, ...]:
    """How workers differ: as in a rolling deploy, with clocks that are wrong, recycled often."""
    return (
        Variant({"THREADLOOM_ORGANISM": str(older)}),
        Variant(options=("--max-tasks-per-child", "3")),
        Variant({SKEW: "600"}),
        Variant({SKEW: "-600"}),
    )


def _shard(conversation_id: str) -> str:
    """What the names of a conversation's keys begin with."""
    return f"tl:chaos:{{{shard_of(conversation_id)}}}"


def _urls(registry_url: str, broker_url: str) -> dict[str, str]:
    return {
        "CHAOS_REGISTRY_URL": registry_url,
        "CHAOS_BROKER_URL": celery_url(broker_url),
        "CHAOS_RESULTS_URL": celery_url(broker_url),
    }
