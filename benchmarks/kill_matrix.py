"""Kill workers between two effects: a bare Celery canvas beside the same one of Threadloom.

    python -m benchmarks.kill_matrix [--json FILE] [--lanes 3]

Each cell is one run: a chain or chord of bare Celery, or a sequence or buffer, on real workers
and a private Redis, in which one process gets SIGKILL at one moment: the pool child, or the
whole worker. Then it is given the visibility timeout and more, and what its tasks did is
counted. Ends with status 1 if Threadloom lost, doubled or left anything. docs/guarantees.md
has the table.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.kill_cases import ROWS, Case, Contestant, Verdict, cases
from benchmarks.kill_lane import Lane
from benchmarks.kill_points import Process
from threadloom.service import EmbeddedRedis

#: whose canvases a lane runs, and the visibility timeout of its workers
Kind = tuple[Contestant, int]


def run(wanted: Sequence[Case], *, lanes: int, progress: Progress | None = None) -> list[Verdict]:
    """Run cases on a private Redis, in so many lanes for each contestant; in their order."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kill-")))
        server = stack.enter_context(EmbeddedRedis(folder / "redis", persistent=False))
        queues = _queues(wanted)
        pool = stack.enter_context(ThreadPoolExecutor(lanes * len(queues)))
        bar = progress.add_task("kills", total=len(wanted)) if progress else None
        results: dict[Case, Verdict] = {}

        def lane(number: int, kind: Kind, left: queue.SimpleQueue[Case]) -> None:
            name = f"{kind[0].name.lower()}{number}"
            with Lane(*kind, server.url(number), folder / name) as open_lane:
                while not left.empty():
                    try:
                        case = left.get_nowait()
                    except queue.Empty:  # another lane was faster
                        return
                    results[case] = open_lane.run(case)
                    if progress is not None and bar is not None:
                        progress.advance(bar)

        futures: list[Future[None]] = []
        for kind, own in queues.items():
            for _ in range(min(lanes, own.qsize())):
                futures.append(pool.submit(lane, len(futures), kind, own))
        for future in futures:
            future.result()
    return [results[case] for case in wanted]


def _queues(wanted: Sequence[Case]) -> dict[Kind, queue.SimpleQueue[Case]]:
    """The cases by the kind of lane they need, what takes longest first."""
    queues: dict[Kind, queue.SimpleQueue[Case]] = {}
    for case in sorted(wanted, key=lambda case: case.process is Process.CHILD):
        kind = case.contestant, case.row.visibility_s
        queues.setdefault(kind, queue.SimpleQueue()).put(case)
    return queues


def table(verdicts: Sequence[Verdict]) -> Table:
    """The matrix, as Markdown."""
    by_cell = {(v.case.row, v.case.contestant, v.case.process): v for v in verdicts}
    made = Table(box=box.MARKDOWN)
    for title in ("canvas", "killed", "at the moment"):
        made.add_column(title)
    for contestant in Contestant:
        for process in Process:
            made.add_column(f"{contestant}: {process} killed")
    for row in ROWS:
        cells = [
            by_cell.get((row, contestant, process))
            for contestant in Contestant
            for process in Process
        ]
        if any(cells):
            texts = [cell.text if cell else "-" for cell in cells]
            made.add_row(row.canvas, row.victim, row.moment, *texts)
    return made


def summary(verdicts: Sequence[Verdict], contestant: Contestant) -> str:
    """One line of counts."""
    own = [v for v in verdicts if v.case.contestant is contestant]
    times = sorted(v.observation.recovered_s or 0 for v in own if not v.lost)
    middle, worst = (times[len(times) // 2], times[-1]) if times else (0.0, 0.0)
    return (
        f"{contestant}: {len(own)} kills, {sum(v.lost or v.wrong for v in own)} lost, "
        f"{sum(bool(v.doubled) for v in own)} doubled, "
        f"{sum(bool(v.observation.left) for v in own)} left something behind; "
        f"from the kill to the value {middle:.1f} s (median), {worst:.1f} s (worst)"
    )


def main() -> None:
    """Run the matrix and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every observation to this file")
    parser.add_argument("--lanes", type=int, default=3, help="cases at a time per contestant")
    options = parser.parse_args()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        verdicts = run(cases(), lanes=options.lanes, progress=progress)
    console = Console(width=None if sys.stdout.isatty() else 400)
    console.print(table(verdicts))
    for contestant in Contestant:
        console.print(summary(verdicts, contestant), highlight=False)
    if options.json:
        options.json.write_text(json.dumps([v.as_json() for v in verdicts], indent=1))
    if any(not v.kept for v in verdicts if v.case.contestant is Contestant.OURS):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
