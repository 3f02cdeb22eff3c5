"""Organisms on Celery: the app, the listeners' tasks, delivery, recovery and injection.

`celery -A tasks worker` finds `app` here. It is made when it is first asked for, from the
organism file named in THREADLOOM_ORGANISM: importing this package reads nothing.
"""

from __future__ import annotations

import tasks.startup as _startup

_startup.check_packages()  # before what follows imports from them

from config import ThreadloomError as _ThreadloomError  # noqa: E402
from tasks.application import (  # noqa: E402
    app_from_environment,
    assemble,
    create_app,
    load_organism,
)
from tasks.dead_letters import (  # noqa: E402
    ReplayRefusedError,
    dead_letters,
    drop_dead_letter,
    find_dead_letter,
    replay_dead_letter,
)
from tasks.injection import answer_wait, inject, inject_many, read_results  # noqa: E402
from tasks.killing import kill  # noqa: E402
from tasks.runtime import Runtime, runtime_of  # noqa: E402

__all__ = [
    "ReplayRefusedError",
    "Runtime",
    "answer_wait",
    "app_from_environment",
    "assemble",
    "create_app",
    "dead_letters",
    "drop_dead_letter",
    "find_dead_letter",
    "inject",
    "inject_many",
    "kill",
    "load_organism",
    "read_results",
    "replay_dead_letter",
    "runtime_of",
]


def __getattr__(name: str) -> object:
    if name == "app":
        globals()["app"] = found = _app()
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _app() -> object:
    try:
        return app_from_environment()
    except _ThreadloomError as exc:
        _startup.leave_celery(exc)
        raise
    except AttributeError as exc:
        # Celery would say that this module has no app, and hide what is wrong.
        raise RuntimeError("the Celery app could not be made") from exc
