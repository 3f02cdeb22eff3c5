"""`python -m examples.census`: take the census of the standard library of this interpreter."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from celery.exceptions import TimeoutError as NotYet
from celery.result import AsyncResult
from rich.console import Console

from examples.census.deployment import Deployment, WorkerEndedError, deployed
from examples.census.messages import Census, Report
from examples.census.progress import Watch, display
from examples.census.terminal import print_report
from threadloom import ThreadloomError, tasks
from threadloom.routing import ConversationError, payload_type

DIRECTOR = "census.director"
#: seconds between two looks at the progress
_LOOK_S = 0.2


def cores() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(
    workers: Annotated[
        int, typer.Option(min=1, help="Worker processes; as many as there are cores.")
    ] = cores(),  # read once, for the help text too
    out: Annotated[Path, typer.Option(help="Folder of the HTML page.")] = Path("build/census"),
    limit: Annotated[int, typer.Option(min=0, help="Measure only so many files; 0: all.")] = 0,
    root: Annotated[
        Path,
        # Absolute, for the worker has a working directory of its own.
        typer.Option(
            help="Folder to take the census of.", exists=True, file_okay=False, resolve_path=True
        ),
    ] = Path(sysconfig.get_path("stdlib")),  # noqa: B008
) -> None:
    """Take the census of a folder of Python files, by default of the standard library."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    started = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="census-") as directory,
            deployed(Path(directory), processes=workers) as deployment,
        ):
            report, messages = take_census(deployment, Census(str(root), limit), console)
    except (ConversationError, WorkerEndedError, ThreadloomError) as exc:
        Console(stderr=True).print(f"The census failed: {exc}", style="red", markup=False)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt:
        Console(stderr=True).print("The census was interrupted; everything is stopped.")
        raise typer.Exit(128 + signal.SIGINT) from None
    seconds = time.monotonic() - started
    print_report(console, report)
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    page.write_text(report.page, encoding="utf-8")
    files = report.totals.files + len(report.failures)
    console.print(
        f"{files:,} files in {seconds:.1f} s, start-up included: {messages:,} messages, "
        f"{workers} worker processes.\nThe whole report: [bold]{page.resolve()}[/]",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def take_census(deployment: Deployment, census: Census, console: Console) -> tuple[Report, int]:
    """Return the report, and how many messages it took. Shows progress meanwhile.

    Raises ConversationError or WorkerEndedError.
    """
    result = tasks.inject(deployment.app, DIRECTOR, census)
    backend = tasks.runtime_of(deployment.app).backend
    watch = Watch(backend, result.id)
    try:
        with display(console) as shown:
            while not _has_ended(result):
                deployment.check()
                shown.update(watch.look())
            shown.update(watch.look())
        value = result.get()
    finally:
        # A traceback may keep the result until its connections are closed; it would use them.
        result.backend.remove_pending_result(result)
        result.backend = None
    conversation = backend.conversation(result.id)
    report: Report = payload_type(Report).from_json(value["payload"])
    return report, conversation.deliveries if conversation else 0


def _has_ended(result: AsyncResult[Any]) -> bool:
    """Whether the conversation has ended, or ends within the time between two looks."""
    try:
        result.get(timeout=_LOOK_S, propagate=False)
    except NotYet:
        return False
    return True


if __name__ == "__main__":
    typer.run(main)
