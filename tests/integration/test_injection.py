"""Starting conversations with `threadloom.inject`, and answering those that wait for a person."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.desk import Story, close_app, plain_app, told
from tests.harness import ORGANISMS, WAIT_S, Deployment, eventually
from threadloom import tasks
from threadloom.routing import XML, ConversationError
from threadloom.routing.errors import InvalidEnvelopeError, UnknownConversationError

pytest_plugins = ["tests.desk_fixtures"]
pytestmark = pytest.mark.both_brokers

THREAD = "550e8400-e29b-41d4-a716-446655440000"
ENVELOPE = (
    '<message xmlns="https://xml-pipeline.org/ns/envelope/v1"><meta><from>clerk</from>'
    f"<to>calculator.add</to><thread>{THREAD}</thread></meta>"
    '<Add xmlns=""><a>2</a><b>3</b></Add></message>'
)


def _made(desk: Deployment, payload: Any) -> Any:
    """Turn a tuple into an object of the class that the desk's own modules have."""
    if not isinstance(payload, tuple):
        return payload
    name, *fields = payload
    space = tasks.runtime_of(desk.app).organism.space
    return getattr(space.import_module("desk_handlers"), name)(*fields)


@pytest.mark.parametrize(
    "payload",
    [
        {"a": 2, "b": 3},
        {"type": "Add", "payload": {"a": 2, "b": 3}, "thread": THREAD},
        {"type": "Add", "payload": "<Add><a>2</a><b>3</b></Add>"},
        ("Add", 2, 3),
        XML("<Add><a>2</a><b>3</b></Add>"),
        "<Add>\n  <a>2</a><b>3</b>\n</Add>",
        b"<Add><a>2</a><b>3</b></Add>",
        ENVELOPE,
    ],
    ids=["fields", "a result", "typed XML", "object", "XML", "text", "bytes", "envelope"],
)
def test_every_form_of_a_payload_is_one_payload(desk: Deployment, payload: Any) -> None:
    """In every form the listener gets the same Add from outside, on a thread of its own."""
    value, story = told(desk, "calculator.add", _made(desk, payload))
    assert (value["type"], value["payload"]) == ("Sum", {"value": 5})
    [add] = story.records("add")
    assert add["from"] == "external"
    assert THREAD not in story.threads
    assert value["thread"] in story.threads


def test_the_value_is_on_the_injectors_thread(desk: Deployment) -> None:
    """The value's thread is the injector's root thread and not the listener's."""
    value, story = told(desk, "calculator.add", {"a": 1})
    assert story.chain(value["thread"]) == ("external",)


def test_an_authenticated_sender_is_named(desk: Deployment) -> None:
    """`from_id` is trusted, because the caller has authenticated the sender; any text is
    carried.
    """
    result = desk.inject("clerk", {"number": 1}, from_id="<Ann & Bob>")
    result.get(timeout=WAIT_S)
    story = Story(desk, result.id)
    assert [r["from"] for r in story.records("clerk")] == ["<Ann & Bob>", "calculator.add"]
    assert story.conversation.from_id == "<Ann & Bob>"


@pytest.mark.parametrize(
    ("to", "payload", "error", "text"),
    [
        ("nobody", {"a": 1}, ConversationError, "could not be delivered"),
        ("calculator.add", {"a": "one"}, InvalidEnvelopeError, "int"),
        ("calculator.add", {"c": 1}, InvalidEnvelopeError, "c"),
        ("calculator.add", ("Ask", 1), InvalidEnvelopeError, "Ask"),
        ("calculator.add", "<Ask><number>1</number></Ask>", InvalidEnvelopeError, "Ask"),
        ("calculator.add", "<Add><a>1</a>", InvalidEnvelopeError, "parse"),
        ("calculator.add", 7, InvalidEnvelopeError, "int 7"),
        ("calculator.add", b"<Add><a>\xff</a></Add>", InvalidEnvelopeError, "not UTF-8"),
        ("calculator.add", "<Add><a>1</a></Add>".encode("utf-16"), InvalidEnvelopeError, "NUL"),
        ("echo", ENVELOPE.replace("Add", "Text"), InvalidEnvelopeError, ""),
    ],
)
def test_what_cannot_be_injected_starts_nothing(
    desk: Deployment, to: str, payload: Any, error: type[Exception], text: str
) -> None:
    """The error is raised in the call, before a conversation exists."""
    conversation = str(uuid.uuid4())
    with pytest.raises(error) as caught:
        desk.inject(to, _made(desk, payload), conversation_id=conversation)
    assert text in str(caught.value)
    assert desk.backend.conversation(conversation) is None


def test_the_same_id_twice_is_one_conversation(desk: Deployment) -> None:
    """The id is sent again while the conversation runs, after its end, and from an app without
    our code.
    """
    conversation = str(uuid.uuid4())
    results = [
        desk.inject("doubter", {"number": 1}, conversation_id=conversation) for _ in range(3)
    ]
    assert [r.get(timeout=WAIT_S)["payload"] for r in results] == [{"text": "3"}] * 3
    late = desk.inject("doubter", {"number": 1}, conversation_id=conversation)
    assert late.get(timeout=WAIT_S)["payload"] == {"text": "3"}
    app = plain_app(desk)
    again = app.send_task("doubter", [{"number": 1}], task_id=conversation)
    assert again.get(timeout=WAIT_S)["payload"] == {"text": "3"}
    close_app(app)
    story = Story(desk, conversation)
    assert len(story.records("ask_twice")) == 3
    assert [e.event for e in story.log].count("ended") == 1


