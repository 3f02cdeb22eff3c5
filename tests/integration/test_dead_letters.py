"""Deliveries that failed for good: kept with their error, listed, dropped, and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery, chain, signature

from tests.desk import close_app, plain_app
from tests.harness import ORGANISMS, Deployment, eventually
from tests.mill import Mill, error_of, value_of
from tests.stories import Story
from tests.works import texts
from threadloom import tasks
from threadloom.primitives import BufferStart
from threadloom.routing.backends import RedisBackend

pytest_plugins = ["tests.mill_fixtures"]

RAISES = {"breaks": "raise"}
EXITS = {"breaks": "exit"}


# --- what becomes one ------------------------------------------------------------------------


def test_what_takes_its_worker_along_is_bounded_and_replayed_once_repaired(mill: Mill) -> None:
    """Two runs, two processes lost, and no third: the caller has the error, the dead letter the
    reason. Replayed after the repair, the conversation completes under its own id."""
    poison = mill.begin("millstone", **EXITS)
    error = error_of(poison)
    assert (error.code, error.message) == ("handler", "The message could not be processed.")
    assert len({r["pid"] for r in mill.runs()}) == 2
    letter = mill.letter()
    assert (letter.delivery.id, letter.conversation_id) == (poison.id, poison.id)
    assert letter.reason == "given up after 2 runs, the last of which lost its worker"

    assert mill.replay(letter)
    assert error_of(mill.again(poison)).code == "handler", "not repaired yet: as bounded as before"
    assert [r["run"] for r in mill.runs()] == [1, 2, 3, 4]
    mill.repair()
    assert mill.replay(mill.letter())
    assert value_of(mill.again(poison)) == {"grain": mill.grain, "run": 5}
    assert {r["message"] for r in mill.runs()} == {poison.id}
    assert mill.deployment.conversation(poison.id).status == "completed"
    assert mill.letters() == []
    told = [e.event for e in mill.log(poison.id) if e.event not in ("abandoned", "note")]
    assert told == [
        "message", "dead_letter", "ended", "replayed", "dead_letter", "ended", "replayed", "ended",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("listener", "how", "code", "reason"),
    [
        ("millstone", RAISES, "handler", "ValueError: broken: under the doormat \\udcff"),
        ("crooked", {}, "handler", "what the handler returned cannot be sent: TypeError: "),
        ("drowsy", {}, "timeout", "the handler ran longer than 0.3 s"),
        ("impatient", {"succeeds_at": 2}, "handler", "RetryLater: no water, look under"),
    ],
)
def test_the_details_are_for_the_operators_alone(
    mill: Mill, listener: str, how: dict[str, Any], code: str, reason: str
) -> None:
    """Run once; the dead letter and the log have the traceback, the sender a general text."""
    failed = mill.begin(listener, **how)
    error = error_of(failed)
    assert (error.code, error.message.startswith(("The message", "There was"))) == (code, True)
    assert "doormat" not in repr(mill.app.backend.get_task_meta(failed.id))
    letter = mill.letter()
    assert (letter.delivery.to, letter.attempts, len(mill.runs())) == (listener, 1, 1)
    assert reason in letter.reason
    [note] = [e.detail["text"] for e in mill.log(failed.id) if e.event == "note"]
    assert note == letter.reason


# --- replaying -------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(mill_deployment: Deployment) -> Iterator[Celery]:
    """An app that has none of our code."""
    app = plain_app(mill_deployment)
    yield app
    close_app(app)


def test_somebody_elses_chain_goes_on_after_the_replay(mill: Mill, elsewhere: Celery) -> None:
    """The chain failed with its first task; repaired and replayed, its second one runs, once."""
    first = signature("millstone", args=[mill.grind(**RAISES)], app=elsewhere)
    result = chain(first, signature("sack", app=elsewhere)).apply_async()
    error_of(result.parent)
    mill.repair()
    assert mill.replay(mill.letter())
    # Celery had marked the whole chain as failed; who reads it now has to ask anew.
    eventually(lambda: elsewhere.AsyncResult(result.id).successful(), what="the second task's end")
    assert value_of(elsewhere.AsyncResult(result.id)) == {"grain": mill.grain, "run": 1}
    assert value_of(elsewhere.AsyncResult(result.parent.id))["run"] == 2
    assert len(mill.runs(message=result.id)) == 1


def test_a_caller_gets_the_reply_after_the_error(mill: Mill) -> None:
    """The miller has reported the error, which stays its answer; the reply comes, and what it
    makes of that is late."""
    order = mill.order("millstone", mill.grist(**RAISES))
    assert value_of(order)["kind"] == "SystemError"
    mill.repair()
    letter = mill.letter()
    assert mill.replay(letter)
    story = mill.story(order.id)
    assert [r["got"] for r in story.records("miller")] == ["Order", "SystemError", "Flour"]
    assert [e.detail["delivery"].to for e in story.log if e.event == "late"] == ["miller"]
    assert value_of(mill.again(order))["kind"] == "SystemError"


def test_an_item_of_a_completed_buffer_is_late(mill: Mill) -> None:
    """It runs and is logged; what the buffer has answered stays as it was."""
    start = BufferStart("millstone", [mill.grist(**RAISES), mill.grist()])
    begun = mill.start("system.buffer", start)
    answer = value_of(begun)
    assert answer["successful"] == 1
    mill.repair()
    letter = mill.letter()
    assert mill.replay(letter)
    story = mill.story(begun.id)
    assert [e.detail["delivery"].id for e in story.log if e.event == "late"] == [letter.delivery.id]
    assert len(mill.runs(message=letter.delivery.id)) == 2
    again = value_of(mill.again(begun))
    assert again == answer
    assert texts(list(tasks.read_results(mill.app, begun.id, again))) == [
        "!The message could not be processed.", f"{mill.grain}1",
    ]  # fmt: skip
    assert mill.letters() == []


def test_replayed_by_ten_at_once_it_runs_once(mill: Mill) -> None:
    """One of them has it replayed, the others hear that there is no such dead letter."""
    failed = mill.begin("millstone", **RAISES)
    error_of(failed)
    letter = mill.letter()
    mill.repair()
    with ThreadPoolExecutor(10) as pool:
        replayed = list(pool.map(lambda _: mill.replay(letter), range(10)))
    assert sorted(replayed) == [False] * 9 + [True]
    assert value_of(mill.again(failed))["run"] == 2
    mill.story(failed.id)
    assert len(mill.runs()) == 2


def test_nothing_of_a_killed_conversation_is_replayed(mill: Mill) -> None:
    """It is refused with the reason, stays a dead letter, and can be dropped."""
    items = [mill.grist(**RAISES), mill.grist(succeeds_at=2, after_s=3.0)]
    begun = mill.start("system.buffer", BufferStart("millstone", items))
    letter = mill.letter()
    eventually(lambda: len(mill.runs()) == 2, what="the second item has run once")
    assert tasks.kill(mill.app, begun.id)
    assert error_of(begun).code == "killed"
    with pytest.raises(tasks.ReplayRefusedError, match=f"{begun.id} was killed"):
        mill.replay(letter)
    assert mill.letter() == letter
    assert mill.drop(letter)
    mill.story(begun.id)
    assert len(mill.runs()) == 2, "neither again"


# --- listing, finding, dropping --------------------------------------------------------------


def test_they_are_listed_page_by_page_and_dropped(mill: Mill) -> None:
    """Newest first, each on one page; what is dropped is gone, and neither dropped nor replayed
    again. The conversation stays as it was."""
    failed = []
    for _ in range(5):
        failed.append(mill.begin("millstone", **RAISES))
        error_of(failed[-1])
    newest = mill.letters()[0]
    seen, before = [newest], newest.position
    while page := tasks.dead_letters(mill.app, limit=2, before=before):
        assert len(page) <= 2
        seen += page
        before = page[-1].position
    assert len({letter.position for letter in seen}) == len(seen)
    own = [letter for letter in seen if mill.grain.encode() in letter.delivery.envelope]
    assert [letter.delivery.id for letter in own] == [each.id for each in reversed(failed)]

    third = own[2]
    assert tasks.find_dead_letter(mill.app, third.delivery.id) == third
    assert mill.drop(third)
    assert tasks.find_dead_letter(mill.app, third.delivery.id) is None
    assert not mill.drop(third)
    assert not mill.replay(third)
    assert mill.letters() == [letter for letter in own if letter != third]
    assert mill.deployment.conversation(third.conversation_id).status == "error"
    assert len(mill.runs(message=third.delivery.id)) == 1


def test_they_go_with_their_conversation(redis_client: Any) -> None:
    """No list keeps what cannot be shown or replayed any more."""
    backend = RedisBackend(redis_client, organism="mortal-mill", ttl_s=1)
    app = tasks.create_app(ORGANISMS / "mill" / "organism.yaml", redis_url="x", backend=backend)
    story = Story(backend)
    story.end(note="why", dead_letter=True)
    [letter] = tasks.dead_letters(app)
    assert (letter.conversation_id, letter.reason) == (story.id, "why")
    assert eventually(lambda: backend.expire(limit=10).gone) == 1
    assert tasks.dead_letters(app) == []
    assert tasks.find_dead_letter(app, letter.delivery.id) is None
    assert not tasks.replay_dead_letter(app, letter.conversation_id, letter.delivery.id)
    assert not tasks.drop_dead_letter(app, letter.conversation_id, letter.delivery.id)
    assert not redis_client.keys("tl:mortal-mill:*")
    app.close()
