"""Everything side by side in one run, as ratios.

    make bench                          # in an environment of its own, with Dramatiq and DBOS
    python -m benchmarks.suite [--only queued,local] [--rounds N] [--out DIRECTORY]

The contestants of a row run in turn, round by round, so that a drift of the machine meets all of
them; a row's ratio is the median over its rounds. Whoever is not installed is left out, by name.
Writes results.json, and results.svg where matplotlib is there. Ends with status 1 if a bar is not
reached.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.contests import CONTESTS, Contest, buffer, calls
from benchmarks.stage import Stage, stage

RESULTS = Path(__file__).parent / "results"
#: items of the longest buffer, and of the one it is held against
MANY, FEW = 100_000, 100
_PACKAGES = ("celery", "kombu", "redis", "hiredis", "lxml", "dramatiq", "dbos")


@dataclass
class Row:
    """A contest's outcome: seconds per round, by contestant."""

    contest: Contest
    seconds: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def ours(self) -> str:
        return next(iter(self.contest.contestants))

    def micros(self, name: str) -> float:
        """Microseconds per piece, the median."""
        return median(self.seconds[name]) / self.contest.count_of(name) * 1e6

    def ratios(self, name: str) -> list[float]:
        """How many times as fast ours was, round by round, the smallest first."""
        own, theirs = self.contest.count_of(self.ours), self.contest.count_of(name)
        pairs = zip(self.seconds[self.ours], self.seconds[name], strict=True)
        return sorted((their_s / theirs) / (our_s / own) for our_s, their_s in pairs)

    @property
    def is_met(self) -> bool:
        """Whether ours reaches the bar beside the first of the others, and leads the rest."""
        _, first, *others = self.seconds
        leads = all(median(self.ratios(name)) > 1 for name in others)
        return median(self.ratios(first)) >= self.contest.bar and leads


@dataclass(frozen=True)
class Figure:
    """One number that is no contest."""

    name: str
    value: float
    bar: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value <= self.bar


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
        for items in (FEW, 10_000):
            with on.pushed("local") as sizes[items]:
                buffer(items)(on)
    return [
        Figure("bytes of hop 100 to those of hop 1", hops[100] / hops[1], 1.005),
        Figure(
            "bytes per message, buffer of 10000 to one of 100",
            median(sizes[10_000]) / median(sizes[FEW]), 1.005,
        ),
        Figure("messages of a buffer of 10000, per item", len(sizes[10_000]) / 10_000, 0.1),
    ]  # fmt: skip


def show(rows: list[Row], figures: list[Figure], console: Console) -> None:
    """Print the tables."""
    table = Table("what", "who", "µs each", "Threadloom is … times as fast", "bar")
    for row in rows:
        for name in row.seconds:
            ratios = row.ratios(name)
            shown = f"{median(ratios):.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            is_first = name == list(row.seconds)[1]
            bar = f"{row.contest.bar:g} {'✓' if row.is_met else '✗'}" if is_first else ""
            own = name == row.ours
            title = row.contest.title if own else ""
            table.add_row(title, name, f"{row.micros(name):.0f}", "" if own else shown, bar)
        for name in row.left_out:
            table.add_row("", f"{name}: not installed", "", "", "")
        table.add_section()
    console.print(table)
    others = Table("figure", "value", "at most")
    for figure in figures:
        value = f"{figure.value:.3g} {figure.unit}"
        others.add_row(figure.name, value, f"{figure.bar:g} {'✓' if figure.is_met else '✗'}")
    if figures:
        console.print(others)


def write(rows: list[Row], figures: list[Figure], out: Path) -> None:
    """Write results.json, and the chart if matplotlib is there."""
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "contests": [
            {
                "name": row.contest.name, "title": row.contest.title, "bar": row.contest.bar,
                "is_met": row.is_met, "left_out": row.left_out,
                "contestants": [
                    {
                        "name": name, "count": row.contest.count_of(name),
                        "seconds": [round(each, 6) for each in row.seconds[name]],
                        "us_each": round(row.micros(name), 1),
                        "ratio": round(median(row.ratios(name)), 3),
                    }
                    for name in row.seconds
                ],
            }
            for row in rows
        ],
        "figures": [vars(figure) | {"is_met": figure.is_met} for figure in figures],
    }  # fmt: skip
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    try:
        from benchmarks.chart import draw
    except ImportError:
        return
    draw(content, out / "results.svg")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
