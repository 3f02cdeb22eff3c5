"""The deployment of an organism on this machine: its file, its Redis and its manager.

The Redis is the one that the file names, else the one in THREADLOOM_REDIS_URL, else the embedded
one that `threadloom up` starts. Each organism file has an embedded Redis of its own in the user's
state directory, so that two organisms of the same name never consume each other's messages.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import redis
from celery import Celery
from platformdirs import user_state_path
from redis.backoff import NoBackoff
from redis.retry import Retry

from threadloom import tasks
from threadloom.config import (
    ConfigurationError,
    OrganismConfig,
    Problem,
    RegistryUnavailableError,
    TransientError,
    load,
)
from threadloom.config.celery_settings import celery_settings, registry_url
from threadloom.primitives import SYSTEM_NAMES
from threadloom.routing import Organism
from threadloom.routing.backends import MANAGER_VARIABLE, SharedBackend, connect
from threadloom.service.embedded_redis import EmbeddedRedis

DEFAULT_FILE = Path("organism.yaml")
ORGANISM_VARIABLE = "THREADLOOM_ORGANISM"
REDIS_VARIABLE = "THREADLOOM_REDIS_URL"
#: environment variables that Celery prefers to an app's settings; they would select another broker
FOREIGN_VARIABLES = (
    "CELERY_APP",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_CONFIG_MODULE",
    "CELERY_LOADER",
    "CELERY_RESULT_BACKEND",
)
#: placeholder for the embedded Redis's URL while the other settings are checked
_SOME_REDIS = "unix:///redis.sock"


class NotRunningError(TransientError):
    """The organism in `organism_file` is not running on this machine."""

    def __init__(self, name: str, organism_file: str) -> None:
        super().__init__(name, organism_file)
        self.name, self.organism_file = name, organism_file

    def __str__(self) -> str:
        named = "" if Path(self.organism_file) == DEFAULT_FILE else f" {self.organism_file}"
        return (
            f"{self.name} is not running here; start it with `threadloom up{named}`, or set "
            f"{REDIS_VARIABLE} to the Redis that it runs on"
        )


def examine(file: Path, environ: Mapping[str, str]) -> tuple[OrganismConfig, Organism]:
    """Return an organism that can be started, or raise ConfigurationError with every problem."""
    return tasks.load_organism(
        file, environ=environ, further=lambda config: _setting_problems(config, environ)
    )


def _setting_problems(config: OrganismConfig, environ: Mapping[str, str]) -> list[Problem]:
    problems = _memory_problems(config)
    try:
        celery_settings(config, redis_url=environ.get(REDIS_VARIABLE) or _SOME_REDIS)
    except ConfigurationError as exc:
        problems += exc.problems
    return problems


def _memory_problems(config: OrganismConfig) -> list[Problem]:
    if config.organism.backend.type != "memory":
        return []
    text = "memory is for one process alone; workers and commands share a redis"
    return [Problem("organism.backend.type", text)]


def needs_embedded_redis(config: OrganismConfig, environ: Mapping[str, str]) -> bool:
    """Whether neither the file nor the environment names a Redis."""
    return not registry_url(config, redis_url=environ.get(REDIS_VARIABLE), required=False)


def embedded_redis(config: OrganismConfig) -> EmbeddedRedis:
    """Return the organism's embedded Redis, not started."""
    return EmbeddedRedis(_own_directory(config))


def manager_door(config: OrganismConfig, environ: Mapping[str, str]) -> Path:
    """Return the door of the manager that the environment names, else of the organism's own."""
    named = environ.get(MANAGER_VARIABLE)
    return Path(named) if named else _own_directory(config) / "manager"


def needs_own_manager(config: OrganismConfig, environ: Mapping[str, str]) -> bool:
    """Whether the backend is `manager` and the environment names no manager."""
    return config.organism.backend.type == "manager" and not environ.get(MANAGER_VARIABLE)


def _own_directory(config: OrganismConfig) -> Path:
    file = Path(config.source).resolve()
    place = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    name = plain_name(config.organism.name)
    return user_state_path("threadloom") / f"{name}-{place}"


def plain_name(name: str) -> str:
    """Return `name` in characters that are valid in a folder's and a host's name, at most 40."""
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "_-" else "_" for c in name)
    return plain[:40]


def running_redis_url(config: OrganismConfig, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the running organism's Redis; None if only the file names one.

    Raises NotRunningError; ConfigurationError for `backend: {type: memory}`, which only one
    process can use.
    """
    if problems := _memory_problems(config):
        raise ConfigurationError(config.source, problems)
    if not needs_embedded_redis(config, environ):
        return environ.get(REDIS_VARIABLE)
    server = embedded_redis(config)
    try:
        with redis.Redis.from_url(
            server.url(), socket_timeout=5, retry=Retry(NoBackoff(), 0)
        ) as client:
            client.ping()
    except redis.BusyLoadingError as exc:
        raise RegistryUnavailableError(f"{config.organism.name} is starting: {exc}") from exc
    except redis.ConnectionError as exc:
        raise NotRunningError(config.organism.name, config.source) from exc
    return server.url()


def running_app(file: Path, environ: Mapping[str, str]) -> Celery:
    """Return the Celery app of a running organism. Raises ConfigurationError, NotRunningError."""
    config, organism = tasks.load_organism(file, environ=environ)
    url = running_redis_url(config, environ)
    backend = _running_backend(config, url, environ)
    return tasks.assemble(config, organism, redis_url=url, backend=backend)


def running_registry(file: Path, environ: Mapping[str, str]) -> SharedBackend:
    """The registry of an organism that runs. Raises ConfigurationError, NotRunningError."""
    tasks.set_up_django(str(file))
    config = load(file, environ=environ, known_system_names=SYSTEM_NAMES)
    return _running_backend(config, running_redis_url(config, environ), environ)


def _running_backend(
    config: OrganismConfig, url: str | None, environ: Mapping[str, str]
) -> SharedBackend:
    door = manager_door(config, environ)
    if needs_own_manager(config, environ) and not door.exists():
        raise NotRunningError(config.organism.name, config.source)
    backend = backend_of(config, url, environ)
    backend.check_format()
    return backend


def backend_of(
    config: OrganismConfig, url: str | None, environ: Mapping[str, str]
) -> SharedBackend:
    """Return the organism's registry, on the Redis `url` or in the manager behind its door."""
    return connect(
        config,
        url=registry_url(config, redis_url=url),
        environ={**environ, MANAGER_VARIABLE: str(manager_door(config, environ))},
    )
