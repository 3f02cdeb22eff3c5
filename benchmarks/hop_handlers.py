"""A caller that calls a peer again and again: two deliveries, two hops, per round."""

from __future__ import annotations

from dataclasses import dataclass

from routing import HandlerMetadata, HandlerResponse, payload


@payload
@dataclass
class Rounds:
    """How many calls to make."""

    left: int


@payload
@dataclass
class Ping:
    """A call."""

    left: int


@payload
@dataclass
class Pong:
    """Its reply."""

    left: int


def caller(message: Rounds | Pong, meta: HandlerMetadata) -> HandlerResponse:
    if message.left == 0:
        return HandlerResponse.respond(Pong(0))
    return HandlerResponse(Ping(message.left), to="echo")


def echo(message: Ping, meta: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Pong(message.left - 1))
