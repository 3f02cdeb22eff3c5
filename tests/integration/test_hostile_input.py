"""Input that means harm, sent to a listener by its task name: refused or escaped, never fatal.

After each the worker is asked something ordinary, and its two processes are still the same ones.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from celery import Celery

from tests.desk import Story, close_app, plain_app, settled, told
from tests.harness import WAIT_S, Deployment, eventually
from threadloom.routing import ConversationError

pytest_plugins = ["tests.desk_fixtures"]

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
#: what is sent as the one argument of a plain `send_task`, and what the error says
REFUSED: dict[str, tuple[Any, str]] = {
    "doctype": ("<!DOCTYPE Text><Text><text>x</text></Text>", "DOCTYPE"),
    "external entity": (
        '<!DOCTYPE Text [<!ENTITY x SYSTEM "file:///etc/passwd">]><Text><text>&x;</text></Text>',
        "DOCTYPE",
    ),
    "external dtd": (
        '<!DOCTYPE Text SYSTEM "http://127.0.0.1:9/x.dtd"><Text><text>x</text></Text>',
        "DOCTYPE",
    ),
    "doctype after a comment": (
        "<!-- x --><!DOCTYPE Text><Text><text>x</text></Text>",
        "DOCTYPE",
    ),
    "billion laughs": (
        f'<!DOCTYPE Text [<!ENTITY l0 "ha">{LAUGHS}]><Text><text>&l9;</text></Text>',
        "DOCTYPE",
    ),
    "unknown entity": ("<Text><text>&nbsp;</text></Text>", "nbsp"),
    "100 000 levels": ("<Text><text>" + "<a>" * 100_000 + "</a>" * 100_000, ""),
    "100 000 levels, well-formed": ("<a>" * 100_000 + "</a>" * 100_000, ""),
    "201 levels": ("<a>" * 201 + "</a>" * 201, "200"),
    "2 MiB": ("<Text><text>" + "x" * (2 << 20) + "</text></Text>", "1048576"),
    "2 MiB of fields": ({"text": "x" * (2 << 20)}, "1048576"),
    "grows when canonical": ("<Text><text>" + ">" * 300_000 + "</text></Text>", "canonical form"),
    "NUL": ("<Text><text>a\0b</text></Text>", "NUL"),
    "NUL in a field": ({"text": "a\0b"}, "text"),
    "escaped NUL": ("<Text><text>&#0;</text></Text>", ""),
    "half a surrogate pair": ({"text": "\ud800"}, "text"),
    "half a surrogate pair in XML": ("<Text><text>\ud800</text></Text>", "surrogate"),
    "another encoding": (
        '<?xml version="1.0" encoding="utf-16"?><Text><text>x</text></Text>',
        "utf-16",
    ),
    "instruction": ("<Text><?php x?><text>x</text></Text>", "processing instruction"),
    "script": ("<script>x</script>", "script"),
    "name of the class elsewhere": ('<Text xmlns="urn:x"><text>x</text></Text>', "urn:x"),
    "an attribute": ('<Text a="1"><text>x</text></Text>', "a"),
    "nothing": ("", ""),
    "no XML": ("hello", ""),
    "two roots": ("<Text><text>x</text></Text><Text/>", ""),
    "a number": (7, "7"),
    "null": (None, "None"),
    "a list": ([1, 2], "list"),
    "no fields": ({}, "text"),
    "a field too many": ({"text": "x", "__class__": "os.system"}, "__class__"),
    "a field of another type": ({"text": {"text": "x"}}, "text"),
    "another type": ({"type": "os.system", "payload": {"text": "x"}}, "os.system"),
    "an error as input": ("<SystemError><code>limit</code></SystemError>", "SystemError"),
    "a message inside a message": (
        '<message xmlns="https://xml-pipeline.org/ns/envelope/v1"><meta><from>x</from>'
        "<thread>y</thread></meta></message>",
        "",
    ),
}


#: not what Celery's protocol says a body is: args, kwargs, embed
MALFORMED = ("x", [], {}, None, 7, [1, 2, 3], [[], [], []], [[], {}, {}], [[], {}, None])


@pytest.fixture(scope="module")
def elsewhere(desk: Deployment) -> Iterator[Celery]:
    """A plain Celery app on the same broker."""
    app = plain_app(desk)
    yield app
    close_app(app)


@pytest.fixture(autouse=True)
def _the_worker_lives(desk: Deployment) -> Iterator[None]:
    main = psutil.Process(desk.workers[0].process.pid)
    before = {child.pid for child in main.children()}
    yield
    assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
    assert {child.pid for child in main.children()} == before


def _error(app: Celery, to: str, *args: Any, **kwargs: Any) -> tuple[ConversationError, str]:
    result = app.send_task(to, args, kwargs)
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    return caught.value, result.id


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_input_is_refused(desk: Deployment, elsewhere: Celery, name: str) -> None:
    """A clear, short error for the sender; the handler never sees it; the conversation is over."""
    sent, text = REFUSED[name]
    error, conversation = _error(elsewhere, "echo", sent)
    assert error.code == "validation"
    assert text in error.message
    assert 10 < len(error.message) < 5_000
    story = Story(desk, conversation)
    assert story.conversation.status == "error"
    assert not story.records("echo")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (({"text": "x"}, {"text": "y"}), {}),
        (({"text": "x"},), {"text": "y"}),
        (({"text": "x"},), {"injected": True}),
    ],
)
def test_a_call_takes_one_argument(
    desk: Deployment, elsewhere: Celery, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """No argument, two, or keywords beside one: refused, with what is expected."""
    error, conversation = _error(elsewhere, "echo", *args, **kwargs)
    assert error.code == "validation"
    assert "exactly one argument" in error.message
    assert not Story(desk, conversation).records("echo")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"conversation": "00000000-0000-4000-8000-000000000000"},
        {"conversation": ["x"]},
        {"conversation": {"a": 1}, "injected": True},
        {"conversation": "x" * 100_000},
    ],
)
def test_a_forged_message_of_ours_runs_nothing(
    desk: Deployment, elsewhere: Celery, kwargs: dict[str, Any]
) -> None:
    """Whoever can write to the broker can name a conversation, and a delivery that is not there."""
    before = len(desk.records(event="echo"))
    result = elsewhere.send_task("echo", [{"text": "forged"}], kwargs)
    output = lambda: desk.workers[0].output  # noqa: E731
    eventually(
        lambda: output().count(result.id) > 1 or f"refused message_id='{result.id}'" in output(),
        what="the forged message dealt with",
    )
    assert not result.ready(), "nobody's result is touched"
    assert desk.backend.conversation(result.id) is None
    assert len(desk.records(event="echo")) == before


def test_a_forged_message_cannot_repeat_a_delivery(desk: Deployment, elsewhere: Celery) -> None:
    """A copy of a delivery's message changes nothing once it has settled."""
    value, story = told(desk, "doubter", {"number": 1})
    settled(desk)  # the registry has noted that the injector was told
    story = Story(desk, story.conversation.id)
    add = story.records("add")[0]
    elsewhere.send_task(
        "calculator.add",
        kwargs={"conversation": story.conversation.id},
        task_id=add["message"],
    )
    settled(desk)
    again = Story(desk, story.conversation.id)
    assert len(again.records("add")) == len(story.records("add"))
    assert again.conversation == story.conversation
    assert value["payload"] == {"text": "3"}


