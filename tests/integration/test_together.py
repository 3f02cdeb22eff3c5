"""Conversations that were injected together and share messages, on real workers."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.desk import Story, settled
from tests.harness import ORGANISMS, WAIT_S, Deployment, NewBroker, adjusted, deployed, eventually
from tests.wire import Wire, events_of, listening
from threadloom import tasks
from threadloom.routing import ConversationError
from threadloom.tasks.canvas import TOGETHER

pytest_plugins = ["tests.broker_fixtures"]

MANY = 200


@pytest.fixture(scope="module")
def sprint(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The sprint organism with two processes, its slice longer than any message takes."""
    place = tmp_path_factory.mktemp("together")
    source = ORGANISMS / "sprint" / "organism.yaml"
    organism = adjusted(source, place, local_slice_ms=300_000)
    (place / "sprint_handlers.py").write_text((source.parent / "sprint_handlers.py").read_text())
    deployment = Deployment(
        organism, redis_url=deployment_url(), directory=place, broker_url=broker()
    )
    try:
        deployment.start_worker(concurrency=2)
        # How many share a message follows from how many processes there are.
        eventually(lambda: deployment.backend.processes() == 2, what="the worker says so")
        yield deployment
        settled(deployment)
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def sliced(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The same with the slice that organisms have."""
    directory = tmp_path_factory.mktemp("sliced")
    url, broker_url = deployment_url(), broker()
    for deployment in deployed("sprint", url, directory, broker_url=broker_url, concurrency=2):
        yield deployment
        settled(deployment)


def carried(wire: Wire) -> list[list[str]]:
    """The conversations of each message that carries several."""
    bodies = (json.loads(message)["body"] for message in wire.messages)
    return [body[1][TOGETHER] for body in map(decoded, bodies) if TOGETHER in body[1]]


def decoded(body: str) -> list[dict[str, list[str]]]:
    """A message's body: arguments, keywords, canvas."""
    found: list[dict[str, list[str]]] = json.loads(base64.b64decode(body))
    return found


@pytest.mark.both_brokers
def test_each_has_its_own_value_and_ran_once(sprint: Deployment) -> None:
    """Two hundred in a handful of tasks; one that fails is the failure of nobody else."""
    numbers = [-1 if n == 77 else n for n in range(MANY)]
    results = tasks.inject_many(sprint.app, "near", [{"number": n} for n in numbers])
    for number, result in zip(numbers, results, strict=True):
        if number < 0:
            with pytest.raises(ConversationError):
                result.get(timeout=WAIT_S)
        else:
            assert result.get(timeout=WAIT_S)["payload"] == {"number": number}
    stories = [Story(sprint, result.id) for result in results]
    ran = [record for story in stories for record in story.records("ran")]
    assert len(ran) == MANY
    assert len({record["task"] for record in ran}) <= 10


def test_they_take_few_messages_of_bounded_size(sprint: Deployment) -> None:
    """So many that all workers have something, and a hundred conversations in each at most."""
    with listening(sprint) as wire:
        results = tasks.inject_many(sprint.app, "near", [{"number": n} for n in range(1_000)])
        for result in results:
            result.get(timeout=WAIT_S)
    found = carried(wire)
    assert {name for part in found for name in part} == {result.id for result in results}
    assert list(map(len, found)) == [100] * 10
    assert max(wire.sizes()) < 8_000


def test_opening_them_takes_few_commands(deployment_url: Callable[[], str], tmp_path: Path) -> None:
    """A script for each shard and round, the messages in a pipeline, and nothing for each."""
    source = ORGANISMS / "sprint" / "organism.yaml"
    deployment = Deployment(source, redis_url=deployment_url(), directory=tmp_path)
    try:
        with listening(deployment) as wire:
            tasks.inject_many(deployment.app, "near", [{"number": n} for n in range(1_000)])
        messages = len(carried(wire))
        assert messages == 67, "no worker is there: fifteen each, for 64 lanes"
        scripts = sum(n for name, n in wire.commands.items() if name.startswith("EVALSHA"))
        assert scripts <= 16 * (1_000 // 64 + 1) + 2
        others = wire.commands.total() - scripts - wire.commands["LPUSH"]
        assert others < 20
    finally:
        deployment.close()


@pytest.mark.parametrize("who", ["queued", "apart", "limited"])
def test_whoever_has_to_be_queued_comes_alone(sprint: Deployment, who: str) -> None:
    """`local: false`, a queue of its own, a rate limit: a message for each."""
    with listening(sprint) as wire:
        results = tasks.inject_many(sprint.app, who, [{"number": n} for n in range(20)])
        for result in results:
            result.get(timeout=WAIT_S)
    assert carried(wire) == []
    assert len(wire.tasks()) == 20


@pytest.mark.both_brokers
def test_what_takes_long_is_spread_over_the_workers(sliced: Deployment) -> None:
    """Each outlasts its slice, and the rest goes back in two halves; no process does it all."""
    results = tasks.inject_many(sliced.app, "sleeper", [{"ms": 60}] * 40)
    for result in results:
        assert result.get(timeout=WAIT_S)["payload"] == {"number": 60}
    stories = [Story(sliced, result.id) for result in results]
    ran = [record for story in stories for record in story.records("ran")]
    assert len(ran) == 40
    assert len({record["pid"] for record in ran}) == 2
    assert len({record["task"] for record in ran}) == 40


def test_the_same_ids_again_are_the_same_conversations(sprint: Deployment) -> None:
    """Nothing runs twice, whether an id comes again in the same call or in the next."""
    names = [str(uuid.uuid4()) for _ in range(MANY)]
    payloads = [{"number": n} for n in range(MANY)]
    first = tasks.inject_many(sprint.app, "near", payloads * 2, ids=names * 2)
    again = tasks.inject_many(sprint.app, "near", payloads, ids=names)
    assert [result.id for result in (*first, *again)] == names * 3
    for n, result in enumerate(again):
        assert result.get(timeout=WAIT_S)["payload"] == {"number": n}
    settled(sprint)
    assert all(len(Story(sprint, name).records("ran")) == 1 for name in names)


def test_a_conversation_that_goes_on_is_parked_by_itself(sprint: Deployment) -> None:
    """Each calls somebody who has to be queued: the others need not wait for that."""
    results = tasks.inject_many(sprint.app, "coach", [{"who": "queued"}] * 60)
    for result in results:
        assert result.get(timeout=WAIT_S)["type"] == "Came"
    story = Story(sprint, results[7].id)
    assert [record["event"] for record in story.records("ran")] == ["ran"] * 3


def test_each_shows_as_a_task_of_its_own(sprint: Deployment) -> None:
    """Whoever watches the events sees every conversation, received and succeeded, once."""
    with events_of(sprint.app) as events:
        results = tasks.inject_many(sprint.app, "near", [{"number": 1}] * MANY)
        names = {result.id for result in results}

        def shown(kind: str) -> list[str]:
            return [e["uuid"] for e in events if e["type"] == kind and e["uuid"] in names]

        eventually(lambda: len(shown("task-succeeded")) >= MANY, what="every success")
        assert sorted(shown("task-received")) == sorted(shown("task-succeeded")) == sorted(names)
    received = [e for e in events if e["type"] == "task-received" and e["uuid"] in names]
    assert all(e["root_id"] == e["uuid"] and e["name"] == "near" for e in received)
