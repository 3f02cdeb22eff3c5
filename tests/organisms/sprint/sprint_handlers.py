"""Handlers that do next to nothing, and say in which process and task they did it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from celery import current_task

from tests.recording import record
from threadloom import BufferComplete, BufferStart, HandlerMetadata, HandlerResponse, payload


@payload
@dataclass
class Laps:
    left: int
    #: how long each of them takes at least
    lap_ms: int = 0


@payload
@dataclass
class Send:
    who: str


@payload
@dataclass
class Go:
    number: int = 0


@payload
@dataclass
class Nap:
    ms: int


@payload
@dataclass
class Roster:
    #: who is called, in this order
    names: list[str]
    #: how long the first one takes; the others take no time
    first_ms: int


@payload
@dataclass
class Came:
    number: int = 0


@payload
@dataclass
class Crowd:
    size: int
    max_parallel: int = 0
    policy: str = "best_effort"


@payload
@dataclass
class Gathered:
    total: int
    successful: int
    #: the numbers that came back, added up
    sum: int


def run(message: Laps, meta: HandlerMetadata) -> HandlerResponse:
    if message.left <= 0:
        return HandlerResponse.respond(Came())
    if message.lap_ms:
        time.sleep(message.lap_ms / 1000)  # the work of a lap
    return HandlerResponse(replace(message, left=message.left - 1), to="runner")


def send(message: Send | Came, meta: HandlerMetadata) -> HandlerResponse:
    _note(meta)
    if isinstance(message, Send):
        return HandlerResponse(Go(), to=message.who)
    return HandlerResponse.respond(message)


def go(message: Go, meta: HandlerMetadata) -> HandlerResponse:
    _note(meta)
    if message.number < 0:
        raise ValueError("nobody has such a number")
    return HandlerResponse.respond(Came(message.number))


def nap(message: Nap, meta: HandlerMetadata) -> HandlerResponse:
    _note(meta)
    time.sleep(message.ms / 1000)  # the work of a handler that takes its time
    return HandlerResponse.respond(Came(message.ms))


def call_roster(
    message: Roster | Came, meta: HandlerMetadata
) -> HandlerResponse | list[HandlerResponse] | None:
    """Call everybody on the list, and answer once the last of three has replied."""
    _note(meta)
    if isinstance(message, Roster):
        naps = [message.first_ms, *[0] * (len(message.names) - 1)]
        return [
            HandlerResponse(Nap(ms), to=name) for name, ms in zip(message.names, naps, strict=True)
        ]
    replies = sum(slot.payload_name == "Came" for slot in meta.context)
    return HandlerResponse.respond(message) if replies == 3 else None


def gather(message: Crowd | BufferComplete, meta: HandlerMetadata) -> HandlerResponse:
    if isinstance(message, Crowd):
        start = BufferStart(
            "near", meta.items(_numbers(message.size)),
            max_parallel=message.max_parallel, policy=message.policy,
        )  # fmt: skip
        return HandlerResponse(start, to="system.buffer")
    found = (item.payload for item in meta.results(message))
    came = (int(each.element.findtext("number")) for each in found if each is not None)
    return HandlerResponse.respond(Gathered(message.total, message.successful, sum(came)))


def _numbers(count: int) -> Iterator[Go]:
    return (Go(number) for number in range(count))


def _note(meta: HandlerMetadata) -> None:
    record(meta, "ran", task=current_task.request.id)
