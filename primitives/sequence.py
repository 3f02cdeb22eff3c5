"""`system.sequence`: run listeners one after another, each on the reply of the one before.

The steps do not know that they are in a sequence: each gets a message from whoever started it
and replies as always. Source: Pipes and Filters, in Hohpe & Woolf, "Enterprise Integration
Patterns" (2003); on Celery it shows as a chain.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NamedTuple

from lxml import etree

from threadloom.primitives.answers import answer
from threadloom.primitives.call import SystemCall
from threadloom.routing import XML, payload
from threadloom.routing.actions import Action, FanOut, JoinSettled
from threadloom.routing.faults import fault_text, limit_fault, routing_fault
from threadloom.routing.payloads import parse_canonical

SEQUENCE = "system.sequence"


@payload
@dataclass
class SequenceStart:
    """Run `steps` in order, beginning with `payload`."""

    steps: list[str]
    payload: XML
    return_to: str = ""
    sequence_id: str = ""


@payload
@dataclass
class SequenceComplete:
    """Every step has replied; `final_result` is the last one's reply."""

    sequence_id: str
    final_result: XML
    step_count: int


@payload
@dataclass
class SequenceError:
    """A step failed, or the sequence could not be started (`step_index` -1)."""

    sequence_id: str
    failed_step: str
    step_index: int
    error: str


def sequence(message: SequenceStart | JoinSettled, call: SystemCall) -> Action:
    """Start a sequence, or tell how it ended."""
    if isinstance(message, JoinSettled):
        return _finish(message.join, call)
    return _start(message, call)


def _start(message: SequenceStart, call: SystemCall) -> Action:
    label = message.sequence_id or str(uuid.uuid4())
    objection = _objection(message, call)
    if objection is not None:
        step, index, text, note = objection
        return answer(SequenceError(label, step, index, text), failed=True, note=note)
    return FanOut(
        label=label,
        targets=tuple(message.steps),
        inputs=(message.payload.element,),
        total=len(message.steps),
        need_ok=0,
        need_failed=1,
        chained=True,
        memo={"return_to": message.return_to},
        label_refusal=SequenceError(label, "", -1, "a sequence of this id is still running"),
        limit_refusal=SequenceError(label, "", -1, limit_fault().message),
    )


class _Objection(NamedTuple):
    """Why a sequence cannot be started."""

    #: the step in question and its index; empty and -1: none in particular
    step: str
    step_index: int
    #: what the initiator is told
    text: str
    #: what operators are told, if that is more
    note: str = ""


def _objection(message: SequenceStart, call: SystemCall) -> _Objection | None:
    if not message.steps:
        return _Objection("", -1, "a sequence needs at least one step")
    for index, step in enumerate(message.steps):
        if refused := call.refusal(step):
            return _Objection(step, index, routing_fault().message, f"step {index}: {refused}")
    if message.return_to and (refused := call.refusal(message.return_to)):
        told = f"return_to: {routing_fault().message}"
        return _Objection("", -1, told, f"return_to: {refused}")
    if call.too_deep or not call.room_for(len(message.steps) + 1):
        return _Objection("", -1, limit_fault().message)
    return _mismatch(message, call)


def _mismatch(message: SequenceStart, call: SystemCall) -> _Objection | None:
    """Return the first step that cannot take the payload it will get, as far as declared."""
    arriving: frozenset[str] = frozenset([etree.QName(message.payload.element).localname])
    for index, step in enumerate(message.steps):
        listener = call.organism.listeners[step]
        if arriving and not arriving & listener.accepts.keys():
            text = (
                f"takes {', '.join(sorted(listener.accepts))}, gets {', '.join(sorted(arriving))}"
            )
            return _Objection(step, index, text)
        arriving = frozenset(listener.replies)
    return None


def _finish(join_id: str, call: SystemCall) -> Action:
    state = call.fired(join_id)
    join, index = state.join, state.ok + state.failed - 1
    return_to = str(join.memo.get("return_to", ""))
    last = call.stored.answer(join_id, index)
    element = parse_canonical(last.payload)
    if last.success:
        complete = SequenceComplete(join.label, XML.of_parsed(element), join.total)
        if call.fits(complete):
            return answer(complete, return_to=return_to)
        text = "its reply is too large to be passed on"
    else:
        text = fault_text(element)
    error = SequenceError(join.label, join.targets[index], index, text)
    return answer(error, return_to=return_to, failed=True)
