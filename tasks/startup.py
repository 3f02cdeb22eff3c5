"""What `celery -A threadloom` does when an organism cannot start: it tells the error's own text.

Celery prints a traceback for whatever loading its app raises. Inside Celery's own command the
text of a ThreadloomError says more, so it ends the process in the traceback's place.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from threadloom.config import ThreadloomError
from threadloom.tasks.application import app_from_environment

#: the exit status of a command that was called wrongly
EXIT_STATUS = 2


def app_of_this_process() -> Any:
    """The app that `celery -A threadloom` runs, as `app_from_environment` makes it.

    Ends the process with the error's text inside the `celery` command; elsewhere raises the
    ThreadloomError itself.
    """
    try:
        return app_from_environment()
    except ThreadloomError as exc:
        _leave_celery(exc)
        raise
    except AttributeError as exc:
        # Celery takes an AttributeError for a module without an app, and hides the cause.
        raise RuntimeError("the Celery app could not be made") from exc


def _leave_celery(error: Exception) -> None:
    """Print the error and end the process, if this is the `celery` command; else return."""
    command = sys.modules.get("celery.bin.celery")  # loaded exactly if that command runs
    context = click.get_current_context(silent=True)
    if command is None or context is None or context.find_root().command is not command.celery:
        return
    sys.stderr.write(f"Error: {error}\n")
    raise SystemExit(EXIT_STATUS)
