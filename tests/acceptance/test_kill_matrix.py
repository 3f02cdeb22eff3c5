"""The kill matrix of docs/guarantees.md cannot rot: three of Threadloom's kills, and the verdicts.

The kills run exactly as `python -m benchmarks.kill_matrix` runs them, on real workers. The whole
matrix, bare Celery included, takes minutes and is run by hand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.kill_cases import ROWS, Case, Contestant, Observation, cases, judge
from benchmarks.kill_matrix import run
from benchmarks.kill_points import Process
from threadloom.tasks.runtime import Point

NORMAL = Observation(
    value=("one", "two", "three", "tail"),
    recovered_s=1.0,
    runs=Counter(one=1, two=1, three=1, tail=1),
)


def case_of(victim: str, point: str, process: Process) -> Case:
    """One of Threadloom's cases, by where it dies."""
    [found] = [
        case
        for case in cases([Contestant.OURS])
        if (case.row.victim, case.point, case.process) == (victim, point, process)
    ]
    return found


@pytest.mark.usefixtures("redis_server")  # skips where there is no server
def test_nothing_is_lost_or_doubled_or_left_behind() -> None:
    """A step dies before its next one is published, a last item alone and with its worker.

    Each has committed and published nothing. The values arrive, nothing ran twice, and in the
    end Redis has nothing queued, unacknowledged or due.
    """
    verdicts = run(
        [
            case_of("item2", Point.COMMITTED, Process.WORKER),
            case_of("item2", Point.COMMITTED, Process.CHILD),
            case_of("two", Point.COMMITTED, Process.CHILD),
        ],
        lanes=2,
    )
    assert [verdict.text for verdict in verdicts if not verdict.kept] == []
    assert not any(verdict.ran_again for verdict in verdicts)


BARE_STEP = next(
    case
    for case in cases([Contestant.BARE])
    if (case.row, case.process) == (ROWS[0], Process.CHILD)
)
OUR_STEP = case_of("two", Point.COMMITTED, Process.CHILD)
OUR_HANDLER = case_of("two", Point.HANDLED, Process.CHILD)


@pytest.mark.parametrize(
    ("case", "changed", "text"),
    [
        (BARE_STEP, {}, "kept 1.0 s"),
        (BARE_STEP, {"value": None, "recovered_s": None}, "LOST"),
        (BARE_STEP, {"left": ("3 chord keys",)}, "kept 1.0 s; left: 3 chord keys"),
        (BARE_STEP, {"runs": NORMAL.runs + Counter(two=1)}, "kept, ran again 1.0 s"),
        (BARE_STEP, {"runs": NORMAL.runs + Counter(two=1, tail=1)}, "DOUBLED tail 1.0 s"),
        (OUR_HANDLER, {"runs": NORMAL.runs + Counter(two=1)}, "kept, ran again 1.0 s"),
        (OUR_STEP, {"runs": NORMAL.runs + Counter(two=1)}, "DOUBLED two 1.0 s"),
        (OUR_STEP, {"deliveries": Counter(three=1)}, "DOUBLED delivery to three 1.0 s"),
        (OUR_STEP, {"value": ("one", "two")}, "WRONG 1.0 s"),
    ],
)
def test_a_verdict_counts_what_follows_the_interrupted_task(
    case: Case, changed: dict[str, object], text: str
) -> None:
    """The interrupted task may run again; once Threadloom has committed it may not."""
    assert judge(case, replace(NORMAL, **changed), NORMAL).text == text
