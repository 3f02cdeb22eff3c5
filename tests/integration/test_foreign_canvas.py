"""Listeners inside somebody else's canvas: chains, groups, chords and links go on with the reply.

The canvas is made by a plain Celery app, its other tasks run on a worker that has none of our
code. "At once" listeners reply in their first run; the others call peers before they do, so
their task ends without a result and the canvas waits for the conversation.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature, states
from celery.canvas import Signature
from celery.exceptions import ChordError, NotRegistered

from tests.desk import Story, close_app, plain_app, settled
from tests.elsewhere import Elsewhere
from tests.harness import WAIT_S, Deployment, eventually
from threadloom.routing import ConversationError

pytest_plugins = ["tests.desk_fixtures"]
pytestmark = pytest.mark.both_brokers

#: listener, what it gets, what it replies
AT_ONCE = ("calculator.add", {"a": 10, "b": 2}, {"value": 12})
AFTER_TWO_CALLS = ("consultant", {"number": 1}, {"text": "12"})
REPLIES = pytest.mark.parametrize(
    ("listener", "payload", "reply"), [AT_ONCE, AFTER_TWO_CALLS], ids=["at once", "after calls"]
)
#: a listener that fails, and what it gets
FAILS_AT_ONCE = ("raises", {"number": 1})
FAILS_AFTER_CALLS = ("a", {"route": ["b", "c", "nobody"]})
FAILS = pytest.mark.parametrize(
    ("listener", "payload"), [FAILS_AT_ONCE, FAILS_AFTER_CALLS], ids=["at once", "after calls"]
)


class Canvas:
    """The foreign side: an app to send with, signatures of its tasks, and what they recorded."""

    def __init__(self, desk: Deployment, elsewhere: Elsewhere) -> None:
        self.desk = desk
        self.elsewhere = elsewhere
        self.app: Celery = plain_app(desk)

    def listener(self, name: str, *args: Any) -> Signature[Any]:
        return signature(name, args=args, app=self.app)

    def fetch(self, payload: Any) -> Signature[Any]:
        return self._own("fetch", payload)

    def store(self, label: str) -> Signature[Any]:
        return signature("store", kwargs={"label": label}, app=self.app, queue="elsewhere")

    def on_error(self, label: str) -> Signature[Any]:
        return signature("on_error", kwargs={"label": label}, app=self.app, queue="elsewhere")

    def _own(self, name: str, *args: Any) -> Signature[Any]:
        return signature(name, args=args, app=self.app, queue="elsewhere")

    def once(self, task: str, label: str) -> dict[str, Any]:
        """The one record of a task, after everything that could repeat it has passed."""
        eventually(lambda: self.elsewhere.records(task, label=label), what=f"{task} {label}")
        settled(self.desk)
        [record] = self.elsewhere.records(task, label=label)
        return record

    def never(self, task: str, label: str) -> None:
        """Nothing of a task was recorded, after everything that could have is over."""
        settled(self.desk)
        assert self.elsewhere.records(task, label=label) == []


@pytest.fixture(scope="module")
def canvas(desk: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canvas]:
    """The foreign application with a worker of its own."""
    elsewhere = Elsewhere(desk, tmp_path_factory.mktemp("elsewhere"))
    worker = elsewhere.start_worker()
    made = Canvas(desk, elsewhere)
    try:
        yield made
    finally:
        worker.stop()
        close_app(made.app)


@pytest.fixture
def label() -> str:
    """Names what one test's tasks record."""
    return uuid.uuid4().hex


@REPLIES
def test_a_chain_goes_on_with_the_reply(
    canvas: Canvas, label: str, listener: str, payload: Any, reply: Any
) -> None:
    """fetch → listener → store: the listener gets what fetch fetched, store the reply, once."""
    steps = chain(canvas.fetch(payload), canvas.listener(listener), canvas.store(label))
    result = steps.apply_async()
    assert result.get(timeout=WAIT_S) == f"stored {label}"
    assert result.parent.get(timeout=WAIT_S)["payload"] == reply
    assert result.parent.parent.get(timeout=WAIT_S) == payload
    stored = canvas.once("store", label)
    assert stored["got"]["payload"] == reply
    assert Story(canvas.desk, result.parent.id).conversation.status == "completed"


def test_fields_may_be_keywords(canvas: Canvas, label: str) -> None:
    """As in any Celery signature; both a payload and keywords are refused, with what to do."""
    adder = signature("calculator.add", kwargs={"a": 2, "b": 3}, app=canvas.app)
    assert chain(adder, canvas.store(label)).apply_async().get(timeout=WAIT_S)
    assert canvas.once("store", label)["got"]["payload"] == {"value": 5}
    both = signature("calculator.add", args=[{"a": 2}], kwargs={"b": 3}, app=canvas.app)
    with pytest.raises(ConversationError, match="or else the payload's fields as keywords"):
        both.apply_async().get(timeout=WAIT_S)


