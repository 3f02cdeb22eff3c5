"""Our side of the contests: the least that a listener can do, so that what is measured is ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from threadloom import BufferComplete, BufferStart, HandlerMetadata, HandlerResponse, payload


@payload
@dataclass
class Rounds:
    """How many calls to make."""

    left: int


@payload
@dataclass
class Ping:
    """A call, and a buffer's item."""

    left: int


@payload
@dataclass
class Pong:
    """Its reply."""

    left: int


@payload
@dataclass
class FanOut:
    """How many items to fan out."""

    items: int


@payload
@dataclass
class Done:
    """How many of them succeeded."""

    successful: int


def caller(message: Rounds | Pong, meta: HandlerMetadata) -> HandlerResponse:
    """Call echo until nothing is left: two hops per round."""
    if message.left == 0:
        return HandlerResponse.respond(Pong(0))
    return HandlerResponse(Ping(message.left), to="echo")


def echo(message: Ping, meta: HandlerMetadata) -> HandlerResponse:
    """Answer."""
    return HandlerResponse.respond(Pong(message.left - 1))


def fan_out(message: FanOut | BufferComplete, meta: HandlerMetadata) -> HandlerResponse:
    """Have so many items echoed, and count the answers."""
    if isinstance(message, BufferComplete):
        return HandlerResponse.respond(Done(message.successful))

    def items() -> Iterator[Ping]:
        return (Ping(n) for n in range(message.items))

    return HandlerResponse(BufferStart("echo", meta.items(items())), to="system.buffer")
