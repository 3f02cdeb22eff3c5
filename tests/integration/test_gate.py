"""Odd messages: what anybody may write to a queue, each part of a message with values it is not.

All of them go to one worker. Afterwards it is still the same one and answers others, and every
odd message has ended in words: an error for its sender, a place among the dead letters, or a
success that harms nobody.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import uuid
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import psutil
import pytest
import redis
from celery import Celery, signature, xmap
from celery.canvas import chunks, xstarmap

from tests.desk import close_app, plain_app
from tests.harness import WAIT_S, Deployment, eventually
from threadloom import tasks
from threadloom.config import PermanentError
from threadloom.routing import ConversationError, IdTakenError

pytest_plugins = ["tests.desk_fixtures"]

_ABSENT = object()


class Odd(NamedTuple):
    """One message: what it says otherwise than a good one."""

    headers: Mapping[str, Any] = {}
    body: Any = ([{"text": "odd"}], {}, {})
    raw: bytes | None = None
    options: Mapping[str, Any] = {}


def nested(depth: int) -> Any:
    value: Any = {"text": "x"}
    for _ in range(depth):
        value = {"text": value}
    return value


def embed(**parts: Any) -> Odd:
    return Odd(body=[[{"text": "odd"}], {}, parts])


ZEROS = b"[[" + b" " * 60_000_000 + b'{"text": "x"}], {}, {}]'
#: what stands where a text, a number, a list or a date is expected
VALUES: dict[str, Any] = {
    "list": ["x"], "mapping": {"a": 1}, "number": 5, "minus": -1, "huge": 10**18, "float": 0.5,
    "true": True, "empty": "", "text": "x", "long": "x" * 70_000, "lines": "a\nb",
    "deep": json.loads("[" * 300 + "]" * 300),
}  # fmt: skip
#: headers that Celery, kombu or we read, each of which gets every value
HEADERS = (
    "id", "task", "timelimit", "eta", "expires", "headers", "retries", "root_id", "group", "shadow",
    "argsrepr", "stamped_headers", "stamps", "ignore_result", "callbacks", "chord", "released",
    "threadloom_sent_ms", "threadloom_organism", "compression",
)  # fmt: skip
ODD: dict[str, Odd] = {
    **{
        f"{header} {kind}": Odd({header: value})
        for header in HEADERS
        for kind, value in VALUES.items()
    },
    "no id": Odd({"id": _ABSENT}),
    "no task": Odd({"task": _ABSENT}),
    "id null": Odd({"id": None}),
    "id of 256 bytes": Odd({"id": "x" * 256}),
    "timelimit of texts": Odd({"timelimit": ["a", "b"]}),
    "timelimit of three": Odd({"timelimit": [1, 2, 3]}),
    "timelimit below zero": Odd({"timelimit": [-5, None]}),
    "timelimit of lists": Odd({"timelimit": [[1], [2]]}),
    "eta in the year 0": Odd({"eta": "0000-01-01T00:00:00"}),
    "eta before all zones": Odd({"eta": "0001-01-01T00:00:00+23:00"}),
    "eta after all zones": Odd({"eta": "9999-12-31T23:59:59-23:00"}),
    "expires on no day": Odd({"expires": "2026-02-31T00:00:00"}),
    "a header of ours in `headers`": Odd({"headers": {"task": ["x"], "id": 7}}),
    "headers in headers": Odd({"headers": {"headers": {"headers": 5}}}),
    "called_directly": Odd({"called_directly": True}),
    "delivery_info": Odd({"delivery_info": "x"}),
    "a chain of numbers": embed(chain=[1, 2]),
    "a chain of a mapping": embed(chain=[{"task": ["x"]}]),
    "a chord of a text": embed(chord="x"),
    "callbacks of a text": embed(callbacks="x"),
    "errbacks of null": embed(errbacks=[None]),
    "a link with odd headers": embed(
        callbacks=[{"task": "x", "args": [], "kwargs": {}, "options": {"headers": 5}}]
    ),
    "a link with odd options": embed(
        callbacks=[{"task": "x", "args": [], "kwargs": {}, "options": {"countdown": "x"}}]
    ),
    "a link with odd arguments": embed(callbacks=[{"task": "x", "args": 5, "kwargs": {}}]),
    "another id in the body": embed(id="00000000-0000-4000-8000-000000000000"),
    "another task in the body": embed(task=["x"]),
    "released in the body": embed(released="x"),
    **{f"{depth} levels of JSON": Odd(body=[[nested(depth)], {}, {}]) for depth in (150, 300, 480)},
    "480 levels of keywords": Odd(body=[[], {"a": nested(480)}, {}]),
    "480 levels of canvas": embed(chain=[nested(480)]),
    "9 000 levels": Odd(raw=b"[" * 9_000 + b"]" * 9_000),
    "cut JSON": Odd(raw=b'[[{"text"'),
    "no UTF-8": Odd(raw=b"\xff\xfe"),
    "an empty body": Odd(raw=b""),
    "13 MB": Odd(raw=b"[[" + b" " * 13_000_000 + b"], {}, {}]"),
    "a gzip bomb": Odd({"compression": "application/x-gzip"}, raw=zlib.compress(ZEROS)),
    "a bzip2 bomb": Odd({"compression": "bzip2"}, raw=bz2.compress(ZEROS)),
    "an xz bomb": Odd({"compression": "xz"}, raw=lzma.compress(ZEROS)),
    "two xz streams": Odd({"compression": "xz"}, raw=lzma.compress(b"[") + lzma.compress(ZEROS)),
    "gzip that is none": Odd({"compression": "gzip"}, raw=b"x"),
    "gzip with a file's head": Odd({"compression": "gzip"}, raw=gzip.compress(b"[]")),
    "brotli": Odd({"compression": "brotli"}, raw=b"x"),
    **{
        f"conversation {kind}": Odd(body=[[], {"conversation": value}, {}])
        for kind, value in VALUES.items()
    },
    **{
        f"conversations {kind}": Odd(body=[[], {"conversations": value}, {}])
        for kind, value in VALUES.items()
    },
    "conversations of lists": Odd(body=[[], {"conversations": [["x"]]}, {}]),
    "injected odd": Odd(body=[[], {"conversation": "x", "injected": 7}, {}]),
    "injected of another": Odd(body=[[], {"conversation": "x", "injected": True}, {}]),
    **{
        f"body {value!r}"[:60]: Odd(body=value)
        for value in ("x", 7, None, {}, [], [1, 2, 3], [[], [], []], [[], {}, []], [[], {}, {}, {}])
    },
    "protocol 1": Odd({"task": _ABSENT, "id": _ABSENT}, body={"task": "echo", "id": "p1-odd"}),
    "protocol 1 with odd parts": Odd(
        {"task": _ABSENT, "id": _ABSENT},
        body={"task": "echo", "id": ["x"], "args": [], "kwargs": {}, "timelimit": "x"},
    ),
    "protocol 1 of ours": Odd(
        {"task": _ABSENT, "id": _ABSENT},
        body={"task": "echo", "id": "p1-ours", "args": [], "kwargs": {"conversation": "x"}},
    ),
    "pickle": Odd(raw=b"\x80\x04N.", options={"content_type": "application/x-python-serialize"}),
    "no content type": Odd(options={"content_type": ""}),
    "an odd encoding": Odd(options={"content_encoding": "rot13"}),
    "reply_to of odd length": Odd(options={"reply_to": "x" * 255}),
    "priority 9": Odd(options={"priority": 9}),
    "an unknown task": Odd({"task": "nobody.has.this"}),
}
#: what comes to the worker by Redis alone, written past kombu; {} stands for the good message
RAW: dict[str, Any] = {
    "no JSON": b"x", "a number": 5, "a list": [], "no properties": {"body": "", "headers": {}},
    "properties of text": {"properties": "x"},
    "a tag of a list": {"properties": {"delivery_tag": ["x"]}},
    "delivery_info of text": {"properties": {"delivery_info": "x"}},
    "no exchange": {"properties": {"delivery_info": {}}},
    "a routing key of a list": {
        "properties": {"delivery_info": {"exchange": "", "routing_key": ["x"]}},
        "headers": {"threadloom_sent_ms": 5},
    },
    "a priority of text": {"properties": {"priority": "x"}},
    "a body of a number": {"body": 7}, "a body that is no base64": {"body": "\u00e9"},
    "an unknown body encoding": {"properties": {"body_encoding": "x"}},
    "headers of text": {"headers": "x"}, "headers of a list": {"headers": ["task"]},
    "a content type of a list": {"content-type": ["x"]},
}  # fmt: skip


@pytest.fixture
def elsewhere(desk: Deployment) -> Iterator[Celery]:
    """A plain Celery app on the same broker."""
    app = plain_app(desk)
    yield app
    close_app(app)


def _publish(app: Celery, queue: str) -> dict[str, Any]:
    """Send each of ODD; the ids of those that have one."""
    ids: dict[str, Any] = {}
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for name, odd in ODD.items():
            given = {"mark": f"<{name}>", "task": "echo", "id": str(uuid.uuid4()), "lang": "py"}
            headers = {n: v for n, v in {**given, **odd.headers}.items() if v is not _ABSENT}
            ids[name] = headers.get("id")
            body = odd.raw if odd.raw is not None else json.dumps(odd.body).encode()
            options = {
                "content_type": "application/json", "content_encoding": "utf-8", **odd.options
            }  # fmt: skip
            producer.publish(body, routing_key=queue, exchange="", headers=headers, **options)
    return ids


def _push_raw(desk: Deployment) -> None:
    """Write RAW to the queue's list in Redis."""
    with redis.Redis.from_url(desk.redis_url) as client:
        for name, change in RAW.items():
            if not isinstance(change, dict):
                given = change if isinstance(change, bytes) else json.dumps(change)
                client.lpush(desk.queue, given)
                continue
            info = {"exchange": "", "routing_key": desk.queue}
            properties: Any = {
                "delivery_tag": str(uuid.uuid4()), "delivery_info": info, "body_encoding": "base64",
                "priority": 0, "delivery_mode": 2,
            }  # fmt: skip
            more = change.get("properties", {})
            if "no properties" in name:
                properties = None
            else:
                properties = {**properties, **more} if isinstance(more, dict) else more
            body = base64.b64encode(json.dumps([[{"text": "raw"}], {}, {}]).encode()).decode()
            headers = {"mark": f"<{name}>", "task": "echo", "id": str(uuid.uuid4())}
            whole = {
                "body": body, "content-encoding": "utf-8", "content-type": "application/json",
                "headers": headers, **change, "properties": properties,
            }  # fmt: skip
            if isinstance(change.get("headers"), dict):
                whole["headers"] = {**headers, **change["headers"]}
            client.lpush(desk.queue, json.dumps(whole))


