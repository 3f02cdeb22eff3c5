"""A factory: steps of a line, a worker who does as the job says, and agents who give orders."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

import redis

from tests.recording import record
from threadloom import (
    BufferComplete,
    BufferError,
    BufferStart,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)
from threadloom.routing import (
    XML,
    HandlerMetadata,
    HandlerResponse,
    Huh,
    UnknownResultsError,
    payload,
    payload_type,
)

#: how long a handler waits for its gate before it gives up; longer than any test waits
_GATE_S = 15
_SHEET_S = 0.02


@payload
@dataclass
class Part:
    """A part on the line, and what was done to it."""

    name: str


@payload
@dataclass
class Certificate:
    """Says that a part is good."""

    part: str


@payload
@dataclass
class Run:
    """Run the machine: `work` is done at once, `silent` and `gate:<name>` are not."""

    program: str


@payload
@dataclass
class Ran:
    """The machine has run."""

    program: str


@payload
@dataclass
class Job:
    """What a worker is to do, and with what."""

    how: str
    what: str = ""


@payload
@dataclass
class Done:
    """A job that was done."""

    what: str


@payload
@dataclass
class Text:
    """Exact text."""

    value: str


@payload
@dataclass
class Sheet:
    """One sheet for the press."""

    number: int


@payload
@dataclass
class Order:
    """Something to send to `to`; the reply is reported."""

    to: str
    what: XML


@payload
@dataclass
class Report:
    """What came back: its class, and itself."""

    kind: str
    what: XML


@payload
@dataclass
class Balance:
    """What an accountant found in the results of a buffer."""

    inline: bool
    indexes: list[int]
    good: int
    missing: int
    bytes_read: int
    digest: str
    errors: list[str]
    foreign: str


# --- the line ---------------------------------------------------------------------------


def paint(message: Part, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "paint", got=message.name)
    return HandlerResponse.respond(Part(message.name + "+paint"))


def polish(message: Part | Ran, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "polish", got=repr(message))
    if isinstance(message, Part):
        return HandlerResponse(Run(message.name), to="machine")
    return HandlerResponse.respond(Part(message.program + "+polish"))


def inspect(message: Part, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "inspect", got=message.name)
    return HandlerResponse.respond(Certificate(message.name))


def scrap(message: Part, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "scrap", got=message.name)
    raise RuntimeError(f"{message.name} fell down")


def idle(message: Part, meta: HandlerMetadata) -> None:
    record(meta, "idle", got=message.name)


def puzzled(message: Part, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "puzzled", got=message.name)
    return HandlerResponse.respond(Huh.of("a part without a drawing", message.name))


def pack(message: Certificate, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "pack", got=message.part)
    return HandlerResponse.respond(Done(message.part))


def machine(message: Run, meta: HandlerMetadata) -> HandlerResponse | None:
    record(meta, "machine", got=message.program)
    if message.program == "silent":
        return None
    if message.program.startswith("gate:"):
        pass_gate(message.program.removeprefix("gate:"))
    return HandlerResponse.respond(Ran(message.program))


# --- jobs -------------------------------------------------------------------------------


def work(message: Any, meta: HandlerMetadata) -> HandlerResponse | None:
    """Do the job; what is no job is the answer to what the job made this worker call."""
    if not isinstance(message, Job):
        record(meta, "answered", got=type(message).__name__)
        return HandlerResponse.respond(Done(_answer(message)))
    record(meta, "work", how=message.how, got=message.what)
    called = _call(message)
    if called is not None:
        return called
    if message.how == "crash":
        raise RuntimeError("the secret of the crash")
    if message.how == "hang":
        time.sleep(_GATE_S)
    if message.how == "none":
        return None
    if message.how == "huh":
        return HandlerResponse.respond(Huh.of(f"what is {message.what}?", message.what))
    if message.how == "gate":
        pass_gate(message.what)
        record(meta, "passed", got=message.what)
    if message.how == "fill":
        return HandlerResponse.respond(Done("x" * int(message.what)))
    return HandlerResponse.respond(Done(message.what))


def _call(job: Job) -> HandlerResponse | None:
    """What a job calls before it replies; `what` is `<how>:<what>` of the jobs below it."""
    if job.how == "machine":
        return HandlerResponse(Run(job.what), to="machine")
    if job.how == "sequence":
        start = SequenceStart(["line.paint", "line.polish"], _xml(Part(job.what)))
        return HandlerResponse(start, to="system.sequence")
    if job.how == "buffer":
        how, _, what = job.what.partition(":")
        items = [_xml(Job(how, f"{what}.{n}" if what else str(n))) for n in range(3)]
        return HandlerResponse(BufferStart("worker", items), to="system.buffer")
    return None


def _answer(message: Any) -> str:
    """The answer of a callee in one line."""
    if isinstance(message, Ran):
        return message.program
    if isinstance(message, SequenceComplete):
        return "".join(message.final_result.element.itertext())
    if isinstance(message, BufferComplete):
        items = message.results.element
        return "[" + " ".join("".join(item.itertext()) for item in items) + "]"
    return repr(message)


def copy(message: Text, meta: HandlerMetadata) -> HandlerResponse:
    record(meta, "copy", got=message.value)
    return HandlerResponse.respond(Text(message.value))


def press(message: Sheet, meta: HandlerMetadata) -> HandlerResponse:
    began = time.monotonic()
    time.sleep(_SHEET_S)  # the work itself
    record(meta, "press", number=message.number, began=began, ended=time.monotonic())
    return HandlerResponse.respond(Sheet(message.number))


# --- agents -----------------------------------------------------------------------------


def lead(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    if isinstance(message, Order):
        record(meta, "lead", got="Order")
        return HandlerResponse(message.what, to=message.to)
    record(meta, "lead", got=type(message).__name__)
    what = message if isinstance(message, XML) else _xml(message)
    return HandlerResponse.respond(Report(type(message).__name__, what))


def lead_two(message: Order | BufferComplete, meta: HandlerMetadata) -> Any:
    """Starts the same thing twice at once, and answers when both have come back."""
    if isinstance(message, Order):
        return [HandlerResponse(message.what, to=message.to)] * 2
    back = [slot.payload for slot in meta.context if slot.payload_name == "BufferComplete"]
    record(meta, "lead_two", back=len(back))
    if len(back) < 2:
        return None
    texts = " ".join("".join(element.itertext()) for element in back)
    return HandlerResponse.respond(Done(texts))


def account(message: Order | BufferComplete, meta: HandlerMetadata) -> HandlerResponse:
    if isinstance(message, Order):
        return HandlerResponse(message.what, to=message.to)
    items = list(meta.results(message))
    texts = [item.payload.text for item in items if item.payload is not None]
    return HandlerResponse.respond(
        Balance(
            inline=message.results.element.get("ref") is None,
            indexes=[item.index for item in items],
            good=sum(item.success for item in items),
            missing=sum(item.missing for item in items),
            bytes_read=sum(map(len, texts)),
            digest=hashlib.sha256("".join(texts).encode()).hexdigest(),
            errors=[item.error for item in items if item.error],
            foreign=_read_foreign(meta),
        )
    )


def _read_foreign(meta: HandlerMetadata) -> str:
    """What comes of a reference that is not this conversation's."""
    try:
        return str(list(meta.results(XML('<results ref="somewhere-else" total="1"/>'))))
    except UnknownResultsError as exc:
        return str(exc)


def archive(
    message: SequenceComplete | SequenceError | BufferComplete | BufferError,
    meta: HandlerMetadata,
) -> HandlerResponse:
    record(meta, "archive", got=type(message).__name__)
    return HandlerResponse.respond(Done(f"filed {type(message).__name__}"))


# --- gates ------------------------------------------------------------------------------


def pass_gate(name: str) -> None:
    """Wait until a test opens the gate for one to pass (`RPUSH gate:<name>`)."""
    with redis.Redis.from_url(os.environ["THREADLOOM_REDIS_URL"], socket_timeout=None) as client:
        if client.blpop([f"gate:{name}"], timeout=_GATE_S) is None:
            raise TimeoutError(f"nobody opened gate {name}")


def _xml(message: Any) -> XML:
    return XML(payload_type(type(message)).to_element(message))
