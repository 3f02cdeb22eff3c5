"""Steering the census: `census.director`.

It answers `Census` with `Report`. In between it asks `census.files` what there is to count, has
a buffer send every file to `census.measure`, and lets a sequence add up, rank and render what
came back. It keeps nothing between its runs: what it was told before lies in its thread's
context.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from primitives import (
    BUFFER,
    SEQUENCE,
    BufferComplete,
    BufferError,
    BufferStart,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)
from routing import XML, HandlerMetadata, HandlerResponse, Huh, SystemError, payload_type

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
            tally = tally_of(message, _files_of(meta))
            return HandlerResponse(SequenceStart(STEPS, _as_xml(tally)), to=SEQUENCE)
        case SequenceComplete():
            return HandlerResponse.respond(_from_xml(Report, message.final_result.element))
        case SequenceError():
            return _give_up(f"{message.failed_step}: {message.error}")
        case BufferError():
            return _give_up(message.error)
    return HandlerResponse.respond(message)


def tally_of(complete: BufferComplete, files: Files) -> Tally:
    """What the buffer collected, with the paths of the items that failed."""
    measurements: list[Measurement] = []
    failures = list(files.unnameable)
    for index, success, content in _items(complete):
        if success:
            measurements.append(_from_xml(Measurement, content))
        else:
            failures.append(Failure(files.paths[index], content.text or ""))
    return Tally(files.root, files.python_version, measurements, failures)


def _measure_all(files: Files) -> BufferStart:
    items = [_as_xml(SourceFile(files.root, path)) for path in files.paths]
    return BufferStart("census.measure", items)


def _files_of(meta: HandlerMetadata) -> Files:
    """The list of files as it was received: the buffer's results only have its indexes."""
    slot = next(slot for slot in meta.context if slot.payload_name == "Files")
    return _from_xml(Files, slot.payload)


def _items(complete: BufferComplete) -> Iterator[tuple[int, bool, etree._Element]]:
    for item in complete.results.element:
        yield int(item.attrib["index"]), item.attrib["success"] == "true", item[0]


def _give_up(reason: str) -> HandlerResponse:
    return HandlerResponse.respond(SystemError("handler", reason, retry_allowed=False))


def _as_xml(message: object) -> XML:
    return XML(payload_type(type(message)).to_element(message))


def _from_xml(cls: type[T], element: etree._Element) -> T:
    message: Any = payload_type(cls).from_element(element)
    return message  # type: ignore[no-any-return]
