"""The report on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.census.messages import Failure, Report
from examples.census.report import dotted_name

#: rows of each table
ROWS = 10


def print_report(console: Console, report: Report) -> None:
    """Print the totals, the rankings and the files that failed."""
    console.print()
    console.print(_totals(report))
    console.print(Columns(_rankings(report), padding=(0, 3)))
    if report.failures:
        console.print(_failures(report.failures))


def _totals(report: Report) -> Table:
    totals = report.totals
    numbers = {
        "files": totals.files,
        "lines": totals.lines,
        "code": totals.code_lines,
        "functions": totals.functions,
        "classes": totals.classes,
        "complexity": totals.complexity,
        "failed": len(report.failures),
    }
    table = _table(f"Python {report.python_version}")
    for name in numbers:
        table.add_column(name, justify="right")
    table.add_row(*(f"{number:,}" for number in numbers.values()))
    return table


def _rankings(report: Report) -> Iterable[Table]:
    hardest = [(dotted_name(h), h.function.complexity) for h in report.hardest]
    yield _ranking("Most complex functions", "complexity", hardest)
    yield _ranking("Longest modules", "code", [(m.path, m.code_lines) for m in report.longest])
    imported = [(i.module, i.importers) for i in report.imported]
    yield _ranking("Most imported modules", "files", imported)


def _ranking(title: str, unit: str, rows: Sequence[tuple[str, int]]) -> Table:
    table = _table(title)
    table.add_column("name", no_wrap=True)
    table.add_column(unit, justify="right")
    for name, number in rows[:ROWS]:
        table.add_row(Text(name), f"{number:,}")
    return table


def _failures(failures: Sequence[Failure]) -> Table:
    table = _table(f"Failed: {len(failures)}")
    table.add_column("file", style="red")
    table.add_column("reason")
    for failure in failures:
        table.add_row(Text(failure.path), Text(failure.reason))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        header_style="dim", pad_edge=False,
    )  # fmt: skip
