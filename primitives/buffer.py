"""`system.buffer`: fan items out to a listener and collect what comes back, in order.

Not all items are queued at once: there are as many *lanes* as keep the workers busy, and each takes
the next item as soon as the one before is done, mostly in the same process and without a message.
What is longer than `BATCH` is stored as a list first and becomes deliveries a batch at a time,
the next one when the lanes have come to the last: so no message, commit or process ever holds
all of it.

It always completes: with every index, the failed ones marked and said why, the missing ones
named after a deadline. Source: Scatter-Gather and Aggregator, in Hohpe & Woolf, "Enterprise
Integration Patterns" (2003); on Celery it shows as a chord.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lxml import etree

from threadloom.primitives.answers import answer
from threadloom.primitives.call import SystemCall
from threadloom.primitives.policy import thresholds
from threadloom.routing import XML, BufferItem, StoredItems, payload
from threadloom.routing.actions import Action, FanOut, JoinSettled, MoreItems, Supply
from threadloom.routing.faults import limit_fault, routing_fault
from threadloom.routing.records import JoinState

BUFFER = "system.buffer"
#: items that become deliveries in one commit, which nobody else's gets in between
BATCH = 200
_NO_LIST = "there is no such list of items here"
#: seconds, or items at a time: more than anybody means
_LONGEST = 1_000_000_000


@payload
@dataclass
class BufferStart:
    """Send every item to `target` and collect the replies.

    `items` may be a list; a long one is better given as `meta.items(...)`, from a generator.
    """

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
    """The buffer's policy is met or can no longer be; `results` has every index, in order.

    Read them with `meta.results(complete)`: where they are too large for one payload, they are
    `<results ref="…" total="N"/>`.
    """

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


def buffer(message: BufferStart | JoinSettled | MoreItems, call: SystemCall) -> Action | None:
    """Start a buffer, give it more of its items, or tell what it collected."""
    if isinstance(message, JoinSettled):
        return _collect(message.join, call)
    if isinstance(message, MoreItems):
        return _supply(message, call)
    return _start(message, call)


def _start(message: BufferStart, call: SystemCall) -> Action:
    label = message.buffer_id or str(uuid.uuid4())
    stored = StoredItems.named_by(message.items)
    total = stored.total if stored is not None else len(message.items)
    reason, note = _objection(message, total, call)
    if reason:
        return answer(BufferError(label, reason), failed=True, note=note)
    if stored is not None and not call.stored.holds(stored):
        return answer(BufferError(label, _NO_LIST), failed=True)
    if not total:
        return _nothing(message, label)
    if stored is None and total > BATCH:
        stored = call.stored.put(message.items)
    inputs = _first(stored, call) if stored else (item.element for item in message.items)
    limits = thresholds(message.policy, total)
    return FanOut(
        label=label,
        targets=(message.target,),
        inputs=tuple(inputs),
        total=total,
        # Without a collector nothing is cancelled: every item is to be done.
        need_ok=limits.need_ok if message.collect else 0,
        need_failed=limits.need_failed if message.collect else 0,
        window=min(message.max_parallel, total),
        released=min(message.max_parallel or call.lanes(), total),
        more_from=stored.name if stored is not None else "",
        collect=message.collect,
        deadline_ms=_ms(message.deadline_seconds) if message.collect else 0,
        item_timeout_ms=_ms(message.item_timeout_seconds),
        memo={"return_to": message.return_to},
        reply=None if message.collect else BufferDispatched(label, total),
        label_refusal=BufferError(label, "a buffer of this id is still running"),
        limit_refusal=BufferError(label, limit_fault().message),
    )


def _first(stored: StoredItems, call: SystemCall) -> list[etree._Element]:
    return call.stored.stored_items(stored.name, 0, min(BATCH, stored.total))


def _supply(message: MoreItems, call: SystemCall) -> Action | None:
    state = call.stored.join(message.join)
    if state is None or state.fired:
        return None
    stop = min(message.start + BATCH, state.join.total)
    items = call.stored.stored_items(message.items, message.start, stop)
    return Supply(state.join, message.start, tuple(items), message.items)


def _ms(seconds: float) -> int:
    """At least one for any time at all: 0 means none."""
    return math.ceil(seconds * 1000)


def _objection(message: BufferStart, total: int, call: SystemCall) -> tuple[str, str]:
    """Why a buffer cannot be started: for its initiator and, if they are told more, for operators.

    Empty if it can.
    """
    if refused := call.refusal(message.target):
        return routing_fault().message, refused
    if message.return_to and (refused := call.refusal(message.return_to)):
        return f"return_to: {routing_fault().message}", f"return_to: {refused}"
    return _unfit(message, total, call), ""


def _unfit(message: BufferStart, total: int, call: SystemCall) -> str:
    """What is wrong with the buffer itself, or that there is no room for it; empty: nothing."""
    for name in ("max_parallel", "item_timeout_seconds", "deadline_seconds"):
        if not 0 <= getattr(message, name) <= _LONGEST:
            return f"{name} must be from 0 (none) to {_LONGEST}"
    try:
        thresholds(message.policy, total)
    except ValueError as exc:
        return str(exc)
    if call.too_deep:
        return limit_fault().message
    if not call.room_for(total + 1 + total // BATCH):
        limit = call.organism.max_deliveries
        return f"{limit_fault().message} {total} items are too many for max_deliveries {limit}."
    return ""


def _nothing(message: BufferStart, label: str) -> Action:
    if not message.collect:
        return answer(BufferDispatched(label, 0))
    empty = BufferComplete(label, 0, 0, XML.of_parsed(results_element(())))
    return answer(empty, return_to=message.return_to)


def _collect(join_id: str, call: SystemCall) -> Action:
    state = call.fired(join_id)
    join = state.join
    complete = _inline(state, call)
    if complete is None or not call.fits(complete):
        reference = etree.Element("results", ref=join_id, total=str(join.total))
        complete = _complete(state, reference)
    return answer(complete, return_to=str(join.memo.get("return_to", "")))


def _inline(state: JoinState, call: SystemCall) -> BufferComplete | None:
    """The answer with every item in it; None when it is clear that it would be too large."""
    join = state.join
    items = call.stored.items(join.id, join.total)
    held = list(_as_many_as_fit(items, call.organism.max_payload_bytes))
    return _complete(state, results_element(held)) if len(held) == join.total else None


def _as_many_as_fit(items: Iterator[BufferItem], max_bytes: int) -> Iterator[BufferItem]:
    """Items while what they hold is no longer than `max_bytes`: the rest is not even loaded."""
    sizes = 0
    for item in items:
        sizes += len(item.payload.text if item.payload is not None else item.error)
        if sizes > max_bytes:
            return
        yield item


def _complete(state: JoinState, results: etree._Element) -> BufferComplete:
    return BufferComplete(state.join.label, state.join.total, state.ok, XML.of_parsed(results))


def results_element(items: Iterable[BufferItem]) -> etree._Element:
    """`<results>` with an `<item>` for each one.

    A success holds the reply as it came, a failure its text in `error`; an index without an
    answer is a failure marked `missing`.
    """
    root = etree.Element("results")
    for item in items:
        success = "true" if item.success else "false"
        element = etree.SubElement(root, "item", index=str(item.index), success=success)
        if item.payload is not None:
            element.append(item.payload.element)
            continue
        if item.missing:
            element.set("missing", "true")
        etree.SubElement(element, "error").text = item.error
    return root
