"""The `celery` command's message when an organism cannot start: the error's text alone.

Celery prints a traceback for any error of loading its app. The text of a ThreadloomError is more
useful, so within Celery's own command it is printed instead, and the process ends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from threadloom.config import ThreadloomError

#: the exit status for wrong usage of a command
EXIT_STATUS = 2


@contextmanager
def told_by_celery() -> Iterator[None]:
    """End the `celery` command with the text of a ThreadloomError that the body raises.

    In other processes the error propagates. An AttributeError becomes a RuntimeError, because
    Celery would take it for a module without an app and hide its cause.
    """
    try:
        yield
    except ThreadloomError as exc:
        if _is_celery_command():
            sys.stderr.write(f"Error: {exc}\n")
            raise SystemExit(EXIT_STATUS) from None
        raise
    except AttributeError as exc:
        raise RuntimeError("the Celery app could not be made") from exc


def _is_celery_command() -> bool:
    command = sys.modules.get("celery.bin.celery")  # loaded only if that command runs
    context = click.get_current_context(silent=True)
    return (
        command is not None
        and context is not None
        and context.find_root().command is command.celery
    )
