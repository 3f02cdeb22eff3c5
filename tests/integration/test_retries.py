"""Handlers that ask for another attempt: when it comes, how often, and what the caller receives.

One worker with a single process does everything here. The sweep that finds due items runs once a
second, so an attempt may come that much later than its due time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.desk import close_app, plain_app
from tests.harness import WAIT_S, Deployment, eventually
from tests.mill import Mill, error_of, value_of
from tests.works import texts
from threadloom import tasks
from threadloom.primitives import BufferStart, SequenceStart

pytest_plugins = ["tests.mill_fixtures"]


def waits_ms(mill: Mill, conversation_id: str) -> list[int]:
    """Return for how many ms a conversation's deliveries were postponed, as its log says."""
    lines = [e.detail["text"] for e in mill.log(conversation_id) if e.event == "retry"]
    return [int(ms) for line in lines for ms in re.findall(r"^again in (\d+) ms: ", line)]


def test_it_runs_again_until_it_succeeds_and_holds_nothing_meanwhile(mill: Mill) -> None:
    """The third attempt succeeds.

    The worker's only process has done other work by then, every attempt had the same message id,
    and each wait was longer than the one before.
    """
    waiting = mill.begin("wheel", succeeds_at=3)
    eventually(mill.runs, what="the first run")
    assert value_of(Mill(mill.deployment).begin("sack"))["run"] == 1
    assert mill.deployment.conversation(waiting.id).status == "running"
    assert value_of(waiting) == {"grain": mill.grain, "run": 3}
    assert {r["message"] for r in mill.runs()} == {waiting.id}
    log = mill.story(waiting.id).log
    first_ms, second_ms = waits_ms(mill, waiting.id)
    assert 200 <= first_ms <= 400 <= second_ms <= 800
    assert [e.event for e in log] == ["message", "retry", "retry", "ended"]


def test_a_handler_may_say_when(mill: Mill) -> None:
    """`after_s` replaces the backoff: 0 means at once, and an hour is not over when the test
    ends.
    """
    later, soon = Mill(mill.deployment), Mill(mill.deployment)
    patient = later.begin("wheel", succeeds_at=2, after_s=3_600)
    eventually(lambda: waits_ms(later, patient.id), what="it was put off")
    at_once = mill.begin("wheel", succeeds_at=2, after_s=0)
    assert value_of(at_once)["run"] == 2
    second = soon.begin("wheel", succeeds_at=2, after_s=1.5)
    assert value_of(second)["run"] == 2
    assert waits_ms(mill, at_once.id) == [0]
    assert waits_ms(soon, second.id) == [1_500]
    assert waits_ms(later, patient.id) == [3_600_000]
    assert len(later.runs()) == 1, "sweeps have been, and left it"
    assert tasks.kill(mill.app, patient.id)


def test_when_the_runs_are_used_up_the_caller_may_try_again(mill: Mill) -> None:
    """After four attempts the caller gets a SystemError that allows a retry, and a dead letter
    has the reason.
    """
    called = mill.begin("wheel.async", succeeds_at=99)
    error = error_of(called)
    assert (error.code, error.retry_allowed) == ("handler", True)
    assert [r["run"] for r in mill.runs()] == [1, 2, 3, 4]
    letter = mill.letter()
    assert (letter.delivery.id, letter.attempts) == (called.id, 4)
    assert letter.reason.startswith("given up after 4 runs: ")
    assert "no water" in letter.reason
    assert "no water" not in str(error)


@pytest.mark.parametrize(
    ("listener", "how", "allowed"),
    [("millstone", {"breaks": "raise"}, "false"), ("impatient", {"succeeds_at": 2}, "true")],
)
def test_a_caller_inside_gets_the_error_as_a_message(
    mill: Mill, listener: str, how: dict[str, Any], allowed: str
) -> None:
    """The miller reports what came back: trying again is allowed after retries alone."""
    report = value_of(mill.order(listener, mill.grist(**how)))
    assert report["kind"] == "SystemError"
    assert f"<retry-allowed>{allowed}</retry-allowed>" in report["what"]
    assert "doormat" not in report["what"]
    assert len(mill.runs()) == 1, "neither has a second run: an exception, and max_retries 0"
    assert "doormat" in mill.letter().reason


def test_any_transient_error_counts(mill: Mill) -> None:
    """A registry that the handler cannot reach is also a reason for another attempt."""
    asked = mill.begin("registrar", succeeds_at=3)
    assert value_of(asked)["run"] == 3
    notes = [e.detail["text"] for e in mill.log(asked.id) if e.event == "retry"]
    assert [note.partition(": ")[2] for note in notes] == [
        "threadloom.config.errors.RegistryUnavailableError: under the doormat"
    ] * 2


def test_steps_of_a_sequence_are_retried_in_their_place(mill: Mill) -> None:
    """The first step needs three attempts, and the second step gets its reply."""
    start = SequenceStart(["wheel.async", "sack"], mill.grist(succeeds_at=3))
    begun = mill.start("system.sequence", start)
    answer = value_of(begun)
    assert answer["step_count"] == 2
    assert [(r["run"], r["from"]) for r in mill.runs()] == [
        (1, "external"), (2, "external"), (3, "external"), (1, "external"),
    ]  # fmt: skip
    assert len({r["message"] for r in mill.runs()}) == 2


def test_items_of_a_buffer_are_retried_one_by_one(mill: Mill) -> None:
    """One item succeeds at once, one at its second attempt and one never; the results are in
    order.
    """
    runs = (1, 2, 99)
    start = BufferStart("wheel.async", [mill.grist(succeeds_at=n) for n in runs])
    begun = mill.start("system.buffer", start)
    answer = value_of(begun)
    assert (answer["total"], answer["successful"]) == (3, 2)
    items = list(tasks.read_results(mill.app, begun.id, answer))
    assert texts(items) == [
        f"{mill.grain}1", f"{mill.grain}2", "!The message could not be processed.",
    ]  # fmt: skip
    assert len(mill.runs()) == 1 + 2 + 4
    assert mill.letter().delivery.scope[-1].index == 2


@pytest.fixture
def elsewhere(mill_deployment: Deployment) -> Iterator[Celery]:
    """An app that has none of our code."""
    app = plain_app(mill_deployment)
    yield app
    close_app(app)


def test_whoever_sent_it_by_name_waits_as_if_nothing_were(mill: Mill, elsewhere: Celery) -> None:
    """After `send_task`, `get` returns the value of the second attempt."""
    sent = elsewhere.send_task("wheel", [mill.grind(succeeds_at=2)])
    assert sent.get(timeout=WAIT_S)["payload"] == {"grain": mill.grain, "run": 2}
    assert len(mill.runs(message=sent.id)) == 2


def test_what_is_killed_while_it_waits_does_not_run_again(mill: Mill) -> None:
    """The sender gets the error at once, and the later attempt never comes."""
    waiting = mill.begin("wheel", succeeds_at=2, after_s=60.0)
    eventually(lambda: waits_ms(mill, waiting.id), what="a retry")
    assert tasks.kill(mill.app, waiting.id)
    error = error_of(waiting)
    assert (error.code, error.retry_allowed) == ("killed", False)
    assert not tasks.kill(mill.app, waiting.id), "once"
    mill.story(waiting.id)
    assert len(mill.runs()) == 1
