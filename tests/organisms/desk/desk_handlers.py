"""An office: a calculator, clerks who use it, and messengers who pass things on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.recording import record
from threadloom import XML, HandlerMetadata, HandlerResponse, payload

Replies = HandlerResponse | list[HandlerResponse] | None


@payload
@dataclass
class Add:
    """Two integers to add."""

    a: int
    b: int = 0


@payload
@dataclass
class Sum:
    """What came out."""

    value: int


@payload
@dataclass
class Ask:
    """A question about a number."""

    number: int


@payload
@dataclass
class Answer:
    """A clerk's answer."""

    text: str


@payload
@dataclass
class Relay:
    """Something to pass along a route; whoever is last answers."""

    route: list[str] = field(default_factory=list)


@payload
@dataclass
class Count:
    """Count down to nothing."""

    left: int


@payload
@dataclass
class Batch:
    """Numbers to be increased, all at once."""

    numbers: list[int]


@payload
@dataclass
class Call:
    """What to send to whom, as it stands."""

    to: str
    message: XML


@payload
@dataclass
class Report:
    """How a call was answered: the reply's class, its sender, and what an error said."""

    kind: str
    sender: str
    code: str = ""
    text: str = ""


@payload
@dataclass
class Text:
    """Any text."""

    text: str


def add(message: Add, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "add", usage=meta.usage_instructions)
    return HandlerResponse.respond(Sum(message.a + message.b))


async def add_slowly(message: Add, meta: HandlerMetadata) -> HandlerResponse:
    await asyncio.sleep(0.01)
    record(meta, "add_slowly")
    return HandlerResponse.respond(Sum(message.a + message.b))


def clerk(message: Ask | Sum, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "clerk", got=type(message).__name__, usage=meta.usage_instructions)
    if isinstance(message, Ask):
        return HandlerResponse(Add(message.number, 1), to="calculator.add")
    return HandlerResponse.respond(Answer(f"{message.value}"))


def relay(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Call the next on the route, then hand its reply back."""
    record(meta, "relay", got=type(message).__name__)
    if isinstance(message, Relay):
        if not message.route:
            return HandlerResponse.respond(Answer("the end"))
        return HandlerResponse(Relay(message.route[1:]), to=message.route[0])
    return HandlerResponse.respond(message)


def count(message: Count, meta: HandlerMetadata) -> HandlerResponse:
    """Call itself until nothing is left."""
    record(meta, "count", left=message.left)
    if message.left:
        return HandlerResponse(Count(message.left - 1), to="counter.v1.5")
    return HandlerResponse.respond(Answer("counted"))


def gather(message: Batch | Sum, meta: HandlerMetadata) -> Replies:
    """Call the calculator for each number at once; answer when the last sum is in."""
    context = [(s.slot, s.payload_name, s.from_id, s.message_id) for s in meta.context]
    record(meta, "gather", got=type(message).__name__, context=context)
    if isinstance(message, Batch):
        return [HandlerResponse(Add(n, 1), to="calculator.add") for n in message.numbers]
    sums = [slot.payload for slot in meta.context if slot.payload_name == "Sum"]
    wanted = len(meta.context[0].payload.findall(".//item"))
    if len(sums) < wanted:
        return None
    return HandlerResponse.respond(Answer(" ".join(sorted(e.findtext("value") for e in sums))))


def ask_twice(message: Ask | Sum, meta: HandlerMetadata) -> HandlerResponse:
    """Call the calculator, and with what came back once more."""
    record(meta, "ask_twice", got=type(message).__name__)
    if isinstance(message, Ask):
        return HandlerResponse(Add(message.number, 1), to="calculator.add")
    if len(meta.context) < 3:
        return HandlerResponse(Add(message.value, 1), to="calculator.add")
    return HandlerResponse.respond(Answer(f"{message.value}"))


def consult(message: Ask | Sum | Answer, meta: HandlerMetadata) -> HandlerResponse:
    """Call two peers, one after the other, before it replies."""
    record(meta, "consult", got=type(message).__name__)
    if isinstance(message, Ask):
        return HandlerResponse(Add(message.number, 10), to="calculator.add")
    if isinstance(message, Sum):
        return HandlerResponse(Ask(message.value), to="clerk")
    return HandlerResponse.respond(message)


def ask_on(message: Ask, meta: HandlerMetadata) -> HandlerResponse:
    """Answer a question with the next one, which others take as their input."""
    return HandlerResponse.respond(Ask(message.number + 1))


def mute(message: Ask, meta: HandlerMetadata) -> None:
    record(meta, "mute")


def call(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Send what it was told to whom it was told, and report the reply."""
    record(meta, "call", got=type(message).__name__)
    if isinstance(message, Call):
        return HandlerResponse(message.message, to=message.to)
    kind = type(message).__name__
    code = getattr(message, "code", "")
    text = getattr(message, "message", "") or getattr(message, "error", "")
    return HandlerResponse.respond(Report(kind, meta.from_id, code, text))


def echo(message: Text, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "echo", text=message.text)
    return HandlerResponse.respond(message)


def reception(message: Ask | Text, meta: HandlerMetadata) -> HandlerResponse:
    """Ask a person for a text and answer with it."""
    record(meta, "reception", got=type(message).__name__)
    if isinstance(message, Ask):
        return HandlerResponse.await_input(f"What is {message.number}?")
    return HandlerResponse.respond(Answer(message.text))
