"""Helpers for tests of sequences and buffers: they give orders, open gates and check that
nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from celery.result import AsyncResult
from lxml import etree

from tests.desk import Story
from tests.harness import WAIT_S, Deployment, eventually
from threadloom import tasks
from threadloom.primitives import BufferStart, SequenceStart
from threadloom.routing import XML, BufferItem, payload_type

Fields = dict[str, Any]


class Works:
    """One test's view of the works: its conversations and its gates."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.redis: redis.Redis = redis.Redis.from_url(deployment.redis_url, decode_responses=True)
        self.conversations: list[str] = []

    # --- giving orders ------------------------------------------------------------------

    def begin(self, to: str, message: Any, **options: Any) -> AsyncResult[Any]:
        """Inject a message without waiting."""
        result: AsyncResult[Any] = self.deployment.inject(to, message, **options)
        self.conversations.append(result.id)
        return result

    def ask(self, to: str, message: Any) -> Fields:
        """Inject a message and wait for the value: its fields, and its class as `type`."""
        return fields_of(self.begin(to, message).get(timeout=WAIT_S))

    def sequence(self, steps: list[str], part: str = "part", **options: Any) -> Fields:
        """Run a sequence from outside."""
        start = SequenceStart(steps, xml("Part", name=part), **options)
        return self.ask("system.sequence", start)

    def buffer(self, target: str, items: list[XML], **options: Any) -> Fields:
        """Run a buffer from outside."""
        return self.ask("system.buffer", BufferStart(target, items, **options))

    def led(self, leader: str, to: str, start: object) -> tuple[str, str]:
        """Let an agent start something; return the class and the XML of the answer to it."""
        value = self.ask(leader, {"to": to, "what": as_xml(start).text})
        return value["kind"], value["what"]

    def items(self, answer: Fields) -> list[BufferItem]:
        """Return the items of a BufferComplete of this test's last conversation."""
        return list(tasks.read_results(self.deployment.app, self.conversations[-1], answer))

    # --- gates --------------------------------------------------------------------------

    def open_gate(self, *names: str) -> None:
        """Let one handler pass at each of these gates, whether it waits there now or later."""
        for name in names:
            self.redis.rpush(f"gate:{name}", "pass")

    def seen(self, event: str, **wanted: Any) -> Fields:
        """Return the first record of its kind in this test's conversations, once it exists."""
        return eventually(
            lambda: next(iter(self.records(event, **wanted)), None), what=f"{event} {wanted}"
        )

    def records(self, event: str, **wanted: Any) -> list[Fields]:
        """What handlers recorded in this test's conversations."""
        backend = self.deployment.backend
        threads = {thread for c in self.conversations for thread in backend.threads(c)}
        found = self.deployment.records(event=event, **wanted)
        return [r for r in found if r["thread"] in threads]

    def noted(self, text: str) -> None:
        """Return once operators were told this about the last conversation."""
        backend, conversation = self.deployment.backend, self.conversations[-1]
        eventually(
            lambda: any(
                text in str(e.detail) for e in backend.log(conversation) if e.event == "note"
            ),
            what=f"the note {text!r}",
        )

    # --- the lobby ----------------------------------------------------------------------

    @contextmanager
    def lobby_open(self) -> Iterator[None]:
        """Let the worker consume the queue `lobby`."""
        control = self.deployment.app.control
        assert control.add_consumer("lobby", reply=True, limit=1)
        try:
            yield
        finally:
            assert control.cancel_consumer("lobby", reply=True, limit=1)

    # --- afterwards ---------------------------------------------------------------------

    def story(self) -> Story:
        """Return the story of the last conversation once none of its deliveries is in flight."""
        return Story(self.deployment, self.conversations[-1])

    def nothing_left(self) -> None:
        """Check that every conversation of the test ends with nothing in flight and nothing due."""
        for conversation in self.conversations:
            self.deployment.ended(conversation)
        eventually(lambda: not self._due(), what="nothing due")
        assert not self.redis.keys("gate:*"), "a gate was opened that nobody passed"
        self.redis.close()

    def _due(self) -> list[str]:
        """Return the due items of the test's conversations that the registry still has."""
        keys = self.redis.keys("tl:works:*:due")
        members = [member for key in keys for member in self.redis.zrange(key, 0, -1)]
        return [m for m in members if any(c in m for c in self.conversations)]


def xml(tag: str, **fields: Any) -> XML:
    """A payload as an element: `xml("Part", name="bolt")`."""
    element = etree.Element(tag)
    for name, value in fields.items():
        etree.SubElement(element, name).text = str(value)
    return XML(element)


def as_xml(message: object) -> XML:
    """A payload object as an element."""
    return XML(payload_type(type(message)).to_element(message))


def jobs(*described: tuple[str, str]) -> list[XML]:
    """Return items for the worker: each says how it works, and on what."""
    return [xml("Job", how=how, what=what) for how, what in described]


def fields_of(value: Any) -> Fields:
    """The fields of a value, and its class as `type`."""
    return {"type": value["type"], **value["payload"]}


def text_of(source: XML | str | None) -> str:
    """All text of an element."""
    assert source is not None
    return "".join(XML(source).element.itertext())


def texts(items: Sequence[BufferItem]) -> list[str]:
    """Return the text of each reply, and for a failure its error behind a `!`."""
    return [text_of(i.payload) if i.success else f"!{i.error}" for i in items]
