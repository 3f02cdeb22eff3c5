"""Runs that go on in the same process, on real workers: who does, and for how long.

How long a slice lasts is measured by nobody here: one that no test outlasts is never over, and
one that every handler outlasts is over after each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.desk import Story, close_app, plain_app, settled, told
from tests.harness import (
    ORGANISMS,
    WAIT_S,
    Deployment,
    NewBroker,
    adjusted,
    eventually,
    queued,
)
from tests.wire import listening
from threadloom.routing.states import ConversationStatus

pytest_plugins = ["tests.broker_fixtures"]

#: laps that take many slices, and a second at least
LONG_RUN = 5_000
#: longer than any test
ENDLESS_MS = 300_000
#: a slice, and a lap that is longer
BRIEF_MS, LAP_MS = 5, 10

Sprint = Callable[..., Iterator[Deployment]]


@pytest.fixture(scope="module")
def with_slices(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Sprint:
    """Starts the sprint organism with one process, so that everybody is in everybody's way."""

    def start(**section: int) -> Iterator[Deployment]:
        directory = tmp_path_factory.mktemp("sprint")
        organism = adjusted(ORGANISMS / "sprint" / "organism.yaml", directory, **section)
        deployment = Deployment(
            organism, redis_url=deployment_url(), directory=directory, broker_url=broker()
        )
        try:
            deployment.start_worker(concurrency=1)
            yield deployment
            settled(deployment)
        finally:
            deployment.close()

    return start


@pytest.fixture(scope="module")
def sprint(with_slices: Sprint) -> Iterator[Deployment]:
    """With slices that are never over."""
    yield from with_slices(local_slice_ms=ENDLESS_MS)


@pytest.fixture(scope="module")
def brief(with_slices: Sprint) -> Iterator[Deployment]:
    """With slices that are over before a handler is through."""
    yield from with_slices(local_slice_ms=BRIEF_MS)


@pytest.fixture(scope="module")
def sliced(with_slices: Sprint) -> Iterator[Deployment]:
    """With the slices that organisms have."""
    yield from with_slices()


def tasks_of(story: Story) -> list[str]:
    """In which Celery task each handler ran, in order."""
    return [record["task"] for record in story.records("ran")]


@pytest.mark.both_brokers
def test_a_call_and_its_reply_take_no_message_of_their_own(sprint: Deployment) -> None:
    """Coach, runner and coach again, in the task that was injected, which returns the value."""
    app = plain_app(sprint)
    result = app.send_task("coach", [{"who": "near"}])
    assert result.get(timeout=WAIT_S)["type"] == "Came"
    story = Story(sprint, result.id)
    assert tasks_of(story) == [result.id] * 3
    assert len(story.messages) == 3, "each hop is a delivery all the same"
    close_app(app)


def test_twenty_hops_push_one_message(sprint: Deployment) -> None:
    """The injected one; with a queue for each hop it had been one per hop and one for the end."""
    with listening(sprint) as wire:
        told(sprint, "runner", {"left": 20})
    assert len(wire.tasks()) == 1


@pytest.mark.parametrize("who", ["queued", "apart", "limited", "longer"])
def test_whoever_has_to_be_queued_is(sprint: Deployment, who: str) -> None:
    """`local: false`, a queue or a rate limit of its own, more time than the pool would give."""
    _, story = told(sprint, "coach", {"who": who})
    first, peer, last = tasks_of(story)
    assert first == story.conversation.id
    assert peer == story.records("ran")[1]["message"], "a task of its own"
    assert last == peer, "the reply goes on from there"


def test_whoever_needs_less_time_is_not(sprint: Deployment) -> None:
    """The pool would have ended it later than its own limit, so the worker sees to that."""
    _, story = told(sprint, "coach", {"who": "shorter"})
    assert len(set(tasks_of(story))) == 1


def test_a_worker_goes_on_only_with_what_it_serves(
    deployment_url: Callable[[], str], tmp_path: Path
) -> None:
    """One that serves another queue leaves the default one's deliveries to those who serve that."""
    deployment = Deployment(
        ORGANISMS / "sprint" / "organism.yaml", redis_url=deployment_url(), directory=tmp_path
    )
    try:
        deployment.start_worker(concurrency=1, options=("-Q", "apart"))
        result = deployment.inject("coach", {"who": "near"})
        deployment.app.control.purge()  # its message went to the default queue; this one does not:
        sent = {"conversation": result.id, "injected": True}
        deployment.app.send_task("coach", kwargs=sent, task_id=result.id, queue="apart")
        ran = eventually(lambda: deployment.records(event="ran"), what="the coach")
        assert len(ran) == 1
        other = deployment.start_worker(concurrency=1, options=("-Q", "sprint"))
        assert result.get(timeout=WAIT_S)["type"] == "Came"
        assert {record["pid"] for record in deployment.records()} >= {ran[0]["pid"]}
        assert len({record["pid"] for record in deployment.records()}) == 2, other.name
    finally:
        deployment.close()