def test_an_injection_is_published_once(deployment_url: Callable[[], str], tmp_path: Path) -> None:
    """Without a worker there is one message, which the outbox does not publish again."""
    app = tasks.create_app(ORGANISMS / "desk" / "organism.yaml", redis_url=deployment_url())
    conversation = str(uuid.uuid4())
    for _ in range(2):
        tasks.inject(app, "calculator.add", {"a": 1}, conversation_id=conversation)
    with redis.Redis.from_url(_redis_url(app)) as client:
        assert client.llen("desk") == 1
    found = tasks.runtime_of(app).backend.conversation(conversation)
    assert found is not None
    assert (found.status, found.in_flight) == ("running", 1)
    close_app(app)


def _redis_url(app: Any) -> str:
    path, _, database = app.conf.broker_write_url.partition("?virtual_host=")
    return f"{path.replace('redis+socket', 'unix')}?db={database}"


def test_many_are_injected_in_one_call(desk: Deployment) -> None:
    """All payloads are checked before the first conversation starts; each has its own
    conversation.
    """
    results = tasks.inject_many(desk.app, "calculator.add", [{"a": n} for n in range(10)])
    values = [r.get(timeout=WAIT_S)["payload"]["value"] for r in results]
    assert values == list(range(10))
    before = desk.backend.stats()["conversations"]
    with pytest.raises(InvalidEnvelopeError):
        tasks.inject_many(desk.app, "calculator.add", [{"a": 1}, {"a": "one"}])
    assert desk.backend.stats()["conversations"] == before


class TestWaiting:
    """A thread that waits for a person."""

    def _waiting(self, desk: Deployment) -> tuple[Any, str]:
        result = desk.inject("reception", {"number": 7})

        def asked() -> str | None:
            found = desk.backend.conversation(result.id)
            if found is None or found.status != "waiting":
                return None
            waits = [e.detail for e in desk.backend.log(result.id) if e.event == "waiting"]
            assert [w["prompt"] for w in waits] == ["What is 7?"]
            return str(waits[0]["id"])

        return result, eventually(asked, what="a wait")

    def test_it_holds_no_worker(self, desk: Deployment) -> None:
        """More threads wait than the worker has processes, and other conversations are still
        served.
        """
        waiting = [self._waiting(desk) for _ in range(4)]
        assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
        for result, wait in waiting:
            assert not result.ready()
            assert desk.conversation(result.id).waiting == 1
            assert tasks.answer_wait(desk.app, result.id, wait, {"text": result.id})
        for result, _ in waiting:
            assert result.get(timeout=WAIT_S)["payload"] == {"text": result.id}

    def test_the_answer_comes_on_the_same_thread_once(self, desk: Deployment) -> None:
        """The first input counts; another one changes nothing."""
        result, wait = self._waiting(desk)
        assert tasks.answer_wait(desk.app, result.id, wait, {"text": "first"})
        assert not tasks.answer_wait(desk.app, result.id, wait, {"text": "second"})
        assert result.get(timeout=WAIT_S)["payload"] == {"text": "first"}
        assert not tasks.answer_wait(desk.app, result.id, wait, {"text": "third"})
        story = Story(desk, result.id)
        runs = story.records("reception")
        assert [r["got"] for r in runs] == ["Ask", "Text"]
        assert len({r["thread"] for r in runs}) == 1
        assert runs[1]["message"] == wait
        assert story.conversation.waiting == 0

    def test_an_answer_that_breaks_the_contract_is_refused(self, desk: Deployment) -> None:
        """The wait continues, also after an input for a wait or a conversation that does not
        exist.
        """
        result, wait = self._waiting(desk)
        with pytest.raises(InvalidEnvelopeError):
            tasks.answer_wait(desk.app, result.id, wait, {"wrong": 1})
        assert not tasks.answer_wait(desk.app, result.id, str(uuid.uuid4()), {"text": "x"})
        with pytest.raises(UnknownConversationError):
            tasks.answer_wait(desk.app, str(uuid.uuid4()), wait, {"text": "x"})
        assert desk.conversation(result.id).status == "waiting"
        assert tasks.answer_wait(desk.app, result.id, wait, "<Text><text>right</text></Text>")
        assert result.get(timeout=WAIT_S)["payload"] == {"text": "right"}

    def test_a_wait_deep_inside_holds_its_callers(self, desk: Deployment) -> None:
        """The caller gets the reply that followed from the input."""
        call = {"to": "reception", "message": "<Ask><number>7</number></Ask>"}
        result = desk.inject("caller", call)
        log = eventually(lambda: [e for e in desk.backend.log(result.id) if e.event == "waiting"])
        assert tasks.answer_wait(desk.app, result.id, log[0].detail["id"], {"text": "x"})
        assert result.get(timeout=WAIT_S)["payload"]["kind"] == "Answer"
