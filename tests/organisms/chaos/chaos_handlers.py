"""Arithmetic that goes astray if anything is lost, doubled or mixed up.

Every run of every handler is recorded, and takes a while, so that a killer finds it at work.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import redis

from tests.chaos.hooks import working
from tests.recording import record
from threadloom import BufferComplete, BufferStart, SequenceComplete, SequenceStart
from threadloom.routing import XML, HandlerMetadata, HandlerResponse, payload, payload_type

#: seconds each run takes at least
WORK_S = 0.03
#: seconds a patient waits; longer than any test
GATE_S = 60


@payload
@dataclass
class Number:
    """A number to reckon with."""

    value: int


@payload
@dataclass
class Doubled:
    """What a doubler says."""

    twice: int


@payload
@dataclass
class Countdown:
    """So many to go, and the sum up to now."""

    left: int
    total: int = 0


@payload
@dataclass
class Visit:
    """Wait at this gate."""

    gate: str


@payload
@dataclass
class Left:
    """A patient has passed its gate."""

    gate: str


def increment(message: Number, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "increment", message)
    return HandlerResponse.respond(Number(message.value + 1))


def double(message: Number, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "double", message)
    return HandlerResponse.respond(Number(message.value * 2))


def triple(message: Number, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "novice", message)
    return HandlerResponse.respond(Number(message.value * 3))


def doubler(message: Number, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "doubler", message)
    return HandlerResponse.respond(Doubled(message.value * 2))


def ask(message: Number | Doubled, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "asker", message)
    if isinstance(message, Doubled):
        return HandlerResponse.respond(Number(message.twice + 1))
    return HandlerResponse(message, to="doubler")


def countdown(message: Countdown, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "countdown", message)
    if not message.left:
        return HandlerResponse.respond(Number(message.total))
    following = Countdown(message.left - 1, message.total + message.left)
    return HandlerResponse(following, to="countdown")


def add_up(message: Number | BufferComplete, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "summer", message)
    if isinstance(message, BufferComplete):
        # A lost item would make the sum smaller, a doubled one larger.
        values = (int(str(item.payload.element.findtext("value"))) for item in _good(meta, message))
        return HandlerResponse.respond(Number(sum(values)))
    items = [_element(Number(each)) for each in range(message.value % 5 + 1)]
    return HandlerResponse(BufferStart("asker", items, max_parallel=3), to="system.buffer")


def line_up(message: Number | SequenceComplete, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "liner", message)
    if isinstance(message, SequenceComplete):
        value = str(message.final_result.element.findtext("value"))
        return HandlerResponse.respond(Number(int(value)))
    steps = ["increment", "asker", "double"]
    return HandlerResponse(SequenceStart(steps, _element(message)), to="system.sequence")


def wait(message: Visit, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "patient", message)
    with redis.Redis.from_url(os.environ["CHAOS_GATES_URL"], socket_timeout=None) as gates:
        # The gate is this process's own: the test says which of several runs goes on.
        if gates.blpop([f"gate:{message.gate}:{os.getpid()}"], GATE_S) is None:
            raise TimeoutError(f"nobody opened gate {message.gate!r}")
    record(meta, "passed", gate=message.gate)
    return HandlerResponse.respond(Left(message.gate))


def keep(message: Number, meta: HandlerMetadata) -> HandlerResponse:
    _ran(meta, "keeper", message)
    return HandlerResponse.respond(message)


def _ran(meta: HandlerMetadata, listener: str, message: Any) -> None:
    """Leave a trace of this run, and take some time over it."""
    record(meta, "ran", listener=listener, what=repr(message)[:200])
    time.sleep(WORK_S)
    working()


def _element(message: Number) -> XML:
    return XML(payload_type(Number).to_element(message))


def _good(meta: HandlerMetadata, complete: BufferComplete) -> list[Any]:
    """The items, none of which may have failed."""
    items = list(meta.results(complete))
    failed = [item for item in items if not item.success]
    if failed:
        raise ValueError(f"items {[item.index for item in failed]} failed: {failed[0].error}")
    return items
