"""Organisms on Celery: the app, the listeners' tasks, delivery, recovery and injection."""

from threadloom.tasks.application import (
    ORGANISM_VARIABLE,
    REDIS_VARIABLE,
    app_from_environment,
    app_of_this_process,
    assemble,
    attach,
    create_app,
    load_organism,
)
from threadloom.tasks.dead_letters import (
    ReplayRefusedError,
    dead_letters,
    drop_dead_letter,
    find_dead_letter,
    replay_dead_letter,
)
from threadloom.tasks.django import set_up_django
from threadloom.tasks.injection import answer_wait, inject, inject_many, read_results
from threadloom.tasks.killing import kill
from threadloom.tasks.runtime import Runtime, runtime_of
from threadloom.tasks.startup import import_from_working_directory

__all__ = [
    "ORGANISM_VARIABLE",
    "REDIS_VARIABLE",
    "ReplayRefusedError",
    "Runtime",
    "answer_wait",
    "app_from_environment",
    "app_of_this_process",
    "assemble",
    "attach",
    "create_app",
    "dead_letters",
    "drop_dead_letter",
    "find_dead_letter",
    "import_from_working_directory",
    "inject",
    "inject_many",
    "kill",
    "load_organism",
    "read_results",
    "replay_dead_letter",
    "runtime_of",
    "set_up_django",
]
