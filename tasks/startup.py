"""What `celery -A tasks` meets first: a check of its packages, and errors that can be read.

Celery prints a traceback for whatever loading its app raises. For an organism that cannot
start, the text of the error says more, so inside Celery's own command it ends the process.
This module imports nothing of the project: see `config/startup.py`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import click

#: as for a command that was called wrongly
EXIT_STATUS = 2


def check_packages() -> None:
    """Raise ImportError, naming the file, if a package of ours is shadowed by another."""
    startup = runpy.run_path(str(Path(__file__).parents[1] / "config" / "startup.py"))
    try:
        startup["require_own_packages"]()
    except ImportError as exc:
        leave_celery(exc)
        raise


def leave_celery(error: Exception) -> None:
    """Print the error and end the process, if this is the `celery` command; else return."""
    command = sys.modules.get("celery.bin.celery")  # loaded if it runs; else not worth it
    context = click.get_current_context(silent=True)
    if command is None or context is None or context.find_root().command is not command.celery:
        return
    sys.stderr.write(f"Error: {error}\n")
    raise SystemExit(EXIT_STATUS)
