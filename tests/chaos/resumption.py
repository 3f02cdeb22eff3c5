"""How long a conversation stood still because of a kill.

A process that is killed while it has a delivery in hand leaves it at some point of its way. It
is resumed when another process begins that delivery again, if it was not committed; else when
one begins what it created. All of that is in the journal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.killer import Strike
from tests.chaos.orders import HANDLING
from tests.chaos.site import Site, Step
from threadloom.tasks.runtime import Point

_UNCOMMITTED = (Point.BEGUN, HANDLING, Point.HANDLED)
#: nothing is left to do for a delivery then
_DONE = (Point.CLEARED, Point.RETURNED)


@dataclass(frozen=True, order=True)
class Resumption:
    """A delivery that was hit by a SIGKILL and went on."""

    seconds: float
    strike: str
    #: how far the delivery was
    point: str
    conversation: str


def resumptions(site: Site, strikes: Sequence[Strike]) -> list[Resumption]:
    """Every delivery that a SIGKILL hit, by the time until it went on."""
    by_process: dict[int, list[Step]] = defaultdict(list)
    by_conversation: dict[str, list[Step]] = defaultdict(list)
    for step in site.journal():
        by_process[step.pid].append(step)
        by_conversation[step.conversation].append(step)
    found = []
    for strike in strikes:
        for pid in strike.killed:
            hit = _in_hand(by_process[pid])
            if hit is None:
                continue
            for at in _begun_again(site, hit, by_conversation[hit.conversation]):
                found.append(Resumption(at - strike.at, strike.kind, hit.point, hit.conversation))
    return sorted(found)


def silences(site: Site) -> list[tuple[float, str]]:
    """The longest time in which nothing of a conversation was done, and whose; longest last."""
    by_conversation: dict[str, list[float]] = defaultdict(list)
    for step in site.journal():
        by_conversation[step.conversation].append(step.at)
    return sorted(
        (max((b - a for a, b in pairwise(times)), default=0.0), conversation)
        for conversation, times in by_conversation.items()
    )


def _in_hand(steps: Sequence[Step]) -> Step | None:
    """The delivery that a process had when it ended, and how far it was."""
    return steps[-1] if steps and steps[-1].point not in _DONE else None


def _begun_again(site: Site, hit: Step, steps: Iterable[Step]) -> list[float]:
    """When a delivery, or what it created, was begun after it was hit; the first time."""
    later = [s for s in steps if s.at > hit.at and s.point == Point.BEGUN]
    if hit.point in _UNCOMMITTED:
        return [s.at for s in later if s.delivery == hit.delivery][:1]
    created = {
        entry.detail["delivery"].id
        for entry in site.backend.log(hit.conversation, limit=100_000)
        if entry.event == "message" and entry.detail["delivery"].parent_id == hit.delivery
    }
    return [s.at for s in later if s.delivery in created][:1]
