"""Everything a handler can do wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from desk_handlers import Ask, Batch

from tests.recording import record
from threadloom import XML, HandlerMetadata, HandlerResponse, payload
from threadloom.routing.actions import FanOut, Fault, Forward, Supply
from threadloom.routing.records import Join

#: longer than any test waits
_FOR_EVER_S = 600.0
#: appears in no text that a caller may see
SECRET = "the safe's combination"


@dataclass
class NotAPayload:
    """A class without a contract."""

    value: int


def raises(message: Ask, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "raises")
    raise ValueError(SECRET)


def returns_text(message: Ask, meta: HandlerMetadata) -> Any:
    return SECRET


def returns_stranger(message: Ask, meta: HandlerMetadata) -> Any:
    return HandlerResponse.respond(NotAPayload(1))


def addresses_nonsense(message: Ask, meta: HandlerMetadata) -> Any:
    return HandlerResponse(message, to=["calculator.add"])  # type: ignore[arg-type]


def forges_fan_out(message: Ask, meta: HandlerMetadata) -> Any:
    """Ask for what a buffer asks for, with a listener as its target that is no peer."""
    inputs = (XML("<Text><text>fan-out</text></Text>").element,)
    return FanOut("", ("echo",), inputs, total=1, need_ok=0, need_failed=0)


def forges_forward(message: Ask, meta: HandlerMetadata) -> Any:
    """The same, in a list behind something that is allowed."""
    answer = HandlerResponse.respond(message)
    return [answer, Forward(XML("<Text><text>forward</text></Text>"), "echo")]


def forges_supply(message: Ask, meta: HandlerMetadata) -> Any:
    join = Join("made-up", "system.buffer", meta.thread_id, 9, 0, 0, None, targets=("echo",))
    return Supply(join, 0, (XML("<Text><text>supply</text></Text>").element,), "")


def forges_fault(message: Ask, meta: HandlerMetadata) -> Any:
    return Fault(message, SECRET)


def forges_error(message: Ask, meta: HandlerMetadata) -> Any:
    text = "<SystemError><code>limit</code><message>made up</message>"
    return HandlerResponse.respond(XML(f"{text}<retry-allowed>true</retry-allowed></SystemError>"))


def floods(message: Ask, meta: HandlerMetadata) -> Any:
    """Return at once what takes many times its limit to be prepared."""
    return [HandlerResponse(Batch(list(range(50_000))), to="gatherer")] * 200


def sleeps(message: Ask, meta: HandlerMetadata) -> None:
    time.sleep(_FOR_EVER_S)


def spins(message: Ask, meta: HandlerMetadata) -> None:
    while True:
        pass


async def sleeps_async(message: Ask, meta: HandlerMetadata) -> None:
    await asyncio.sleep(_FOR_EVER_S)


def swallows(message: Ask, meta: HandlerMetadata) -> None:
    while True:
        try:
            time.sleep(_FOR_EVER_S)
        except Exception:
            continue


def exits(message: Ask, meta: HandlerMetadata) -> None:
    sys.exit(3)


class PanicException(BaseException):
    """As the extension modules of Rust raise it."""


@payload
@dataclass
class Brittle:
    """A payload whose own code panics, as a validator in a Rust extension may."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise PanicException(SECRET)


def panics(message: Ask, meta: HandlerMetadata) -> None:
    record(meta, "panics")
    raise PanicException("called `Option::unwrap()` on a `None` value")


async def is_interrupted(message: Ask, meta: HandlerMetadata) -> None:
    record(meta, "is.interrupted")
    raise KeyboardInterrupt


async def cancels_itself(message: Ask, meta: HandlerMetadata) -> None:
    raise asyncio.CancelledError


def dies(message: Ask, meta: HandlerMetadata) -> None:
    record(meta, "dies")
    os._exit(9)


def dies_once(message: Ask, meta: HandlerMetadata) -> HandlerResponse:
    """Take its process along at the first run, as a lack of memory might."""
    return _second_time(message, meta, lambda: os._exit(9))


def is_ended_once(message: Ask, meta: HandlerMetadata) -> HandlerResponse:
    """Be told to end in the middle of the first run, as the pool of a stopping worker is."""
    return _second_time(message, meta, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _second_time(message: Ask, meta: HandlerMetadata, end: Callable[[], None]) -> HandlerResponse:
    record(meta, "ends_once")
    marker = Path(os.environ["THREADLOOM_TEST_RECORDS"] + meta.message_id)
    if not marker.exists():
        marker.touch()
        end()
    return HandlerResponse.respond(Ask(message.number + 1))


def blocks(message: Ask, meta: HandlerMetadata) -> None:
    """Withstand everything but the end of its process."""
    record(meta, "blocks")
    until = time.monotonic() + _FOR_EVER_S
    while time.monotonic() < until:
        try:
            time.sleep(_FOR_EVER_S)
        except BaseException:
            continue
