"""A shop for the command line's tests: quick answers, slow ones, bad ones, hostile texts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from threadloom import HandlerMetadata, HandlerResponse, payload

#: what a terminal or rich would act upon, were it not shown as text
HOSTILE = "[bold]50%[/bold] off \x9b31m\u202e<&>"


@payload
@dataclass
class Order:
    """So many pieces, please."""

    pieces: int


@payload
@dataclass
class Price:
    """What the pieces cost."""

    cents: int


@payload
@dataclass
class Receipt:
    """What was bought."""

    text: str


@payload
@dataclass
class Nap:
    """Keeps its worker until the file is there, at most a minute."""

    until_file: str


def till(message: Order, meta: HandlerMetadata) -> HandlerResponse:
    if message.pieces < 0:
        raise ValueError(HOSTILE)
    return HandlerResponse.respond(Price(message.pieces * 250))


def counter(message: Order | Price, meta: HandlerMetadata) -> HandlerResponse:
    if isinstance(message, Order):
        return HandlerResponse(message, to="till")
    return HandlerResponse.respond(Receipt(f"{message.cents} {HOSTILE}"))


def nap(message: Nap, meta: HandlerMetadata) -> HandlerResponse | None:
    Path(f"{message.until_file}.begun").touch()
    deadline = time.monotonic() + 60
    while not Path(message.until_file).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return None