@pytest.mark.both_brokers
def test_no_message_ends_a_worker(desk: Deployment, elsewhere: Celery) -> None:
    """Hundreds of odd messages and a good one: the worker and its pool are the same afterwards."""
    assert len(ODD) > 250
    main = psutil.Process(desk.workers[0].process.pid)
    before = {child.pid for child in main.children()}
    ids = _publish(elsewhere, desk.queue)
    if desk.app.connection_for_read().transport.driver_type == "redis":
        _push_raw(desk)
    assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
    left = dict(ids)

    def told() -> bool:
        kept = "".join(refused.excerpt for refused in desk.backend.refused())
        for name, message_id in list(left.items()):
            is_text = isinstance(message_id, str) and 0 < len(message_id) < 256
            answered = is_text and elsewhere.AsyncResult(message_id).ready()
            if answered or f"<{name}>" in kept or _is_harmless(name):
                del left[name]
        return not left

    try:
        eventually(told, what="the end of every odd message")
    finally:
        assert not left
    assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
    assert main.is_running()
    assert {child.pid for child in main.children()} == before
    assert main.memory_info().rss < 400_000_000


def _is_harmless(name: str) -> bool:
    """Whether nobody waits for an answer: a message that says to be ours, or wants no result."""
    ours = (
        "conversation text",
        "conversations text",
        "conversations list",
        "ignore_result true",
        "threadloom_organism",
    )
    return name.startswith(ours) or name in ("conversation lines", "an unknown task")


