"""The listeners of the kill matrix: each one's effect is its name in a Redis list."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.kill_points import Place, record, strike
from threadloom import BufferComplete, BufferStart, SequenceComplete, SequenceStart
from threadloom.routing import XML, HandlerMetadata, HandlerResponse, payload, payload_type


@payload
@dataclass
class Start:
    """Run a canvas: `sequence` or `buffer`."""

    case: str
    canvas: str


@payload
@dataclass
class Work:
    """What a step gets and what it answers: the names of those who had it, one after another."""

    case: str
    trail: str


@payload
@dataclass
class Finished:
    """The value of the conversation."""

    trail: str


def starter(
    message: Start | SequenceComplete | BufferComplete, _: HandlerMetadata
) -> HandlerResponse:
    if isinstance(message, Start):
        record(message.case, "entry")
        return _started(message)
    found = message.final_result if isinstance(message, SequenceComplete) else message.results
    answers = list(found.element.iter("Work"))
    record(answers[0].findtext("case", ""), "tail")
    strike("tail", Place.HANDLER)
    trails = [answer.findtext("trail", "") for answer in answers]
    return HandlerResponse.respond(Finished(" ".join([*trails, "tail"])))


def _started(message: Start) -> HandlerResponse:
    if message.canvas == "sequence":
        first = _element(Work(message.case, ""))
        return HandlerResponse(SequenceStart(["one", "two", "three"], first), to="system.sequence")
    items = [_element(Work(message.case, f"item{n}")) for n in range(3)]
    return HandlerResponse(BufferStart("item", items), to="system.buffer")


def one(message: Work, _: HandlerMetadata) -> HandlerResponse:
    return _step("one", message)


def two(message: Work, _: HandlerMetadata) -> HandlerResponse:
    return _step("two", message)


def three(message: Work, _: HandlerMetadata) -> HandlerResponse:
    return _step("three", message)


def item(message: Work, _: HandlerMetadata) -> HandlerResponse:
    record(message.case, message.trail)
    strike(message.trail, Place.HANDLER)
    return HandlerResponse.respond(message)


def _step(name: str, message: Work) -> HandlerResponse:
    record(message.case, name)
    strike(name, Place.HANDLER)
    return HandlerResponse.respond(Work(message.case, f"{message.trail} {name}".strip()))


def _element(message: Work) -> XML:
    return XML(payload_type(Work).to_element(message))
