"""Names of Celery tasks that are defined in an organism's own modules.

A handler may import a task from a module beside it, `from billing import charge`, and call
`charge.delay()`. Celery names a task without a name of its own after its module, and the worker
that carries it out, often another project's, knows it as `billing.charge`.
"""

from __future__ import annotations

from celery import Celery

from threadloom.config import public

_given = Celery.gen_task_name


def name_tasks_publicly() -> None:
    """Have every Celery app of this process leave private module names out of task names.

    The apps in question are the users' own, made in their modules, so that a subclass of ours
    would not reach them. Names of all other tasks stay as they are.
    """
    Celery.gen_task_name = _gen_task_name  # type: ignore[assignment, method-assign]


def _gen_task_name(app: Celery, name: str, module: str) -> str:
    return str(_given(app, name, public(module)))
