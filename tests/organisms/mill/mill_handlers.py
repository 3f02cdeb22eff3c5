"""A mill: a wheel that waits for water, a millstone that breaks, and a miller who calls them."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recording import record
from threadloom import RegistryUnavailableError
from threadloom.routing import (
    XML,
    HandlerMetadata,
    HandlerResponse,
    RetryLater,
    payload,
    payload_type,
)

#: longer than any test waits
_FOR_EVER_S = 600.0
#: appears in no text that a caller may see
SECRET = "under the doormat"


@payload
@dataclass
class Grind:
    """Grain to be ground, and how that goes."""

    grain: str
    #: the run that succeeds, from 1
    succeeds_at: int = 1
    #: what the handler asks to wait for, instead of the listener's backoff
    after_s: float | None = None
    #: raise, or exit: how it breaks, until a file `<records>.<grain>` says that it is repaired
    breaks: str = ""


@payload
@dataclass
class Flour:
    """What comes out."""

    grain: str
    run: int


@payload
@dataclass
class Order:
    """Something to send to `to`."""

    to: str
    what: XML


@payload
@dataclass
class Report:
    """What came back: its class, and itself."""

    kind: str
    what: XML


def _run(message: Grind | Flour, meta: HandlerMetadata) -> int:
    """Record this run; its number, from 1. Whoever runs after a lost process counts on."""
    tally = Path(f"{os.environ['THREADLOOM_TEST_RECORDS']}.runs.{meta.message_id}")
    with tally.open("ab") as file:
        file.write(b".")
        run = file.tell()
    record(meta, "run", grain=message.grain, run=run)
    return run


def grind(message: Grind, meta: HandlerMetadata) -> HandlerResponse:
    run = _run(message, meta)
    if message.breaks and not _is_repaired(message):
        _break(message)
    if run < message.succeeds_at:
        raise RetryLater(f"no water, look {SECRET}", after_s=message.after_s)
    return HandlerResponse.respond(Flour(message.grain, run))


def _is_repaired(message: Grind) -> bool:
    return Path(f"{os.environ['THREADLOOM_TEST_RECORDS']}.{message.grain}").exists()


def _break(message: Grind) -> None:
    if message.breaks == "exit":
        os._exit(9)
    raise ValueError(f"broken: {SECRET} \udcff")


async def grind_slowly(message: Grind, meta: HandlerMetadata) -> HandlerResponse:
    await asyncio.sleep(0)
    return grind(message, meta)


def registrar(message: Grind, meta: HandlerMetadata) -> HandlerResponse:
    run = _run(message, meta)
    if run < message.succeeds_at:
        raise RegistryUnavailableError(SECRET)
    return HandlerResponse.respond(Flour(message.grain, run))


def sack(message: Grind | Flour, meta: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Flour(message.grain, _run(message, meta)))


def crooked(message: Grind, meta: HandlerMetadata) -> HandlerResponse:
    _run(message, meta)
    return HandlerResponse(message, to=[SECRET])  # type: ignore[arg-type]


def drowsy(message: Grind, meta: HandlerMetadata) -> None:
    _run(message, meta)
    time.sleep(_FOR_EVER_S)


def miller(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Pass an order on; of whatever comes back, make the report."""
    record(meta, "miller", got=type(message).__name__)
    if isinstance(message, Order):
        return HandlerResponse(message.what, to=message.to)
    element = payload_type(type(message)).to_element(message)
    return HandlerResponse.respond(Report(type(message).__name__, XML(element)))
