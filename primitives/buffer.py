"""`system.buffer`: fan items out to a listener and collect what comes back, in order.

It always completes: with every index, the failed ones marked and said why, the missing ones
named after a deadline. Source: Scatter-Gather and Aggregator, in Hohpe & Woolf, "Enterprise
Integration Patterns" (2003); on Celery it shows as a chord.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from lxml import etree

from primitives.call import SystemCall
from primitives.policy import thresholds
from primitives.sequence import JoinSettled, answer_or_forward
from routing import XML, HandlerResponse, payload
from routing.actions import Action, FanOut
from routing.faults import fault_text, limit_fault, routing_fault
from routing.markup import parse_canonical
from routing.records import JoinKind, JoinState, StoredResult

BUFFER = "system.buffer"


@payload
@dataclass
class BufferStart:
    """Send every item to `target` and collect the replies."""

    target: str
    items: list[XML]
    collect: bool = True
    return_to: str = ""
    buffer_id: str = ""
    policy: str = "best_effort"
    max_parallel: int = 0
    item_timeout_seconds: float = 0
    deadline_seconds: float = 0


@payload
@dataclass
class BufferComplete:
    """The buffer's policy is met or can no longer be; `results` has every index, in order."""

    buffer_id: str
    total: int
    successful: int
    results: XML


@payload
@dataclass
class BufferDispatched:
    """The items are on their way; nobody collects them."""

    buffer_id: str
    total: int


@payload
@dataclass
class BufferError:
    """The buffer could not be started."""

    buffer_id: str
    error: str


def buffer(message: BufferStart | JoinSettled, call: SystemCall) -> Action:
    """Start a buffer, or tell what it collected."""
    if isinstance(message, JoinSettled):
        return _collect(message.join, call)
    return _start(message, call)


def _start(message: BufferStart, call: SystemCall) -> Action:
    label = message.buffer_id or str(uuid.uuid4())
    total = len(message.items)
    reason = _objection(message, call)
    if reason:
        return HandlerResponse.respond(BufferError(label, reason))
    if not total:
        return _nothing(message, label)
    limits = thresholds(message.policy, total)
    return FanOut(
        kind=JoinKind.BUFFER,
        label=label,
        targets=(message.target,),
        inputs=tuple(item.element for item in message.items),
        total=total,
        # Without a collector nothing is cancelled: every item is to be done.
        need_ok=limits.need_ok if message.collect else 0,
        need_failed=limits.need_failed if message.collect else 0,
        window=min(message.max_parallel, total),
        collect=message.collect,
        deadline_ms=round(message.deadline_seconds * 1000) if message.collect else 0,
        item_timeout_ms=round(message.item_timeout_seconds * 1000),
        memo={"return_to": message.return_to},
        reply=None if message.collect else BufferDispatched(label, total),
        refusal=BufferError(label, "a buffer of this id is still running"),
    )


def _objection(message: BufferStart, call: SystemCall) -> str:
    """Why a buffer cannot be started; empty if it can."""
    total = len(message.items)
    if not call.may_start(message.target):
        return routing_fault().message
    if message.return_to and not call.may_start(message.return_to):
        return f"return_to: {routing_fault().message}"
    for name in ("max_parallel", "item_timeout_seconds", "deadline_seconds"):
        if not 0 <= getattr(message, name) < float("inf"):
            return f"{name} must not be negative"
    if total:
        try:
            thresholds(message.policy, total)
        except ValueError as exc:
            return str(exc)
    if call.too_deep or not call.room_for(total + 1):
        return limit_fault().message
    return ""


def _nothing(message: BufferStart, label: str) -> Action:
    if not message.collect:
        return HandlerResponse.respond(BufferDispatched(label, 0))
    empty = BufferComplete(label, 0, 0, XML(results_element((), 0)))
    return answer_or_forward(empty, message.return_to)


def _collect(join_id: str, call: SystemCall) -> Action:
    state: JoinState | None = call.load_join(join_id)
    if state is None:
        raise LookupError(f"no join {join_id}")
    join = state.join
    results = results_element(call.results(join_id, join.total), join.total)
    complete = BufferComplete(join.label, join.total, state.ok, XML(results))
    return answer_or_forward(complete, str(join.memo.get("return_to", "")))


def results_element(results: Iterable[StoredResult], total: int) -> etree._Element:
    """`<results>` with an `<item>` for every index from 0 to `total - 1`.

    A success holds the reply as it came; a failure its text in `error`; an index without an
    answer is a failure marked `missing`.
    """
    root = etree.Element("results")
    following = 0
    for result in results:
        _missing(root, following, result.index)
        item = _item(root, result.index, success=result.success)
        element = parse_canonical(result.payload)
        if result.success:
            item.append(element)
        else:
            etree.SubElement(item, "error").text = fault_text(element)
        following = result.index + 1
    _missing(root, following, total)
    return root


def _missing(root: etree._Element, start: int, stop: int) -> None:
    for index in range(start, stop):
        item = _item(root, index, success=False)
        item.set("missing", "true")
        etree.SubElement(item, "error").text = "no answer in time, or not needed any more"


def _item(root: etree._Element, index: int, *, success: bool) -> etree._Element:
    return etree.SubElement(
        root, "item", {"index": str(index), "success": "true" if success else "false"}
    )