@pytest.mark.both_brokers
def test_the_sender_of_a_refused_message_is_told(desk: Deployment, elsewhere: Celery) -> None:
    """The error says which part; nothing else of that id is touched, and the list has it."""
    told = signature("echo", ({"text": "told"},), immutable=True, app=elsewhere)
    told.set(task_id=str(uuid.uuid4()), queue=desk.queue)
    result = elsewhere.send_task("echo", [nested(480)], link_error=told)
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    assert caught.value.code == "validation"
    assert "nested too deep" in caught.value.message
    assert elsewhere.AsyncResult(told.options["task_id"]).get(timeout=WAIT_S)["payload"] == {
        "text": "told"
    }
    [refused] = [r for r in desk.backend.refused() if r.message_id == result.id]
    assert (refused.task, refused.queue) == ("echo", desk.queue)
    assert desk.backend.drop_refused(refused.id)
    assert not desk.backend.drop_refused(refused.id)


def test_an_id_stands_for_one_listener_and_payload(desk: Deployment, elsewhere: Celery) -> None:
    """Sent again it is one conversation; for another payload or listener it is put aside."""
    first = elsewhere.send_task("echo", [{"text": "first"}])
    told = first.get(timeout=WAIT_S)
    elsewhere.send_task("echo", [{"text": "second"}], task_id=first.id)
    elsewhere.send_task("clerk", [{"number": 1}], task_id=first.id)

    def refused() -> set[str]:
        return {r.task for r in desk.backend.refused() if r.message_id == first.id}

    eventually(lambda: refused() == {"echo", "clerk"}, what="both put aside")
    elsewhere.send_task("echo", [{"text": "first"}], task_id=first.id)
    with pytest.raises(IdTakenError, match="take a new one"):
        desk.inject("echo", {"text": "second"}, conversation_id=first.id)
    assert desk.inject("echo", {"text": "first"}, conversation_id=first.id).get() == told
    assert len([r for r in desk.backend.refused() if r.message_id == first.id]) == 2