def test_a_listener_as_a_chords_body(canvas: Canvas, label: str) -> None:
    """Its class takes the results in its one list field: of listeners, and of a foreign task."""
    header = [
        canvas.listener("calculator.add", {"a": 1, "b": 1}),
        canvas.fetch({"value": 20}),
        canvas.listener("calculator.add", {"a": 300}),
    ]
    result = chord(header, app=canvas.app)(canvas.listener("tally"))
    assert result.get(timeout=WAIT_S)["payload"] == {"value": 322}
    result = chord(header, app=canvas.app)(canvas.listener("clerk"))
    with pytest.raises(ConversationError, match="a class with one list field"):
        result.get(timeout=WAIT_S)


@REPLIES
def test_later_arguments_keep_their_types(
    canvas: Canvas, label: str, listener: str, payload: Any, reply: Any
) -> None:
    """What Celery's JSON carries arrives as it was sent, whether the canvas had to wait or not."""
    given = {
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "price": Decimal("1.10"),
        "key": uuid.UUID(int=7),
        "raw": b"\xff\x00",
        "text": "2026-01-02",
    }
    last = canvas.store(label)
    last.kwargs |= given
    assert chain(canvas.listener(listener, payload), last).apply_async().get(timeout=WAIT_S)
    stored = canvas.once("store", label)
    assert stored["got"]["payload"] == reply
    assert stored["more"] == {name: repr(value) for name, value in given.items()}


def test_a_listener_gets_the_result_of_another(canvas: Canvas, label: str) -> None:
    """A chain hands `{"type", "payload", "thread"}` over as it is; the next one knows it."""
    steps = chain(
        canvas.listener("doubter", {"number": 1}),
        canvas.listener("asker"),  # takes an Ask, gets an Answer
        canvas.store(label),
    )
    result = steps.apply_async()
    with pytest.raises(ConversationError, match="Answer"):
        result.get(timeout=WAIT_S)
    steps = chain(
        canvas.listener("asker", {"number": 1}),
        canvas.listener("clerk"),
        canvas.store(label),
    )
    assert steps.apply_async().get(timeout=WAIT_S) == f"stored {label}"
    assert canvas.once("store", label)["got"]["payload"] == {"text": "3"}


def test_a_chord_collects_replies(canvas: Canvas, label: str) -> None:
    """Header: two listeners that call, one that does not, one foreign task; the body runs once."""
    header = [
        canvas.listener("consultant", {"number": 1}),
        canvas.listener("calculator.add", {"a": 1, "b": 1}),
        canvas.fetch("foreign"),
        canvas.listener("doubter", {"number": 1}),
    ]
    result = chord(header, app=canvas.app)(canvas.store(label))
    assert result.get(timeout=WAIT_S) == f"stored {label}"
    one, two, three, four = canvas.once("store", label)["got"]
    assert (one["payload"], two["payload"]) == ({"text": "12"}, {"value": 2})
    assert (three, four["payload"]) == ("foreign", {"text": "3"})
    assert [p.get(timeout=WAIT_S) for p in result.parent] == [one, two, three, four]


@FAILS
def test_a_failing_listener_fails_the_chord(
    canvas: Canvas, label: str, listener: str, payload: Any
) -> None:
    """The body never runs; its errback does, and both results say so."""
    header = [
        canvas.fetch("foreign"),
        canvas.listener(listener, payload),
        canvas.listener("consultant", {"number": 1}),
    ]
    body = canvas.store(label).on_error(canvas.on_error(label))
    result = chord(header, app=canvas.app)(body)
    with pytest.raises(ConversationError):
        result.get(timeout=WAIT_S)  # looks at the parents first: the header
    with pytest.raises(ChordError, match="ConversationError"):
        canvas.app.AsyncResult(result.id).get(timeout=WAIT_S)
    canvas.once("on_error", label)
    canvas.never("store", label)


def test_a_chain_into_a_group_into_a_task(canvas: Canvas, label: str) -> None:
    """fetch → (consultant, clerk, doubter) → store: Celery makes a chord of it."""
    steps = chain(
        canvas.fetch({"number": 1}),
        group([canvas.listener(n) for n in ("consultant", "clerk", "doubter")], app=canvas.app),
        canvas.store(label),
    )
    assert steps.apply_async().get(timeout=WAIT_S) == f"stored {label}"
    got = canvas.once("store", label)["got"]
    assert [g["payload"]["text"] for g in got] == ["12", "2", "3"]


def test_a_chain_inside_a_chord(canvas: Canvas, label: str) -> None:
    """A listener in the middle of a header's chain: its remainder is parked with the group's."""
    header = [
        chain(canvas.fetch({"number": n}), canvas.listener("consultant"), canvas.store(label + "1"))
        for n in (1, 2)
    ]
    result = chord(header, app=canvas.app)(canvas.store(label))
    assert result.get(timeout=WAIT_S) == f"stored {label}"
    assert canvas.once("store", label)["got"] == [f"stored {label}1"] * 2
    assert len(canvas.elsewhere.records("store", label=label + "1")) == 2


