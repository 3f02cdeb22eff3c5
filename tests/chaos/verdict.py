"""What became of a conversation: right and once, or what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery import states

from tests.chaos.site import Site, Step
from tests.harness import eventually
from threadloom.routing.records import Delivery, LogEntry
from threadloom.routing.states import ConversationStatus

LOST, TWICE, WRONG, STUCK = "lost", "settled twice", "wrong answer", "stuck"


@dataclass(frozen=True)
class Flaw:
    """One thing wrong with a conversation."""

    #: LOST, TWICE, WRONG or STUCK
    kind: str
    conversation: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.conversation}: {self.text}"


def ended(site: Site, conversation_id: str) -> bool:
    """Whether nothing of a conversation is in flight or due any more, its value handed over.

    One that was never begun has ended once its sender is told that it was revoked.
    """
    found = site.backend.conversation(conversation_id)
    if found is None:
        return bool(site.app.backend.get_task_meta(conversation_id)["status"] == states.REVOKED)
    return (
        found is not None
        and found.in_flight == 0
        and found.status is not ConversationStatus.RUNNING
        and not site.due(conversation_id)
    )


def await_end(site: Site, conversation_id: str, *, timeout_s: float) -> None:
    """Return once a conversation has ended; fail with its story if it does not."""
    try:
        eventually(lambda: ended(site, conversation_id), timeout_s=timeout_s)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{story(site, conversation_id)}") from None


def flaws(
    site: Site, conversation_id: str, expected: Any, *, was_ended: bool = False
) -> list[Flaw]:
    """Everything that is wrong with a conversation that should have given `expected`.

    One that `was_ended` from outside, revoked or expired, may be completed all the same. If it is
    not, whoever injected it has to be told that it was revoked, and what it did counts as before.
    """
    found = (
        _revoked(site, conversation_id)
        if was_ended and not _is_completed(site, conversation_id)
        else _flaws(site, conversation_id, expected)
    )
    return [Flaw(kind, conversation_id, text) for kind, text in found]


def _is_completed(site: Site, conversation_id: str) -> bool:
    found = site.backend.conversation(conversation_id)
    return found is not None and found.status is ConversationStatus.COMPLETED


def _revoked(site: Site, conversation_id: str) -> Iterator[tuple[str, str]]:
    """The flaws of a conversation that was ended from outside; it may never have begun."""
    found = site.backend.conversation(conversation_id)
    told = site.app.backend.get_task_meta(conversation_id)
    if found is not None:
        due = site.due(conversation_id)
        if found.in_flight or found.status is ConversationStatus.RUNNING or due:
            yield STUCK, f"{found.status}, {found.in_flight} in flight, due: {due}"
            return
        yield from _doubled(site.backend.log(conversation_id, limit=100_000))
    elif site.journal(conversation_id):
        yield LOST, "it was begun, and the registry does not know it"
    if told["status"] != states.REVOKED:
        how = found.status if found else "never begun"
        yield WRONG, f"{how}, and whoever injected it was told {told['status']}"


def _flaws(site: Site, conversation_id: str, expected: Any) -> Iterator[tuple[str, str]]:
    found = site.backend.conversation(conversation_id)
    if found is None:
        yield LOST, "the registry does not know it"
        return
    due = site.due(conversation_id)
    if found.in_flight or found.status is ConversationStatus.RUNNING or due:
        yield STUCK, f"{found.status}, {found.in_flight} in flight, due: {due}"
        return
    value = (found.value or {}).get("payload")
    if found.status is not ConversationStatus.COMPLETED or value != expected:
        yield WRONG, f"{found.status} with {found.value}, expected {expected}"
    told = site.app.backend.get_task_meta(conversation_id)
    if told["status"] != states.SUCCESS or told["result"]["payload"] != expected:
        yield WRONG, f"whoever injected it was told {told['status']}: {told['result']}"
    unsettled = _unsettled(site, conversation_id)
    if unsettled:
        yield LOST, f"deliveries that never settled: {unsettled}"
    yield from _doubled(site.backend.log(conversation_id, limit=100_000))


def _unsettled(site: Site, conversation_id: str) -> dict[str, str]:
    return {k: v for k, v in site.states(conversation_id).items() if v != "settled"}


def _doubled(log: Any) -> Iterator[tuple[str, str]]:
    """Effects that one delivery had twice: each commit creates deliveries of its own."""
    deliveries = [entry.detail["delivery"] for entry in log if entry.event == "message"]
    for effect, count in Counter(map(_effect, deliveries)).items():
        if count > 1:
            yield TWICE, f"{count} times (caused by, to, payload, branch) = {effect}"
    for delivery, count in Counter(each.id for each in deliveries).items():
        if count > 1:
            yield TWICE, f"delivery {delivery} was created {count} times"
    endings = sum(entry.event == "ended" for entry in log)
    if endings != 1:
        yield TWICE, f"it ended {endings} times"
    late = [entry.detail for entry in log if entry.event == "late"]
    if late:
        yield TWICE, f"replies that came after the answer: {late}"


def _effect(delivery: Delivery) -> tuple[Any, ...]:
    return delivery.parent_id, delivery.to, delivery.payload_name, delivery.scope


def story(site: Site, conversation_id: str) -> str:
    """What happened in a conversation, for people: its log and journal in one, by time."""
    log = [(e.at_ms / 1000, _told(e)) for e in site.backend.log(conversation_id, limit=10_000)]
    journal = [(step.at, _reached(step)) for step in site.journal(conversation_id)]
    moments = sorted([*log, *journal])
    start = moments[0][0] if moments else 0.0
    lines = [f"{at - start:9.3f} s  {text}" for at, text in moments]
    return "\n".join(
        [
            f"conversation {conversation_id}: {site.backend.conversation(conversation_id)}",
            f"unsettled: {_unsettled(site, conversation_id)}",
            f"due: {site.due(conversation_id)}",
            *lines,
        ]
    )


def _told(entry: LogEntry) -> str:
    if entry.event in ("message", "late"):
        delivery = entry.detail["delivery"]
        branch = f" branch {delivery.scope[-1].index}" if delivery.scope else ""
        return (
            f"[{entry.event}] {delivery.from_id} → {delivery.to} {delivery.payload_name}"
            f"{branch} ({delivery.id[:8]})"
        )
    return f"[{entry.event}] {' '.join(map(str, entry.detail.values()))[-300:]}"


def _reached(step: Step) -> str:
    return f"{step.point}: {step.listener} ({step.delivery[:8]}) in process {step.pid}"
