"""The command line as a whole: its subcommands, and each error shown as one message."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from threadloom.config import (
    ConfigurationError,
    RegistryUnavailableError,
    ThreadloomError,
    TransientError,
)
from threadloom.service.commands import dead_letters
from threadloom.service.commands.check import check
from threadloom.service.commands.kill import kill
from threadloom.service.commands.options import INTERRUPTED, INVALID, UNAVAILABLE
from threadloom.service.commands.send import send
from threadloom.service.commands.thread import thread
from threadloom.service.commands.threads import threads
from threadloom.service.commands.up import up
from threadloom.service.deployment import FOREIGN_VARIABLES
from threadloom.service.display import console, counted, plain


class _Interruptible(TyperGroup):
    """The commands, of which each may be ended by Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console(stderr=True).print("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="threadloom",
    cls=_Interruptible,
    help=(
        "Run organisms: small typed message handlers, declared in one YAML file, that call each "
        "other as Celery tasks.\n\n"
        "Start one with [bold]threadloom up[/bold], then send it a message from another terminal."
    ),
    epilog=(
        "Exit status: 0 done · 1 the conversation failed, or the worker ended by itself · "
        "2 invalid · 3 no answer in time · 4 not running, or its Redis does not answer · "
        "5 done, but the output could not be written · 130 interrupted"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (up, check, send, threads, thread, kill):
    app.command()(command)
app.add_typer(dead_letters.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            own = version("threadloom")
        except PackageNotFoundError:
            own = "(not installed)"
        print(f"threadloom {own}, Celery {version('celery')}, Python {sys.version.split()[0]}")
        raise typer.Exit


@app.callback()
def _threadloom(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; the default arguments are `sys.argv`'s.

    Every error of the project's tree is shown as one message; others show their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if not (columns.isdecimal() and int(columns)):  # a terminal without a width says 0
        os.environ.pop("COLUMNS", None)
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    try:
        app(arguments, prog_name="threadloom")
    except SystemExit as exc:
        return int(exc.code or 0)
    except ThreadloomError as exc:
        _tell(exc)
        return UNAVAILABLE if isinstance(exc, TransientError) else INVALID
    return 0


def _tell(error: Exception) -> None:
    out = console(stderr=True)
    if isinstance(error, ConfigurationError):
        count = counted(len(error.problems), "problem")
        out.print(Text.assemble((plain(error.source), "bold"), ": ", (count, "bold red")))
        for path, message in error.problems:
            place = f"{plain(path)}: " if path else ""
            line = Text.assemble(("  ✗ ", "red"), (place, "cyan"), plain(message))
            out.print(line, soft_wrap=True)
        return
    where = "Redis does not answer: " if isinstance(error, RegistryUnavailableError) else ""
    out.print(Text.assemble(("Error: ", "bold red"), where, plain(str(error))), soft_wrap=True)
