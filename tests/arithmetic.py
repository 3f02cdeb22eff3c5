"""A tiny organism whose conversations have answers that anybody can work out.

A task is a tree; `solver` and `helper` solve it by calls, self-calls, sequences and buffers,
and `expected` says what must come out, by recursion alone: no thread, no delivery, no registry.

Source: the reference model of a stateful property test, in Claessen & Hughes, "QuickCheck"
(2000) and what followed it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from threadloom.primitives import (
    BUFFER,
    SEQUENCE,
    SYSTEM_LISTENERS,
    BufferComplete,
    BufferStart,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)
from threadloom.routing import (
    XML,
    HandlerResponse,
    Listener,
    Organism,
    SystemError,
    payload,
    payload_type,
)
from threadloom.routing.actions import Action, Fault, Retry
from threadloom.routing.faults import handler_fault
from threadloom.routing.outgoing import content_of
from threadloom.routing.payloads.markup import canonical
from threadloom.routing.records import Frame
from threadloom.routing.results import StoredResults, items_of

#: the input that every waiting thread gets
INPUT = 7
#: a call that failed, a sequence that did, an item of a buffer that did
CALL_FAILED, SEQUENCE_FAILED, ITEM_FAILED = 1_000, 2_000, 100


@payload
@dataclass
class Work:
    """A task, as JSON."""

    task: str


@payload
@dataclass
class Number:
    """The value of a task."""

    value: int


# --- the listeners --------------------------------------------------------------------------


def solve(message: Any, frame: Frame, stored: StoredResults) -> Action | Retry | None:
    """Solve a task, or continue with the answer for a part of it."""
    if isinstance(message, Work):
        return _begin(json.loads(message.task), frame)
    if isinstance(message, Number):  # the answer of a call, of the step before, or an input
        return _number(message.value + 1)
    if isinstance(message, SequenceComplete):
        return _number(int(message.final_result.element.findtext("value")))
    if isinstance(message, SequenceError):
        return _number(SEQUENCE_FAILED)
    if isinstance(message, BufferComplete):
        items = list(items_of(message, stored))
        values = (int(i.payload.element.findtext("value")) for i in items if i.payload)
        return _number(sum(values) + ITEM_FAILED * sum(not item.success for item in items))
    assert isinstance(message, SystemError), message
    return _number(CALL_FAILED)


def _begin(task: Any, frame: Frame) -> Action | Retry | None:
    own = frame.delivery.to
    match task:
        case ["number", value]:
            return _number(value)
        case ["call", inner]:
            return HandlerResponse(_work(inner), to="helper" if own == "solver" else "solver")
        case ["self", inner]:
            return HandlerResponse(_work(inner), to=own)
        case ["flaky", times, inner]:
            return Retry("not yet") if frame.tries <= times else _begin(inner, frame)
        case ["ask"]:
            return HandlerResponse.await_input("What is 7?")
        case ["sequence", start, *steps]:
            first = XML(canonical(content_of(Number(start)).element).decode())
            return HandlerResponse(SequenceStart(steps, first), to=SEQUENCE)
        case ["buffer", window, *inner]:
            items = [XML(canonical(content_of(_work(each)).element).decode()) for each in inner]
            return HandlerResponse(BufferStart("helper", items, max_parallel=window), to=BUFFER)
        case ["silent"]:
            return None
    return Fault(handler_fault(), "asked to fail", dead_letter=True)


def double(message: Any, _frame: Frame, _stored: StoredResults) -> Action:
    return _number(message.value * 2)


def relay(message: Any, frame: Frame, _stored: StoredResults) -> Action:
    """Double a number by asking a peer that can."""
    if frame.delivery.from_id == "double":
        return _number(message.value)
    return HandlerResponse(Number(message.value), to="double")


def broken(_message: Any, _frame: Frame, _stored: StoredResults) -> Action:
    return Fault(handler_fault(), "always", dead_letter=True)


def mute(_message: Any, _frame: Frame, _stored: StoredResults) -> None:
    return None


def _number(value: int) -> HandlerResponse:
    return HandlerResponse.respond(Number(value))


def _work(task: Any) -> Work:
    return Work(json.dumps(task))


def _listener(name: str, handler: Any) -> Listener:
    accepts = {kind.name: kind for kind in map(payload_type, (Work, Number))}
    return Listener(name, handler, accepts, "Made up.")


ORGANISM = Organism(
    "arithmetic",
    {
        entry.name: entry
        for entry in (
            *SYSTEM_LISTENERS,
            _listener("solver", solve),
            _listener("helper", solve),
            _listener("double", double),
            _listener("relay", relay),
            _listener("broken", broken),
            _listener("mute", mute),
        )
    },
)


# --- the reference --------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The expected outcome of a task."""

    #: its value; FAILED for an error, SILENT for no answer at all
    value: int | str
    #: the messages it takes beside the one that brought it and the one that answers it
    messages: int


FAILED, SILENT = "failed", "silent"


def expected(task: Any) -> Expected:
    """Return the expected outcome of a task."""
    match task:
        case ["number", value]:
            return Expected(value, 0)
        case ["call", inner]:
            return _called(expected(inner))
        case ["self", inner]:
            found = expected(inner)
            return Expected(found.value, found.messages + 1)
        case ["flaky", _, inner]:
            return expected(inner)
        case ["ask"]:
            return Expected(INPUT + 1, 1)
        case ["sequence", start, *steps]:
            return _in_sequence(start, steps)
        case ["buffer", _, *inner]:
            found = [expected(each) for each in inner]
            values = [each.value if isinstance(each.value, int) else ITEM_FAILED for each in found]
            # The start, its items, the body, and the reply.
            return Expected(sum(values), sum(each.messages for each in found) + len(found) + 3)
        case ["silent"]:
            return Expected(SILENT, 0)
    return Expected(FAILED, 0)


def _called(inner: Expected) -> Expected:
    if inner.value == SILENT:
        return Expected(SILENT, inner.messages + 1)
    value = CALL_FAILED if inner.value == FAILED else int(inner.value) + 1
    return Expected(value, inner.messages + 2)


def _in_sequence(value: int, steps: list[str]) -> Expected:
    messages = 3  # the start, the body, and the reply
    for step in steps:
        messages += 3 if step == "relay" else 1
        if step in ("broken", "mute"):
            return Expected(SEQUENCE_FAILED, messages)
        value = value + 1 if step == "solver" else value * 2
    return Expected(value, messages)


_STEPS = ["double", "relay", "solver", "double", "relay", "solver", "broken", "mute"]
_small = st.integers(0, 9)
#: what is asked of the organism
TASKS = st.recursive(
    st.one_of(
        _small.map(lambda n: ["number", n]),
        st.sampled_from([["fail"], ["silent"], ["ask"]]),
        st.tuples(_small, st.lists(st.sampled_from(_STEPS), min_size=1, max_size=3)).map(
            lambda drawn: ["sequence", drawn[0], *drawn[1]]
        ),
    ),
    lambda inner: st.one_of(
        inner.map(lambda task: ["call", task]),
        inner.map(lambda task: ["self", task]),
        st.tuples(st.integers(1, 2), inner).map(lambda drawn: ["flaky", *drawn]),
        st.tuples(st.integers(0, 2), st.lists(inner, min_size=1, max_size=3)).map(
            lambda drawn: ["buffer", drawn[0], *drawn[1]]
        ),
    ),
    max_leaves=6,
)