def test_a_forged_message_touches_no_result(desk: Deployment, elsewhere: Celery) -> None:
    """Neither a value nor an error of a message that says to be ours becomes somebody's result."""
    waits = desk.inject("reception", {"number": 1})
    eventually(lambda: desk.backend.waits(waits.id), what="the wait")
    kwargs: Any
    for kwargs in (
        {"conversation": waits.id}, {"conversations": [waits.id]}, {"conversation": 5},
        {"conversation": waits.id, "injected": True},
    ):  # fmt: skip
        elsewhere.send_task("reception", [], kwargs, task_id=waits.id)
    elsewhere.send_task("reception", [7], task_id=waits.id, headers={"released": waits.id})
    elsewhere.send_task("reception", [7], task_id=waits.id, headers={"timelimit": "x"})
    released = elsewhere.send_task("echo", [{"text": "x"}], headers={"released": waits.id})
    with pytest.raises(ConversationError, match="'released'"):
        released.get(timeout=WAIT_S)
    assert desk.ask("clerk", {"number": 1})["payload"] == {"text": "2"}
    assert waits.state == "PENDING"
    assert desk.conversation(waits.id).status == "waiting"
    assert tasks.kill(desk.app, waits.id)


def test_map_starmap_and_chunks_are_refused_in_words(desk: Deployment, elsewhere: Celery) -> None:
    """They call the task without a message: all of them would be one conversation named None."""
    echo = signature("echo", app=elsewhere)
    for together in (
        xmap(echo, [{"text": "a"}, {"text": "b"}], app=elsewhere),
        xstarmap(echo, [({"text": "a"},)], app=elsewhere),
        chunks(echo, [({"text": "x"},), ({"text": "y"},)], 1, app=elsewhere),
    ):
        with pytest.raises(Exception, match="cannot be called like a function"):
            together.apply_async(queue=desk.queue).get(timeout=WAIT_S)
    with pytest.raises(PermanentError, match="inject_many"):
        desk.app.tasks["echo"]({"text": "direct"})
    assert desk.backend.conversation("None") is None
