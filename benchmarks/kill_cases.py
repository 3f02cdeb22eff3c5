"""The rows of the kill matrix, and what an observation of one says. Decides only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from benchmarks.kill_points import Place, Process
from threadloom.tasks.runtime import Point

#: seconds after which a message of a lost worker is handed out again; Celery's default: 3600
VISIBILITY_S = 10
#: the same, longer than the 21 s for which Celery protects the publishing of a chord's body, as
#: its default is
LONG_VISIBILITY_S = 30


class Contestant(StrEnum):
    """Whose canvas it is."""

    BARE = "bare Celery"
    OURS = "Threadloom"


class Canvas(StrEnum):
    """What runs: a chain or sequence, a chord or buffer, or a chord that a task starts."""

    SEQUENCE = "sequence"
    BUFFER = "buffer"
    OPENED_BUFFER = "opened buffer"


@dataclass(frozen=True, slots=True)
class Row:
    """One moment to die at; a side that has no such moment has no point."""

    canvas: Canvas
    #: who is killed, by the name it has in its canvas
    victim: str
    moment: str
    bare: str | None
    ours: str | None
    visibility_s: int = VISIBILITY_S


#: the moments after which the interrupted handler may not run again either
_AFTER_COMMIT = frozenset(
    [Point.COMMITTED, Point.PUBLISHING, Point.PUBLISHED, Point.CLEARED, Point.RETURNED,
     Place.FINISHED, Place.ACKNOWLEDGING]
)  # fmt: skip

_S, _B, _O = Canvas.SEQUENCE, Canvas.BUFFER, Canvas.OPENED_BUFFER
_DONE = "all done, message not acknowledged"

ROWS = (
    Row(_S, "two", "message taken, nothing begun", Place.TAKEN, Place.TAKEN),
    Row(_S, "two", "begun, handler not called", None, Point.BEGUN),
    Row(_S, "two", "in the handler", Place.HANDLER, Place.HANDLER),
    Row(_S, "two", "handler done, nothing recorded", None, Point.HANDLED),
    Row(_S, "two", "result recorded, next step not published", None, Point.COMMITTED),
    Row(
        _S, "two", "next step published, own result or outbox not", Place.CONTINUED, Point.PUBLISHED
    ),
    Row(_S, "two", _DONE, Place.FINISHED, Place.FINISHED),
    Row(_S, "body", "begun", None, Point.BEGUN),
    Row(_S, "body", "answer recorded, not published", None, Point.COMMITTED),
    Row(_S, "body", "answer published, outbox not cleared", None, Point.PUBLISHED),
    Row(_O, "opener", "some items published, some not", Place.HALFWAY, Point.PUBLISHING),
    Row(_B, "item0", "in the handler", Place.HANDLER, Place.HANDLER),
    Row(_B, "item0", "result stored, not counted (ours: one step)", Place.STORED, Point.COMMITTED),
    Row(_B, "item0", _DONE, Place.FINISHED, Place.FINISHED),
    Row(_B, "item2", "in the handler", Place.HANDLER, Place.HANDLER),
    Row(_B, "item2", "result stored, not counted (ours: one step)", Place.STORED, None),
    Row(_B, "item2", "counted, body not published", Place.COUNTED, Point.COMMITTED),
    Row(_B, "item2", "about to publish the body, claim extended", Place.CLAIMED, None),
    Row(
        _B, "item2", "body published, counters or outbox not cleared",
        Place.BODY_PUBLISHED, Point.PUBLISHED,
    ),
    Row(
        _B, "item2", "about to publish the body; redelivered after 30 s, not 10",
        Place.CLAIMED, None, LONG_VISIBILITY_S,
    ),
    Row(
        _B, "item2", "body published; redelivered after 30 s, not 10",
        Place.BODY_PUBLISHED, None, LONG_VISIBILITY_S,
    ),
    Row(_B, "item2", "body published, task about to return", None, Point.CLEARED),
    Row(_B, "item2", _DONE, Place.FINISHED, Place.FINISHED),
    Row(_B, "body", "in the task (ours: begun)", Place.HANDLER, Point.BEGUN),
    Row(_B, "body", "answer recorded, not published", None, Point.COMMITTED),
    Row(
        _B, "body", "answer published, own result or outbox not", Place.CONTINUED, Point.PUBLISHED
    ),
    Row(_B, "body", _DONE, Place.FINISHED, Place.FINISHED),
    Row(_B, "tail", "in the handler", Place.HANDLER, Place.HANDLER),
    Row(_B, "tail", "conversation ended, value not handed over", None, Point.COMMITTED),
    Row(_B, "tail", _DONE, Place.FINISHED, Place.FINISHED),
    Row(_B, "handover", "message taken, nothing begun", None, Place.TAKEN),
    Row(_B, "handover", "value handed over, registry not told", None, Point.RETURNED),
    Row(_B, "handover", _DONE, None, Place.FINISHED),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One cell: a row, a contestant, and the process that is killed."""

    row: Row
    contestant: Contestant
    process: Process

    @property
    def point(self) -> str:
        """Where the process dies. All done, a pool child and a main process are elsewhere."""
        bare = self.contestant is Contestant.BARE
        point = self.row.bare if bare else self.row.ours
        assert point is not None, "this contestant has no such moment"
        if point == Place.FINISHED and self.process is Process.WORKER:
            return Place.ACKNOWLEDGING
        return point


