"""How tests of sequences and buffers give orders, open gates, and see that nothing is left."""

from __future__ import annotations

from typing import Any

import redis
from celery.result import AsyncResult
from lxml import etree

from primitives import BufferStart, SequenceStart
from routing import XML, BufferItem, payload_type
from tests.desk import Story
from tests.harness import WAIT_S, Deployment, eventually


class Works:
    """One test's view of the works: its conversations and gates."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.redis = redis.Redis.from_url(deployment.redis_url, decode_responses=True)
        self.conversations: list[str] = []

    # --- giving orders ------------------------------------------------------------------

    def begin(self, to: str, message: Any, **options: Any) -> AsyncResult[Any]:
        """Inject a message without waiting."""
        result = self.deployment.inject(to, message, **options)
        self.conversations.append(result.id)
        return result

    def ask(self, to: str, message: Any) -> Any:
        """Inject a message and wait for the value."""
        return self.begin(to, message).get(timeout=WAIT_S)

    def sequence(self, steps: list[str], part: str = "part", **options: Any) -> Any:
        """Run a sequence from outside; the answer's type and fields."""
        start = SequenceStart(steps, xml("Part", name=part), **options)
        return payload_of(self.ask("system.sequence", start))

    def buffer(self, target: str, items: list[XML], **options: Any) -> dict[str, Any]:
        """Run a buffer from outside; the answer's fields, and with `type` its class."""
        return payload_of(self.ask("system.buffer", BufferStart(target, items, **options)))

    def items(self, answer: dict[str, Any], conversation: str = "") -> list[BufferItem]:
        """The items of a BufferComplete of this test's last conversation."""
        import tasks

        conversation = conversation or self.conversations[-1]
        return list(tasks.read_results(self.deployment.app, conversation, answer))

    # --- gates --------------------------------------------------------------------------

    def open_gate(self, name: str) -> None:
        """Let one handler pass that waits at this gate, or will."""
        self.redis.rpush(f"gate:{name}", "pass")

    def seen(self, event: str, **wanted: Any) -> dict[str, Any]:
        """The first record of its kind in this test's conversations, once it is there."""
        return eventually(
            lambda: next(iter(self.records(event, **wanted)), None), what=f"{event} {wanted}"
        )

    def records(self, event: str, **wanted: Any) -> list[dict[str, Any]]:
        """What handlers recorded in this test's conversations."""
        threads = {
            t for c in self.conversations for t in self.deployment.backend.threads(c)
        }
        found = self.deployment.records(event=event, **wanted)
        return [r for r in found if r["thread"] in threads]

    # --- afterwards ---------------------------------------------------------------------

    def story(self, conversation: str = "") -> Story:
        """What happened in a conversation, once nothing of it is in flight."""
        return Story(self.deployment, conversation or self.conversations[-1])

    def nothing_left(self) -> None:
        """Every conversation of the test ends: nothing in flight, nothing that is due."""
        for conversation in self.conversations:
            self.deployment.ended(conversation)
        assert not self.redis.keys("gate:*"), "a gate was opened that nobody passed"
        eventually(lambda: not self.due(), what=f"nothing due, but {self.due()}")
        self.redis.close()

    def due(self) -> list[str]:
        """What the registry still has to watch of the test's conversations."""
        members = [m for key in self.redis.keys("tl:works:*:due") for m in self.redis.zrange(key, 0, -1)]
        return [m for m in members if any(c in m for c in self.conversations)]


def xml(tag: str, **fields: Any) -> XML:
    """A payload as an element: `xml("Part", name="bolt")`."""
    element = etree.Element(tag)
    for name, value in fields.items():
        etree.SubElement(element, name).text = str(value)
    return XML(element)


def element_of(message: Any) -> XML:
    """A payload object as an element."""
    return XML(payload_type(type(message)).to_element(message))


def jobs(*jobs: tuple[str, str]) -> list[XML]:
    """Items for the worker: how and what."""
    return [xml("Job", how=how, what=what) for how, what in jobs]


def payload_of(value: Any) -> dict[str, Any]:
    """The fields of a value, and its class as `type`."""
    return {"type": value["type"], **value["payload"]}


def text_of(source: XML | str | None) -> str:
    """All text of an element."""
    assert source is not None
    return "".join(XML(source).element.itertext())
