"""Which messages count as lost: decided for each queue, by the registry's clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import pytest

from tests.harness import eventually
from threadloom.routing import Admitted, Listener, Organism
from threadloom.routing.backends import MemoryBackend
from threadloom.routing.planner import open_conversation
from threadloom.routing.records import Publication
from threadloom.tasks import lost
from threadloom.tasks.arrivals import Arrivals
from threadloom.tasks.runtime import Runtime, new_id

ORGANISM = Organism(
    "o",
    MappingProxyType(
        {
            "quick": Listener("quick", print, {}, ""),
            "slow": Listener("slow", print, {}, "", queue="slow"),
        }
    ),
)


class Broker:
    """What a publisher knows of the queues, and what it is given to publish."""

    def __init__(self, *empty: str) -> None:
        self.empty = set(empty)
        self.published: list[str] = []

    def empty_queues(self) -> set[str]:
        return self.empty

    def publish(self, publications: Sequence[Publication]) -> int:
        self.published += [each.id for each in publications]
        return len(publications)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """One with nothing in it, where a message is lost after a millisecond."""
    monkeypatch.setattr(lost, "LOST_AFTER_MS", 1)
    monkeypatch.setattr(lost, "OVERTAKEN_BY_MS", 1)
    return Runtime(ORGANISM, MemoryBackend(organism="o"))


def sent(runtime: Runtime, to: str, name: str) -> None:
    """A conversation whose first message the broker was given some time ago."""
    opening = open_conversation(
        name, runtime.organism.listeners[to], Admitted("P", "m.P", b"<P/>"),
        from_id="external", root_thread=new_id(), new_id=new_id,
    )  # fmt: skip
    runtime.backend.open_many([opening])
    eventually(
        lambda: any(
            name in due.member for due in runtime.backend.unbegun(older_than_ms=2, limit=9_999)
        )
    )


def looked(runtime: Runtime, broker: Any) -> list[str]:
    """What two looks for lost messages publish."""
    broker.published.clear()
    lost.republish_lost(runtime, broker)
    lost.republish_lost(runtime, broker)
    return sorted(broker.published)


def test_each_queue_is_decided_by_itself(runtime: Runtime) -> None:
    """What waits in a long queue neither hides what an empty one has lost nor is published."""
    for n in range(lost._PAGE + 5):
        sent(runtime, "slow", f"waits-{n}")
    sent(runtime, "quick", "lost")
    broker = Broker("o")
    assert lost.republish_lost(runtime, broker) == 0, "the last one may be on its way to a worker"  # type: ignore[arg-type]
    found = looked(runtime, broker) + looked(runtime, broker)
    assert set(found) == {"lost"}


def test_a_look_at_an_empty_queue_renews_nothing_elsewhere(runtime: Runtime) -> None:
    """A message that a busy queue has lost keeps its age, and is found once it was overtaken."""
    sent(runtime, "slow", "lost")
    assert looked(runtime, Broker("o")) == [], "nothing of its queue is known"
    runtime.arrivals.note("slow", runtime.registry_ms(), 0)
    assert looked(runtime, Broker("o")) == ["lost"]


def test_copies_become_rare(runtime: Runtime) -> None:
    """A guess may be wrong again and again: each copy doubles the time until the next."""
    sent(runtime, "quick", "waits")
    broker, copies, until = Broker("o"), 0, time.monotonic() + 0.3
    while time.monotonic() < until:
        copies += len(looked(runtime, broker))
    assert 2 < copies < 12, "every millisecond would be 300"
    assert next(iter(runtime.unbegun.copies.values())) == copies


def test_who_may_be_passed_is_never_overtaken() -> None:
    """Where priorities differ, a later message comes first, and tells nothing of those before."""
    arrivals = Arrivals()
    arrivals.note("q", 5, None)
    arrivals.note("q", 3, 0)
    assert (arrivals.newest_ms("q"), arrivals.newest_ms("r")) == (5, None)
    arrivals.note("q", 9, 6)
    assert arrivals.newest_ms("q") is None


def test_the_registrys_clock_is_asked_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then goes on with this machine's monotonic clock, which nobody sets."""
    first = runtime.registry_ms()
    assert abs(first - runtime.backend.now_ms()) < 5_000
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert 0 <= runtime.registry_ms() - first < 60_000
