"""What Celery's means have revoked, or what expired, ends once: in the registry and as a result."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from tests.desk import plain_app
from tests.harness import WAIT_S, eventually
from tests.works import Works, fields_of, jobs, xml
from threadloom.primitives import BufferStart
from threadloom.routing import ConversationError
from threadloom.routing.states import ConversationStatus

pytest_plugins = ["tests.works_fixtures"]

PART = {"name": "bolt"}
#: s after which a message is not to be begun: shorter than any worker needs to look at it
AT_ONCE_S = 0.001


def is_told(works: Works, result: AsyncResult[Any]) -> None:
    """Its injector, and the registry, are told that it was ended; nothing is left to be done."""
    with pytest.raises((ConversationError, TaskRevokedError)):
        result.get(timeout=WAIT_S)
    assert result.state == states.REVOKED
    backend = works.deployment.backend

    def is_killed() -> bool:
        found = backend.conversation(result.id)
        return found is not None and found.status is ConversationStatus.KILLED

    eventually(is_killed, what="the registry has it as killed")


def revoke(works: Works, result: AsyncResult[Any], **options: Any) -> None:
    works.deployment.app.control.revoke(result.id, **options)


@pytest.mark.both_brokers
def test_before_it_runs(works: Works) -> None:
    """Messages lie in a queue that nobody serves yet, and are revoked by id and by stamp.

    Nothing of them runs, each is told, and the registry knows of each, though nobody had opened
    a conversation for it.
    """
    app = works.deployment.app
    sent = {"queue": "lobby", "kwargs": {}}
    by_id = app.send_task("lobby", [PART], **sent)
    stamped = app.signature("lobby", [PART], options={"queue": "lobby"})
    stamped.stamp(batch="monday")
    by_stamp = stamped.apply_async()
    kept = app.send_task("lobby", [PART], expires=WAIT_S, **sent)
    injected = works.begin("lobby", PART)
    works.conversations += [each.id for each in (by_id, by_stamp, kept)]
    app.control.revoke([by_id.id, injected.id])
    app.control.revoke_by_stamped_headers({"batch": ["monday"]})
    with works.lobby_open():
        for each in (by_id, by_stamp, injected):
            is_told(works, each)
        assert fields_of(kept.get(timeout=WAIT_S))["name"] == "bolt+paint"
    assert len(works.records("paint")) == 1


def test_what_has_expired_before_it_was_begun(works: Works) -> None:
    """It is told, and the registry has it as ended. (RabbitMQ itself drops such a message.)"""
    late = works.deployment.app.send_task("lobby", [PART], queue="lobby", expires=AT_ONCE_S)
    works.conversations.append(late.id)
    with works.lobby_open():
        is_told(works, late)
    assert not works.records("paint")


@pytest.mark.both_brokers
@pytest.mark.parametrize("terminate", [False, True])
def test_while_it_runs(works: Works, terminate: bool) -> None:
    """It is told at once. Its handler goes on to the end unless it is terminated; so or so its
    response does not count, and it does not run again."""
    running = works.begin("worker", {"how": "gate", "what": "running"})
    works.seen("work")
    revoke(works, running, terminate=terminate)
    is_told(works, running)
    if not terminate:
        works.open_gate("running")
        works.seen("passed")
    assert fields_of(works.begin("worker", {"how": "done"}).get(timeout=WAIT_S))
    assert len(works.records("work", how="gate")) == 1


def test_while_it_waits_for_a_reply(works: Works) -> None:
    """It has no message of its own then: its canvas is parked, and its callee runs."""
    parked = works.begin("worker", {"how": "machine", "what": "gate:callee"})
    works.seen("machine")
    revoke(works, parked)
    is_told(works, parked)
    works.open_gate("callee")
    eventually(lambda: not works.redis.keys("gate:callee"), what="the callee has gone on")
    assert len(works.records("machine")) == 1
    assert not works.records("answered")


def test_an_item_of_a_buffer(works: Works) -> None:
    """It ends as a failed item; the buffer and its other items go on."""
    items = [xml("Part", name=name) for name in "ab"]
    begun = works.begin("system.buffer", BufferStart("lobby", items, buffer_id="mine"))
    item = eventually(
        lambda: next(
            (
                entry.detail["delivery"]
                for entry in works.deployment.backend.log(begun.id)
                if entry.event == "message" and entry.detail["delivery"].to == "lobby"
            ),
            None,
        ),
        what="the first item",
    )
    works.deployment.app.control.revoke(item.id)
    with works.lobby_open():
        answer = fields_of(begun.get(timeout=WAIT_S))
    assert (answer["total"], answer["successful"]) == (2, 1)
    assert [each.success for each in works.items(answer)] == [False, True]


def test_after_it_has_ended(works: Works) -> None:
    """Its ending stays what it was, and so does what was told."""
    done = works.begin("worker", {"how": "done", "what": "nut"})
    assert fields_of(done.get(timeout=WAIT_S))["what"] == "nut"
    revoke(works, done, terminate=True)
    behind = works.begin("system.buffer", BufferStart("worker", jobs(("done", "x"))))
    behind.get(timeout=WAIT_S)
    assert works.deployment.app.AsyncResult(done.id).state == states.SUCCESS
    assert works.deployment.ended(done.id).status is ConversationStatus.COMPLETED


def test_what_had_begun_in_time_goes_on_after_its_expiry(works: Works) -> None:
    """Its process is killed when its message would not be begun any more; it is performed again."""
    expires_s = 1.0
    with plain_app(works.deployment) as other:
        expires_at = time.monotonic() + expires_s
        result = other.send_task(
            "worker", [{"how": "gate", "what": "twice"}], queue="works", expires=expires_s
        )
        works.conversations.append(result.id)
        first = works.seen("work")
        eventually(lambda: time.monotonic() > expires_at, what="its expiry")
        os.kill(first["pid"], signal.SIGKILL)
        eventually(lambda: len(works.records("work")) == 2, what="its second attempt")
        works.open_gate("twice")
        assert result.get(timeout=WAIT_S)["payload"] == {"what": "twice"}