@pytest.mark.parametrize(
    "text",
    [
        "<script>&amp;</script>",
        "]]>",
        "\"'<&>",
        "</text></Text>",
        "  leading\n\n and trailing \t ",
        "\r\n and \r",
        "𝄞 ∆ \N{ZERO WIDTH JOINER} \u202e",
        "<!DOCTYPE x>",
        "x" * 1_000_000,
    ],
)
def test_text_stays_text(desk: Deployment, elsewhere: Celery, text: str) -> None:
    """Whatever a field says is escaped on the way in and comes out exactly as it was."""
    value = elsewhere.send_task("echo", [{"text": text}]).get(timeout=WAIT_S)
    assert value["payload"] == {"text": text}


def test_cdata_is_text(desk: Deployment, elsewhere: Celery) -> None:
    """CDATA, comments and white space around the fields are nothing special."""
    xml = "\n<Text> <!-- <!DOCTYPE x> --><text><![CDATA[ <&> <!DOCTYPE x> ]]></text>\n</Text>\n"
    value = elsewhere.send_task("echo", [xml]).get(timeout=WAIT_S)
    assert value["payload"] == {"text": " <&> <!DOCTYPE x> "}


@pytest.mark.parametrize(
    ("damaged", "text"),
    [
        ("<Text><text>no end", "no end"),
        ("Sure! Here it is:\n```xml\n<Text><text>in prose</text></Text>\n```", "in prose"),
        ("<Text><text>AT&T</text></Text>", "AT&T"),
        ("<Text><text>a < b</text></Text>", "a < b"),
    ],
)
def test_damaged_xml_is_repaired_where_it_was_asked_for(
    desk: Deployment, elsewhere: Celery, damaged: str, text: str
) -> None:
    """`repair: true`: the value says what was done to it; without it the parser's word is final."""
    value = elsewhere.send_task("mender", [damaged]).get(timeout=WAIT_S)
    assert value["huh"]
    assert value["payload"] == {"text": text}
    error, _ = _error(elsewhere, "echo", damaged)
    assert error.code == "validation"


def test_whole_xml_is_not_repaired(desk: Deployment, elsewhere: Celery) -> None:
    """Nothing to say about XML that was right."""
    value = elsewhere.send_task("mender", ["<Text><text>fine</text></Text>"]).get(timeout=WAIT_S)
    assert "huh" not in value


@pytest.mark.parametrize("name", ["doctype", "billion laughs", "2 MiB", "NUL", "201 levels"])
def test_repair_is_no_way_in(desk: Deployment, elsewhere: Celery, name: str) -> None:
    """What is dangerous stays refused where damage is repaired."""
    error, _ = _error(elsewhere, "mender", REFUSED[name][0])
    assert error.code == "validation"


def test_names_with_markup_are_escaped(desk: Deployment) -> None:
    """A sender called `</from>` is carried as text, and comes back as it was."""
    name = "</from><to>clerk</to>&amp;"
    result = desk.inject("clerk", {"number": 1}, from_id=name)
    assert result.get(timeout=WAIT_S)["payload"] == {"text": "2"}
    assert Story(desk, result.id).records("clerk")[0]["from"] == name


def test_a_message_that_is_no_json_is_put_aside(desk: Deployment, elsewhere: Celery) -> None:
    """Raw bytes, deep JSON and no task at all, written straight to the queue."""
    deep = "[" * 100_000 + "]" * 100_000
    with elsewhere.connection_for_write() as connection:
        producer = elsewhere.amqp.Producer(connection)
        for body in (b"\xff\xfe", deep, *map(json.dumps, MALFORMED)):
            producer.publish(
                body,
                routing_key=desk.queue,
                exchange="",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"task": "echo", "id": str(uuid.uuid4()), "lang": "py"},
            )
        producer.publish("x", routing_key=desk.queue, exchange="", headers={})
    assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
