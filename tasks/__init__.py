"""Organisms on Celery: the app, the listeners' tasks, delivery, recovery and injection.

`celery -A tasks worker` finds `app` here. It is made when it is first asked for, from the
organism file named in THREADLOOM_ORGANISM: importing this package reads nothing.
"""

from __future__ import annotations

from typing import Any

from tasks.application import app_from_environment, assemble, create_app, load_organism
from tasks.injection import answer_wait, inject, inject_many
from tasks.runtime import Runtime, runtime_of

__all__ = [
    "Runtime",
    "answer_wait",
    "app_from_environment",
    "assemble",
    "create_app",
    "inject",
    "inject_many",
    "load_organism",
    "runtime_of",
]


def __getattr__(name: str) -> Any:
    if name == "app":
        found = globals()["app"] = app_from_environment()
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
