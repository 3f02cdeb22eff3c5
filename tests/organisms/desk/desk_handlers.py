"""An office: a calculator, and clerks who use it."""

from __future__ import annotations

from dataclasses import dataclass

from routing import HandlerMetadata, HandlerResponse, payload
from tests.recording import record


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


def add(message: Add, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "add")
    return HandlerResponse.respond(Sum(message.a + message.b))


def clerk(message: Ask | Sum, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "clerk", got=type(message).__name__)
    if isinstance(message, Ask):
        return HandlerResponse(Add(message.number, 1), to="calculator.add")
    return HandlerResponse.respond(Answer(f"{message.value}"))
