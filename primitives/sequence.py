"""`system.sequence`: run listeners one after another, each on the reply of the one before.

The steps do not know that they are in a sequence: each gets a message from whoever started it
and replies as always. Source: Pipes and Filters, in Hohpe & Woolf, "Enterprise Integration
Patterns" (2003); on Celery it shows as a chain.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from lxml import etree

from primitives.call import SystemCall
from routing import XML, HandlerResponse, payload
from routing.actions import Action, FanOut, Forward
from routing.faults import fault_text, limit_fault, routing_fault
from routing.markup import parse_canonical
from routing.records import JoinKind

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


@payload
@dataclass
class JoinSettled:
    """Sent by the registry to the listener that opened a join: it has fired."""

    join: str = field(default="")


def sequence(message: SequenceStart | JoinSettled, call: SystemCall) -> Action:
    """Start a sequence, or tell how it ended."""
    if isinstance(message, JoinSettled):
        return _finish(message.join, call)
    return _start(message, call)


def _start(message: SequenceStart, call: SystemCall) -> Action:
    label = message.sequence_id or str(uuid.uuid4())
    for index, step in enumerate(message.steps):
        if not call.may_start(step):
            return _refuse(label, step, index, routing_fault().message)
    if not message.steps:
        return _refuse(label, "", -1, "a sequence needs at least one step")
    if message.return_to and not call.may_start(message.return_to):
        return _refuse(label, "", -1, f"return_to: {routing_fault().message}")
    mismatch = _mismatch(message, call)
    if mismatch is not None:
        return _refuse(label, *mismatch)
    if call.too_deep or not call.room_for(len(message.steps) + 1):
        return _refuse(label, "", -1, limit_fault().message)
    return FanOut(
        kind=JoinKind.SEQUENCE,
        label=label,
        targets=tuple(message.steps),
        inputs=(message.payload.element,),
        total=len(message.steps),
        need_ok=0,
        need_failed=1,
        memo={"return_to": message.return_to},
        refusal=SequenceError(label, "", -1, "a sequence of this id is still running"),
    )


def _mismatch(message: SequenceStart, call: SystemCall) -> tuple[str, int, str] | None:
    """The first step that cannot take what it will get, as far as that is declared."""
    arriving: frozenset[str] = frozenset([etree.QName(message.payload.element).localname])
    for index, step in enumerate(message.steps):
        listener = call.organism.listeners[step]
        if arriving and not arriving & listener.accepts.keys():
            text = (
                f"takes {', '.join(sorted(listener.accepts))}, gets {', '.join(sorted(arriving))}"
            )
            return step, index, text
        arriving = frozenset(listener.replies)
    return None


def _finish(join_id: str, call: SystemCall) -> Action:
    state = call.load_join(join_id)
    if state is None:
        raise LookupError(f"no join {join_id}")
    join = state.join
    results = list(call.results(join_id, join.total))
    last = results[-1]
    answer: SequenceComplete | SequenceError
    if last.success and len(results) == join.total:
        final = XML(parse_canonical(last.payload))
        answer = SequenceComplete(join.label, final, join.total)
    else:
        text = fault_text(parse_canonical(last.payload))
        answer = SequenceError(join.label, join.targets[last.index], last.index, text)
    return answer_or_forward(answer, str(join.memo.get("return_to", "")))


def answer_or_forward(answer: object, return_to: str) -> Action:
    """Reply to the caller, or to the listener it asked to get the answer instead."""
    return Forward(answer, return_to) if return_to else HandlerResponse.respond(answer)


def _refuse(label: str, step: str, index: int, text: str) -> HandlerResponse:
    return HandlerResponse.respond(SequenceError(label, step, index, text))
