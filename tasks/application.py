"""The Celery app of an organism."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Queue

from threadloom.config import ConfigurationError, OrganismConfig, Problem, read
from threadloom.config.celery_settings import celery_settings, registry_url
from threadloom.primitives import SYSTEM_LISTENERS, SYSTEM_NAMES
from threadloom.routing import Organism, build_organism
from threadloom.routing.backends import SharedBackend, connect
from threadloom.tasks.delivery import Deliverer
from threadloom.tasks.events import EventBatches
from threadloom.tasks.listener import register_listeners
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.recovery import RecoveryStep
from threadloom.tasks.runtime import Runtime

ORGANISM_VARIABLE = "THREADLOOM_ORGANISM"
REDIS_VARIABLE = "THREADLOOM_REDIS_URL"


def load_organism(
    path: str | Path, *, environ: Mapping[str, str] | None = None
) -> tuple[OrganismConfig, Organism]:
    """Read an organism file and resolve it; ConfigurationError has every problem at once.

    This is what `threadloom check` runs, and what every start runs.
    """
    config, problems = read(path, environ=environ, known_system_names=SYSTEM_NAMES)
    organism = build_organism(
        config, system_listeners=SYSTEM_LISTENERS, problems=problems, source=str(path)
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
    app.conf.task_queues = queues(organism, str(app.conf.task_default_queue))
    runtime = Runtime(organism, backend)
    app.threadloom = runtime  # type: ignore[attr-defined]
    publisher = Publisher(app, runtime)
    deliverer = Deliverer(
        runtime, publisher, hard_limit_s=lambda name: getattr(app.tasks.get(name), "time_limit", 0)
    )
    register_listeners(app, organism, runtime, deliverer)
    app.steps["worker"].add(RecoveryStep)
    app.steps["consumer"].add(EventBatches)
    return app


def queues(organism: Organism, default: str) -> list[Queue]:
    """Every queue that a listener names, the default one first: a worker without -Q serves all."""
    own = sorted({entry.queue for entry in organism.listeners.values() if entry.queue})
    return [Queue(name, routing_key=name) for name in dict.fromkeys([default, *own])]


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
