"""An organism in a Celery app: in one made for it, or in one that a team has already."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.utils.functional import maybe_list

from threadloom.config import ConfigurationError, OrganismConfig, Problem, read
from threadloom.config.celery_settings import (
    celery_settings,
    registry_url,
    registry_url_of,
    setting_faults,
)
from threadloom.primitives import SYSTEM_LISTENERS, SYSTEM_NAMES
from threadloom.routing import Organism, build_organism
from threadloom.routing.backends import SharedBackend, connect
from threadloom.tasks.consumer import PatientConsumer
from threadloom.tasks.currency import make_current
from threadloom.tasks.delivery import Deliverer
from threadloom.tasks.django import set_up_django
from threadloom.tasks.events import EventBatches
from threadloom.tasks.gate import MessageGate
from threadloom.tasks.listener import register_listeners
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.queues import add_queues, with_rates, with_routes
from threadloom.tasks.recovery import RecoveryStep
from threadloom.tasks.runtime import Runtime
from threadloom.tasks.startup import import_from_working_directory, told_by_celery
from threadloom.tasks.task_names import name_tasks_publicly
from threadloom.tasks.unregistered import TellCanvas

ORGANISM_VARIABLE = "THREADLOOM_ORGANISM"
REDIS_VARIABLE = "THREADLOOM_REDIS_URL"


def load_organism(
    path: str | Path,
    *,
    environ: Mapping[str, str] | None = None,
    further: Callable[[OrganismConfig], Sequence[Problem]] = lambda _config: (),
) -> tuple[OrganismConfig, Organism]:
    """Read an organism file and resolve it; ConfigurationError has every problem at once.

    This is what `threadloom check` runs, and what every start runs. `further` says what else is
    wrong with the file where it is to run.
    """
    set_up_django(str(path))
    name_tasks_publicly()
    config, problems = read(path, environ=environ, known_system_names=SYSTEM_NAMES)
    organism = build_organism(
        config,
        system_listeners=SYSTEM_LISTENERS,
        problems=[*problems, *further(config)],
        source=str(path),
    )
    return config, organism


def create_app(
    organism_file: str | Path,
    *,
    redis_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    backend: SharedBackend | None = None,
) -> Celery:
    """Return the Celery app of an organism file, its listeners registered as tasks.

    `redis_url` is where broker, results and registry live unless the file says otherwise;
    default: `THREADLOOM_REDIS_URL`. Raises ConfigurationError.
    """
    environ = os.environ if environ is None else environ
    config, organism = load_organism(organism_file, environ=environ)
    return assemble(
        config, organism, redis_url=redis_url or environ.get(REDIS_VARIABLE), backend=backend
    )


def assemble(
    config: OrganismConfig,
    organism: Organism,
    *,
    redis_url: str | None = None,
    backend: SharedBackend | None = None,
) -> Celery:
    """Return the Celery app of an organism that was read and resolved before."""
    settings = celery_settings(config, redis_url=redis_url)
    if backend is None:
        needed = config.organism.backend.type == "redis"
        url = registry_url(config, redis_url=redis_url, required=needed)
        backend = connect(config, url=url)
    app = Celery(organism.name, set_as_current=False)
    app.conf.update(settings)
    for name in ("imports", "include"):  # modules of tasks may lie beside the handlers
        modules = maybe_list(app.conf[name]) or ()
        app.conf[name] = [organism.space.full_name(module) for module in modules]
    _join(app, organism, backend)
    make_current(app)
    return app


def attach(
    app: Celery,
    organism_file: str | Path,
    *,
    redis_url: str | None = None,
    environ: Mapping[str, str] | None = None,
    backend: SharedBackend | None = None,
) -> Celery:
    """Add an organism to a Celery app that a team already has, and return the app.

    Its workers then run the listeners beside the app's own tasks, and consume from the
    organism's queues beside the app's own; `-Q` chooses among all of them. The app keeps its
    broker, result backend, tasks, queues and settings: what delivery stands on is set on the
    listeners' tasks. Call it where the app is made, after it has its settings.

    The registry is on the Redis that the organism file names, else `redis_url`, else
    `THREADLOOM_REDIS_URL`, else the app's own broker or result backend if that is a Redis.

    Raises ConfigurationError, with every problem at once: faults of the file, Celery settings in
    it (they belong to the app), a task of the app with a listener's name, settings of the app that
    no organism can run with, or another organism that was attached before.
    """
    environ = os.environ if environ is None else environ
    with told_by_celery():
        config, organism = load_organism(organism_file, environ=environ)
        problems = _attachment_problems(app, config, organism)
        if problems:
            raise ConfigurationError(config.source, problems)
        if backend is None:
            given = redis_url or environ.get(REDIS_VARIABLE) or registry_url_of(app.conf)
            needed = config.organism.backend.type == "redis"
            backend = connect(config, url=registry_url(config, redis_url=given, required=needed))
        _join(app, organism, backend, kept=set(app.amqp.queues))
    return app


def _attachment_problems(app: Celery, config: OrganismConfig, organism: Organism) -> list[Problem]:
    attached = getattr(app, "threadloom", None)
    if isinstance(attached, Runtime):
        text = f"the app has the organism {attached.organism.name!r} already; make another app"
        return [Problem("organism.name", text)]
    problems = [
        Problem(f"organism.celery.{name}", "is the attached app's to say; set it there")
        for name in config.organism.celery
    ]
    problems += [
        Problem(f"the app's {name}", message)
        for name, message in setting_faults(app.conf, organism.listeners)
    ]
    positions = {entry.name: entry.position for entry in config.listeners}
    problems += [
        Problem(
            f"listeners[{positions[name]}].name" if name in positions else "the app's tasks",
            f"the app has a task named {name!r} already; rename one of them",
        )
        for name in organism.listeners
        if name in app.tasks
    ]
    return problems


def _join(
    app: Celery, organism: Organism, backend: SharedBackend, *, kept: Collection[str] = ()
) -> None:
    """Give an app the organism's queues, tasks and bootsteps; `kept`: see `add_queues`."""
    organism = with_rates(with_routes(organism, app), app)
    add_queues(organism, app, kept=kept)
    runtime = Runtime(organism, backend)
    app.threadloom = runtime  # type: ignore[attr-defined]
    publisher = Publisher(app, runtime)
    deliverer = Deliverer(
        runtime, publisher, hard_limit_s=lambda name: getattr(app.tasks.get(name), "time_limit", 0)
    )
    register_listeners(app, organism, runtime, deliverer)
    app.steps["worker"].add(RecoveryStep)
    app.steps["consumer"].update({EventBatches, PatientConsumer, MessageGate, TellCanvas})


def app_from_environment() -> Any:
    """The app that `celery -A threadloom` runs: of THREADLOOM_ORGANISM, else ./organism.yaml."""
    path = os.environ.get(ORGANISM_VARIABLE)
    if path is None and Path("organism.yaml").is_file():
        path = "organism.yaml"
    if path is None:
        raise ConfigurationError(
            "celery -A threadloom",
            [
                Problem(
                    "", f"name the organism file in {ORGANISM_VARIABLE}, or start where one lies"
                )
            ],
        )
    return create_app(path)


def app_of_this_process() -> Any:
    """The app that `celery -A threadloom` runs, current and default in this process.

    Made by `app_from_environment`. Inside the `celery` command a ThreadloomError ends the process
    with its text; elsewhere it is raised.
    """
    with told_by_celery():
        import_from_working_directory()
        app = app_from_environment()
        # `shared_task`, `current_app` and `signature` in the modules that it imports mean it.
        app.set_current()
        app.set_default()
    return app
