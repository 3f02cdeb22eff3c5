"""Another Celery application, which has none of our code, talks to listeners by their names.

One process of its own, isolated (`python -I`, another directory), sends everything at once and
prints what it got; each test looks at one thing. Nothing but JSON and task names is shared.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.desk import Story
from tests.elsewhere import Elsewhere
from tests.harness import Deployment

pytest_plugins = ["tests.desk_fixtures"]

FORGED_THREAD = str(uuid.uuid4())
ENVELOPE = (
    '<message xmlns="https://xml-pipeline.org/ns/envelope/v1">'
    f"<meta><from>clerk</from><to>calculator.add</to><thread>{FORGED_THREAD}</thread></meta>"
    '<Add xmlns=""><a>2</a><b>3</b></Add></message>'
)
TWICE = str(uuid.uuid4())
NAMED = "order 66/<&>"

MESSAGES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "mapping": ("calculator.add", [{"a": 2, "b": 3}], {}),
    "default": ("calculator.add", [{"a": 2}], {}),
    "typed": ("calculator.add", [{"type": "Add", "payload": {"a": 2, "b": 3}}], {}),
    "xml": ("calculator.add", ["<Add><a>2</a><b>3</b></Add>"], {}),
    "envelope": ("calculator.add", [ENVELOPE], {}),
    "many hops": ("consultant", [{"number": 1}], {}),
    "no value": ("mute", [{"number": 1}], {}),
    "first": ("doubter", [{"number": 1}], {"task_id": TWICE}),
    "second": ("doubter", [{"number": 1}], {"task_id": TWICE}),
    "named": ("calculator.add", [{"a": 1}], {"task_id": NAMED}),
    "raises": ("raises", [{"number": 1}], {}),
    "raises far inside": ("a", [{"route": ["b", "a", "c", "nobody"]}], {}),
    "times out": ("sleeps", [{"number": 1}], {}),
    "broken": ("calculator.add", [{"a": "two"}], {}),
    "other's envelope": ("calculator.async", [ENVELOPE], {}),
}


@pytest.fixture(scope="module")
def elsewhere(desk: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The foreign application on the desk's broker."""
    return Elsewhere(desk, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def answer(elsewhere: Elsewhere) -> dict[str, Any]:
    """What the foreign process saw, by name of the message."""
    seen = elsewhere.ask(*MESSAGES.values())
    return {"importable": seen["importable"], **dict(zip(MESSAGES, seen["outcomes"], strict=True))}


def test_it_has_none_of_our_code(answer: dict[str, Any]) -> None:
    """Importing routing, tasks or anything else of ours fails in that process."""
    assert answer["importable"] == []


@pytest.mark.parametrize("name", ["mapping", "typed", "xml", "envelope"])
def test_it_reads_the_value(answer: dict[str, Any], name: str) -> None:
    """A mapping, a typed mapping, a payload or an envelope as XML: the same answer."""
    value = answer[name]["value"]
    assert (value["type"], value["payload"]) == ("Sum", {"value": 5})
    assert uuid.UUID(value["thread"]).version == 4


def test_fields_with_defaults_may_be_left_out(answer: dict[str, Any]) -> None:
    """`b` has a default."""
    assert answer["default"]["value"]["payload"] == {"value": 2}


def test_an_envelope_says_where_to_and_nothing_else(
    desk: Deployment, answer: dict[str, Any]
) -> None:
    """What it claims of its sender and its thread is not believed."""
    story = Story(desk, answer["envelope"]["id"])
    [add] = story.records("add")
    assert add["from"] == "external"
    assert add["thread"] != FORGED_THREAD
    assert FORGED_THREAD not in story.threads
    assert answer["envelope"]["value"]["thread"] != FORGED_THREAD


def test_many_hops_later_it_reads_the_reply(answer: dict[str, Any]) -> None:
    """The consultant asked two others, and one of them a third."""
    assert answer["many hops"]["value"]["payload"] == {"text": "12"}


def test_a_conversation_without_a_reply_has_the_value_none(answer: dict[str, Any]) -> None:
    """`get()` returns; nobody waits for ever."""
    assert answer["no value"]["value"] is None


def test_the_same_task_id_twice_is_one_conversation(
    desk: Deployment, answer: dict[str, Any]
) -> None:
    """Both senders read the one answer; the handlers ran once."""
    assert answer["first"] == answer["second"]
    assert answer["first"]["value"]["payload"] == {"text": "3"}
    story = Story(desk, TWICE)
    assert len(story.records("ask_twice")) == 3
    assert len(story.records("add")) == 2


def test_a_task_id_may_be_any_text(desk: Deployment, answer: dict[str, Any]) -> None:
    """Celery takes any string for a task id, and so does the registry; threads stay UUIDs."""
    assert answer["named"]["value"]["payload"] == {"value": 1}
    story = Story(desk, NAMED)
    assert all(uuid.UUID(thread).version == 4 for thread in story.threads)


@pytest.mark.parametrize(
    ("name", "code", "text", "retry_allowed"),
    [
        ("raises", "handler", "The message could not be processed.", False),
        ("raises far inside", "routing", "The message could not be delivered.", False),
        ("times out", "timeout", "There was no answer in time.", True),
        ("broken", "validation", "int", False),
        ("other's envelope", "validation", "not addressed to this listener", False),
    ],
)
def test_an_error_is_a_failure_that_it_can_read(
    answer: dict[str, Any], name: str, code: str, text: str, retry_allowed: bool
) -> None:
    """Code, message and whether to try again are in the exception's arguments."""
    outcome = answer[name]
    assert outcome["state"] == "FAILURE"
    kind, module, [told_code, told_text, told_retry] = outcome["error"]
    assert (kind, module) == ("ConversationError", "celery.exceptions")
    assert (told_code, told_retry) == (code, retry_allowed)
    assert text in told_text


def test_the_result_of_one_listener_is_input_for_another(
    elsewhere: Elsewhere, answer: dict[str, Any]
) -> None:
    """`{"type", "payload", "thread"}` goes in as it came out; its thread is not believed."""
    result = answer["many hops"]["value"]
    seen = elsewhere.ask(
        ("echo", [{"type": "Text", "payload": result["payload"], "thread": result["thread"]}], {}),
        ("echo", [{**result, "type": "Answer"}], {}),
    )
    taken, refused = seen["outcomes"]
    assert taken["value"]["payload"] == {"text": "12"}
    assert taken["value"]["thread"] != result["thread"]
    assert refused["error"][2][0] == "validation"
