"""What a process does before it makes the app: where it imports from, and how it tells errors.

Celery prints a traceback for any error of loading its app. The text of a ThreadloomError is more
useful, so within Celery's own command it is printed instead, and the process ends.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from threadloom.config import ThreadloomError

#: the exit status for wrong usage of a command
EXIT_STATUS = 2


def import_from_working_directory() -> None:
    """Let this process import what lies where it was started, as `python -m` does.

    For the commands `threadloom` and `celery`: Celery looks there for the app's module only while
    it imports that, which is too short for the modules that an organism and Django's settings
    name. `check` then finds what a worker finds that is started in the same place.

    Unlike there, the standard library comes first: a `queue.py` among an organism's modules is
    theirs alone, and Celery, which may import the standard one at any time, does not get it.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed: there is nothing in it
        return
    if here not in sys.path:
        installed = {*site.getsitepackages(), site.getusersitepackages()}
        before = (at for at, place in enumerate(sys.path) if place in installed)
        sys.path.insert(next(before, len(sys.path)), here)


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
