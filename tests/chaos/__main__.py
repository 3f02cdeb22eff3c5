"""`python -m tests.chaos --minutes 5 --seed 7`: the long run, and its table."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.chaos.killer import LONG_WEIGHTS, SIGKILLS, WEIGHTS
from tests.chaos.nursery import Nursery
from tests.chaos.run import Report, chaos
from tests.chaos.verdict import LOST, STUCK, TWICE, WRONG

#: seconds between two strikes; most of them are SIGKILLs: 200 in five minutes
EVERY_S = 0.85
#: minutes from which on a run has outages of minutes, too
LONG_MINUTES = 10.0


def main(
    minutes: Annotated[float, typer.Option(help="how long to strike")] = 5.0,
    seed: Annotated[int | None, typer.Option(help="repeats the strikes of a run")] = None,
    kills_only: Annotated[bool, typer.Option(help="SIGKILLs and nothing else")] = False,
    every: Annotated[float, typer.Option(help="seconds between two strikes")] = EVERY_S,
    tell: Annotated[bool, typer.Option(help="tell of what stood still longest")] = False,
) -> None:
    """Strike two workers, count what became of the conversations, and fail if any suffered."""
    seed = random.randrange(1_000_000) if seed is None else seed
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="threadloom-chaos-"))
    console.print(f"seed {seed}, {minutes:g} minutes, traces in {directory}")
    weights = LONG_WEIGHTS if minutes >= LONG_MINUTES else WEIGHTS
    if kills_only:
        weights = {kind: WEIGHTS[kind] for kind in SIGKILLS}
    nursery = Nursery()
    try:
        report = chaos(
            directory,
            nursery,
            seed=seed,
            duration_s=minutes * 60,
            every_s=every,
            weights=weights,
        )
    finally:
        nursery.close()
    console.print(table(report))
    for flaw in report.flaws:
        console.print(str(flaw), markup=False)
    if tell:
        for each in report.resumed[-10:]:
            console.print(str(each), markup=False)
    if report.flaws or tell:
        console.print(report.story, markup=False)
    for line in report.gave_up:
        console.print(line, markup=False)
    if report.flaws or report.gave_up:
        raise typer.Exit(1)


def table(report: Report) -> Table:
    """A report for people."""
    made = Table(title=f"Chaos, seed {report.seed}", show_header=False)
    made.add_column()
    made.add_column(justify="right")
    for kind, count in report.strikes.most_common():
        made.add_row(kind, str(count))
    made.add_section()
    made.add_row("SIGKILLs", str(report.sigkills))
    made.add_row("conversations", str(report.conversations))
    made.add_row("deliveries that ran a handler", str(report.deliveries))
    made.add_row("runs repeated", str(report.repeated))
    made.add_section()
    for kind in (LOST, TWICE, WRONG, STUCK):
        count = sum(flaw.kind == kind for flaw in report.flaws)
        made.add_row(kind, str(count), style="red" if count else "green")
    count = len(report.gave_up)
    made.add_row("workers that gave up", str(count), style="red" if count else "green")
    made.add_section()
    made.add_row("resumptions measured", str(len(report.resumed)))
    made.add_row("median, s", f"{report.median_s:.2f}")
    made.add_row("worst, s", f"{report.worst_s:.2f}")
    made.add_row("longest silence of a conversation, s", f"{report.silence_s:.2f}")
    return made


if __name__ == "__main__":
    typer.run(main)