@pytest.mark.both_brokers
def test_a_long_conversation_lets_short_ones_have_their_turn(sliced: Deployment) -> None:
    """One process, one conversation of thousands of laps: whoever comes meanwhile waits a slice.

    Ten short ones, one after another, are all answered while it still runs.
    """
    long = sliced.inject("runner", {"left": LONG_RUN})
    eventually(lambda: sliced.conversation(long.id).deliveries > 100, what="it runs")
    for _ in range(10):
        told(sliced, "runner", {"left": 1})
    between = sliced.conversation(long.id)
    assert between.status is ConversationStatus.RUNNING
    assert between.deliveries < LONG_RUN
    assert long.get(timeout=WAIT_S)["type"] == "Came"


def test_a_slice_is_no_longer_than_the_organism_says(brief: Deployment) -> None:
    """Each lap outlasts a slice, so what follows from it is published: a message for each."""
    with listening(brief) as wire:
        _, story = told(brief, "runner", {"left": 5, "lap_ms": LAP_MS})
    assert len(story.messages) == len(wire.tasks()) == 6


@pytest.mark.both_brokers
@pytest.mark.parametrize("max_parallel", [0, 3])
def test_a_buffer_takes_few_messages_and_every_item(sprint: Deployment, max_parallel: int) -> None:
    """A thousand items from a generator, in batches; each once, and all counted."""
    value, story = told(sprint, "crowd", {"size": 1_000, "max_parallel": max_parallel})
    expected = {"total": 1_000, "successful": 1_000, "sum": sum(range(1_000))}
    assert value["payload"] == expected
    ran = story.records("ran")
    assert len({record["message"] for record in ran}) == len(ran) == 1_000
    assert len({record["task"] for record in ran}) < 100


def test_a_policy_that_is_met_early_stops_the_supply(sprint: Deployment) -> None:
    """Most of ten thousand items never become deliveries."""
    value, story = told(sprint, "crowd", {"size": 10_000, "policy": "at_least:50"})
    assert value["payload"]["successful"] >= 50
    assert story.conversation.deliveries < 2_000


def test_no_message_of_a_long_buffer_is_larger_than_of_a_short_one(sprint: Deployment) -> None:
    """Nothing on the broker holds all items, or grows with them: but for the digits of an index."""
    largest = {}
    for size in (10, 3_000):
        with listening(sprint) as wire:
            told(sprint, "crowd", {"size": size})
        largest[size] = max(wire.sizes())
    assert largest[3_000] - largest[10] <= len("2999") - len("9")


@pytest.fixture(scope="module", params=["default slice", "no slice"])
def one_process(
    request: pytest.FixtureRequest,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The sprint organism with one process: it goes on for its slice, or queues everything."""
    place = tmp_path_factory.mktemp("order")
    source = ORGANISMS / "sprint" / "organism.yaml"
    organism = source
    if request.param == "no slice":
        organism = queued(source, place)
    deployment = Deployment(organism, redis_url=deployment_url(), directory=place)
    try:
        deployment.start_worker(concurrency=1)
        yield deployment
    finally:
        deployment.close()


@pytest.mark.parametrize("first_ms", [0, 120], ids=["quick", "longer than a slice"])
def test_a_list_of_responses_is_taken_in_its_order(one_process: Deployment, first_ms: int) -> None:
    """Callees and their replies begin in the order of the list, with local continuation or not.

    Where the first callee uses the slice up, its reply is queued, and the next ones do not overtake
    it although their runs may go on.
    """
    names = ["first", "second", "third"]
    _, story = told(one_process, "caller", {"names": names, "first_ms": first_ms})
    callees = [record["own_name"] for record in story.records("ran") if record["own_name"] in names]
    replies = [record["from"] for record in story.records("ran") if record["from"] in names]
    assert (callees, replies) == (names, names)
