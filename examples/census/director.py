"""Steering the census: `census.director`.

It answers `Census` with `Report`. In between it asks `census.files` what there is to count, has
a buffer send every file to `census.measure`, and lets a sequence add up, rank and render what
came back. It keeps nothing between its runs: what it was told before lies in its thread's
context.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from lxml import etree

from examples.census.messages import (
    Census,
    Failure,
    Files,
    Measurement,
    Report,
    SourceFile,
    Tally,
)
from threadloom.primitives import (
    BUFFER,
    SEQUENCE,
    BufferComplete,
    BufferError,
    BufferStart,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)
from threadloom.routing import (
    XML,
    BufferItem,
    HandlerMetadata,
    HandlerResponse,
    Huh,
    SystemError,
    payload_type,
)

STEPS = ["census.aggregate", "census.rank", "census.render"]

T = TypeVar("T")
Message = (
    Census
    | Files
    | BufferComplete
    | BufferError
    | SequenceComplete
    | SequenceError
    | Huh
    | SystemError
)


def direct(message: Message, meta: HandlerMetadata) -> HandlerResponse:
    """Take the next step of the census; what goes wrong on the way ends it, and says why."""
    match message:
        case Census():
            return HandlerResponse(message, to="census.files")
        case Files():
            return HandlerResponse(_measure_all(message), to=BUFFER)
        case BufferComplete():
            tally = tally_of(meta.results(message), _files_of(meta))
            return HandlerResponse(SequenceStart(STEPS, _as_xml(tally)), to=SEQUENCE)
        case SequenceComplete():
            return HandlerResponse.respond(_from_xml(Report, message.final_result.element))
        case SequenceError():
            return _give_up(f"{message.failed_step}: {message.error}")
        case BufferError():
            return _give_up(message.error)
    return HandlerResponse.respond(message)


def tally_of(items: Iterable[BufferItem], files: Files) -> Tally:
    """What the buffer collected, with the paths of the items that failed."""
    measurements: list[Measurement] = []
    failures = list(files.unnameable)
    for item in items:
        if item.payload is not None:
            measurements.append(_from_xml(Measurement, item.payload.element))
        else:
            failures.append(Failure(files.paths[item.index], item.error))
    return Tally(files.root, files.python_version, measurements, failures)


def _measure_all(files: Files) -> BufferStart:
    items = [_as_xml(SourceFile(files.root, path)) for path in files.paths]
    return BufferStart("census.measure", items)


def _files_of(meta: HandlerMetadata) -> Files:
    """The list of files as it was received: the buffer's results only have its indexes."""
    slot = next(slot for slot in meta.context if slot.payload_name == "Files")
    return _from_xml(Files, slot.payload)


def _give_up(reason: str) -> HandlerResponse:
    return HandlerResponse.respond(SystemError("handler", reason, retry_allowed=False))


def _as_xml(message: object) -> XML:
    return XML(payload_type(type(message)).to_element(message))


def _from_xml(cls: type[T], element: etree._Element) -> T:
    message: Any = payload_type(cls).from_element(element)
    return message  # type: ignore[no-any-return]