@REPLIES
def test_a_group_is_read_whole(canvas: Canvas, listener: str, payload: Any, reply: Any) -> None:
    """Three of a kind in a group, each its own conversation."""
    members = group([canvas.listener(listener, payload) for _ in range(3)], app=canvas.app)
    result = members.apply_async()
    values = result.get(timeout=WAIT_S)
    assert [v["payload"] for v in values] == [reply] * 3
    assert len({v["thread"] for v in values}) == 3


@REPLIES
def test_links_are_called_with_the_reply(
    canvas: Canvas, label: str, listener: str, payload: Any, reply: Any
) -> None:
    """`link` runs once, with the reply; `link_error` does not."""
    canvas.listener(listener, payload).apply_async(
        link=[canvas.store(label), canvas.store(label + "too")], link_error=canvas.on_error(label)
    )
    assert canvas.once("store", label)["got"]["payload"] == reply
    assert canvas.once("store", label + "too")["got"]["payload"] == reply
    canvas.never("on_error", label)


def test_a_listener_may_be_the_link(canvas: Canvas, label: str) -> None:
    """A foreign task's callback is a listener, which has a callback of its own."""
    listener = canvas.listener("consultant")
    listener.link(canvas.store(label))
    canvas.fetch({"number": 1}).apply_async(link=listener)
    assert canvas.once("store", label)["got"]["payload"] == {"text": "12"}


@FAILS
def test_a_failing_listener_fails_the_chain(
    canvas: Canvas, label: str, listener: str, payload: Any
) -> None:
    """`link_error` runs once, what comes after never, and every `get` says why."""
    steps = chain(canvas.fetch(payload), canvas.listener(listener), canvas.store(label))
    result = steps.apply_async(link_error=canvas.on_error(label))
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    assert caught.value.code in ("handler", "routing")
    with pytest.raises(ConversationError):
        result.parent.get(timeout=WAIT_S)
    assert canvas.once("on_error", label)["failed"] == result.parent.id
    canvas.never("store", label)


def test_a_blocked_listener_fires_the_errback_once(canvas: Canvas, label: str) -> None:
    """A hard time-out kills the process: still one failure, ours, and one errback."""
    result = canvas.listener("blocks", {"number": 1}).apply_async(
        link=canvas.store(label), link_error=canvas.on_error(label)
    )
    with pytest.raises(ConversationError, match="timeout"):
        result.get(timeout=WAIT_S)
    assert canvas.once("on_error", label)["failed"] == result.id
    canvas.never("store", label)


def test_a_refused_payload_fails_the_chain_too(canvas: Canvas, label: str) -> None:
    """What fetch fetched breaks the contract: the error goes the same way."""
    steps = chain(canvas.fetch({"wrong": 1}), canvas.listener("clerk"), canvas.store(label))
    result = steps.apply_async(link_error=canvas.on_error(label))
    with pytest.raises(ConversationError, match="validation"):
        result.get(timeout=WAIT_S)
    canvas.once("on_error", label)
    canvas.never("store", label)


def test_no_value_is_a_value(canvas: Canvas, label: str) -> None:
    """A listener that ends without a reply hands None on: a canvas never waits for ever."""
    steps = chain(canvas.listener("mute", {"number": 1}), canvas.store(label))
    assert steps.apply_async().get(timeout=WAIT_S) == f"stored {label}"
    assert canvas.once("store", label)["got"] is None


#: what nobody serves
NOBODY = "nobody.of.this.name"


def test_an_unknown_listener_is_told_to_the_whole_canvas(canvas: Canvas, label: str) -> None:
    """Its sender gets the error as a result; `link_error` is called once, and a chain ends."""
    alone = canvas.listener(NOBODY, {"a": 1})
    alone.link_error(canvas.on_error(label))
    result = alone.apply_async()
    with pytest.raises(NotRegistered):
        result.get(timeout=WAIT_S)
    steps = chain(canvas.listener(NOBODY, {"a": 1}), canvas.store(label)).apply_async()
    eventually(lambda: steps.state == states.FAILURE, what="the end of the chain")
    assert canvas.once("on_error", label)["failed"] == result.id
    canvas.never("store", label)


def test_an_unknown_listener_fails_its_chord(canvas: Canvas, label: str) -> None:
    """The chord's body is not waited for in vain: the other member has answered."""
    name, payload, _reply = AT_ONCE
    header = [canvas.listener(name, payload), canvas.listener(NOBODY, payload)]
    result = chord(header, canvas.store(label)).apply_async()
    eventually(lambda: result.state == states.FAILURE, what="the failure of the chord's body")
    assert isinstance(result.result, ChordError | NotRegistered)
    canvas.never("store", label)