def cases(contestants: Iterable[Contestant] = Contestant) -> list[Case]:
    """Every cell there is."""
    return [
        Case(row, contestant, process)
        for contestant in contestants
        for row in ROWS
        if (row.bare if contestant is Contestant.BARE else row.ours) is not None
        for process in Process
        # A pool child's message comes back at once, whatever the visibility timeout is.
        if process is Process.WORKER or row.visibility_s == VISIBILITY_S
    ]


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of one run."""

    #: the names in the final value; None if it never came
    value: tuple[str, ...] | None
    #: seconds from the kill to the final value
    recovered_s: float | None
    #: how often each task or handler has run
    runs: Counter[str]
    #: how often each listener had a delivery in the registry's log; empty for bare Celery
    deliveries: Counter[str] = field(default_factory=Counter)
    #: what is left in Redis that a run without a kill does not leave
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an observation means. `doubled` are tasks beside the interrupted one."""

    case: Case
    observation: Observation
    lost: bool
    #: a value came that a run without a kill does not give
    wrong: bool
    doubled: tuple[str, ...]
    #: the interrupted task or handler itself ran more than once
    ran_again: bool

    @property
    def kept(self) -> bool:
        """Nothing lost or wrong, nothing doubled, nothing left behind."""
        return not (self.lost or self.wrong or self.doubled or self.observation.left)

    @property
    def text(self) -> str:
        """One cell of the table."""
        seen = self.observation
        parts = ["LOST"] if self.lost else ["WRONG"] if self.wrong else []
        if self.doubled:
            parts.append(f"DOUBLED {', '.join(self.doubled)}")
        if not parts:
            parts.append("kept, ran again" if self.ran_again else "kept")
        if seen.recovered_s is not None:
            parts.append(f"{seen.recovered_s:.1f} s")
        return "; ".join([" ".join(parts), *(f"left: {what}" for what in seen.left)])

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        seen = self.observation
        return {
            **asdict(self.case.row),
            "contestant": self.case.contestant,
            "process": self.case.process,
            "point": self.case.point,
            "lost": self.lost,
            "wrong": self.wrong,
            "doubled": self.doubled,
            "ran_again": self.ran_again,
            "value": seen.value,
            "recovered_s": seen.recovered_s,
            "runs": seen.runs,
            "deliveries": seen.deliveries,
            "left": seen.left,
        }


def judge(case: Case, seen: Observation, normal: Observation) -> Verdict:
    """Compare a run with one in which nobody was killed."""
    victim = case.row.victim
    doubled = {name for name, count in seen.runs.items() if count > normal.runs[name]}
    ran_again = victim in doubled
    if not (case.contestant is Contestant.OURS and case.point in _AFTER_COMMIT):
        doubled.discard(victim)
    extra = seen.deliveries - normal.deliveries
    doubled |= {f"delivery to {name}" for name in extra}
    lost = seen.value is None
    wrong = not lost and sorted(seen.value or ()) != sorted(normal.value or ())
    return Verdict(case, seen, lost, wrong, tuple(sorted(doubled)), ran_again)
