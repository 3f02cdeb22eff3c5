"""What came of it: tables, results.json for programs, results.md for the docs, a chart."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contests import Contest

_PACKAGES = ("celery", "kombu", "redis", "hiredis", "lxml", "msgspec", "dramatiq", "dbos")


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
        """Whether ours reaches the bar beside bare Celery's first, and leads the other libraries.

        The further ones of bare Celery are there to be seen beside: `chunks` does much less.
        """
        _, first, *others = self.seconds
        peers = [name for name in others if not name.startswith("bare")]
        leads = all(median(self.ratios(name)) > 1 for name in peers)
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
                        "lowest": round(row.ratios(name)[0], 3),
                        "highest": round(row.ratios(name)[-1], 3),
                    }
                    for name in row.seconds
                ],
            }
            for row in rows
        ],
        "figures": [vars(figure) | {"is_met": figure.is_met} for figure in figures],
    }  # fmt: skip
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "results.md").write_text(markdown(content))
    try:
        from benchmarks.chart import draw
    except ImportError:
        return
    if rows:
        draw(content, out / "results.svg")


def markdown(content: dict[str, Any]) -> str:
    """The tables of results.json, as docs/performance.md shows them."""
    lines = [
        "| work | who | µs each | Threadloom is so many times as fast | bar |",
        "|---|---|---|---|---|",
    ]
    for contest in content["contests"]:
        for place, each in enumerate(contest["contestants"]):
            bar = f"{contest['bar']:g} {'✓' if contest['is_met'] else '✗'}" if place == 1 else ""
            ratio = f"{each['ratio']:.2f} ({each['lowest']:.2f} to {each['highest']:.2f})"
            cells = [
                contest["title"] if not place else "", each["name"], f"{each['us_each']:.0f}",
                ratio if place else "", bar,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += (f"|  | {name}: not installed |  |  |  |" for name in contest["left_out"])
    if content["figures"]:
        lines += ["", "| figure | value | at most |", "|---|---|---|"]
    for figure in content["figures"]:
        mark = "✓" if figure["is_met"] else "✗"
        value = f"{figure['value']:.3g} {figure['unit']}".strip()
        lines.append(f"| {figure['name']} | {value} | {figure['bar']:g} {mark} |")
    packages = ", ".join(f"{name} {found}" for name, found in content["packages"].items())
    where = f"{content['date'][:10]}, Python {content['python']}, {content['machine']}"
    lines += ["", f"{where}: {packages}."]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
