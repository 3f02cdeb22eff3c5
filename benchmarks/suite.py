"""Everything side by side in one run, as ratios.

    make bench                          # in an environment of its own, with Dramatiq and DBOS
    python -m benchmarks.suite [--only queued,local] [--rounds N] [--out DIRECTORY]

The contestants of a row run in turn, round by round, so that a drift of the machine meets all of
them; a row's ratio is the median over its rounds. Whoever is not installed is left out, by name.
Writes results.json and results.md, and results.svg where matplotlib is there. Ends with status 1
if a bar is not reached.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress

from benchmarks.contests import CONTESTS, Contest, buffer, calls
from benchmarks.report import Figure, Row, show, write
from benchmarks.stage import Stage, stage

RESULTS = Path(__file__).parent / "results"
#: items of the longest buffer, and of the one it is held against
MANY, FEW = 100_000, 100


def hold(contest: Contest, rounds: int, folder: Path, progress: Progress) -> Row:
    """Run a contest, each contestant in turn in every round."""
    row, names = Row(contest), list(contest.contestants)
    bar = progress.add_task(contest.title, total=rounds * len(names))
    with stage(folder, processes=contest.processes) as on:
        for name in list(names):
            try:
                contest.contestants[name](on) if contest.count < 1000 else _introduce(name, on)
            except ImportError:
                row.left_out.append(name)
                names.remove(name)
        for _ in range(rounds):
            for name in names:
                row.seconds.setdefault(name, []).append(contest.contestants[name](on))
                progress.advance(bar)
    return row


def _introduce(name: str, on: Stage) -> None:
    """Have a contestant's workers up and warm before a long round."""
    if name.startswith("Threadloom"):
        buffer(1_000)(on)
    elif name.startswith("bare"):
        on.bare().step.delay(1).get(timeout=60)
    elif name.startswith("Dramatiq"):
        on.dramatiq().run_group(100)
    else:
        on.dbos("steps", 10)


def long_buffers(folder: Path) -> list[Figure]:
    """What an item costs in a long buffer and in a short one, and what that takes of a worker."""
    with stage(folder, processes=2) as on:
        buffer(1_000)(on)
        short = median(buffer(FEW)(on) / FEW for _ in range(9))
        before_mib = on.resident_mib("local")
        long = buffer(MANY)(on) / MANY
        growth_mib = on.resident_mib("local") - before_mib
    return [
        Figure(f"an item of {MANY} to one of {FEW}", long / short, 1.3),
        Figure(f"growth of a worker over {MANY} items", growth_mib, 64, "MiB"),
    ]


def messages(folder: Path) -> list[Figure]:
    """What lies on the broker: a late hop beside an early one, a wide fan-out by a narrow one."""
    with stage(folder, processes=1) as on:
        with on.pushed("queued") as hops:
            calls("queued", 201)(on)
        sizes = {}
        for items in (FEW, MANY):
            with on.pushed("local") as sizes[items]:
                buffer(items)(on)
    return [
        Figure("bytes of hop 100 to those of hop 1", hops[100] / hops[1], 1.005),
        Figure(
            f"bytes per message, buffer of {MANY} to one of {FEW}",
            median(sizes[MANY]) / median(sizes[FEW]), 1.005,
        ),
        Figure(f"messages of a buffer of {MANY}, per item", len(sizes[MANY]) / MANY, 0.1),
    ]  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="rows by name, and `figures`; default: all")
    parser.add_argument("--rounds", type=int, default=0, help="default: as each row says")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else [*(c.name for c in CONTESTS), "figures"]
    console = Console()
    rows: list[Row] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Progress(console=console) as bars:
        folder = Path(name)
        for contest in CONTESTS:
            if contest.name in wanted:
                rounds = given.rounds or contest.rounds
                rows.append(hold(contest, rounds, folder / contest.name, bars))
                write(rows, figures, given.out)  # a later row may take its time
        if "figures" in wanted:
            figures = [*long_buffers(folder / "long"), *messages(folder / "messages")]
    show(rows, figures, console)
    write(rows, figures, given.out)
    sys.exit(not all(each.is_met for each in (*rows, *figures)))


if __name__ == "__main__":
    main()
