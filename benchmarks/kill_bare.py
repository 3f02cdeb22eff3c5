"""The other contestant: the same canvases in bare Celery, killed between Celery's own effects.

Nothing of Celery is replaced: its Redis result backend and its request are subclassed by
methods that call `strike` and then do what Celery does. `app` is the worker's, made when it is
first asked for.
"""

from __future__ import annotations

import os
from typing import Any

import celery
from celery import Celery, Signature, current_task, signals
from celery.backends.redis import RedisBackend
from celery.worker.request import Request

from benchmarks.kill_points import URL_VARIABLE, VISIBILITY_VARIABLE, Place, record, strike
from threadloom.config.celery_settings import celery_url

OPENER = "opener"
#: shared by both contestants. Stock Celery looks for messages of lost workers each 100 s only
#: (interval 10, throttle 10), and a worker killed while it looks keeps all others from it for
#: 300 s.
TRANSPORT = {
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 2,
}


def victim_of(arguments: Any) -> str:
    """The name of the task with these arguments; "" if it is none of the canvas."""
    return str(arguments[-1]) if arguments else ""


class StruckBackend(RedisBackend):
    """Celery's Redis backend, with places to die in."""

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        strike(victim_of(request.args), Place.CONTINUED)
        super().mark_as_done(task_id, result, request, *args, **kwargs)
        strike(victim_of(request.args), Place.STORED)  # for tasks that are no parts of a chord

    def on_chord_part_return(self, request: Any, *args: Any, **kwargs: Any) -> None:
        strike(victim_of(request.args), Place.STORED)
        super().on_chord_part_return(request, *args, **kwargs)

    @property
    def _chord_part_return_script(self) -> Any:
        script: Any = super()._chord_part_return_script  # type: ignore[misc]
        return _then(script, Place.COUNTED)

    @property
    def _chord_claim_extend_script(self) -> Any:
        script: Any = super()._chord_claim_extend_script  # type: ignore[misc]
        return _then(script, Place.CLAIMED)

    @property
    def _chord_cleanup_script(self) -> Any:
        strike(victim_of(current_task.request.args), Place.BODY_PUBLISHED)
        return super()._chord_cleanup_script  # type: ignore[misc]


def _then(script: Any, place: Place) -> Any:
    def run(**kwargs: Any) -> Any:
        answer = script(**kwargs)
        strike(victim_of(current_task.request.args), place)
        return answer

    return run


class PolledBackend(RedisBackend):
    """Celery's Redis backend for who only looks at results now and then: it subscribes to none."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        pass


class StruckRequest(Request):
    """The main process's view of a task, with a place to die in."""

    def acknowledge(self) -> None:
        strike(victim_of(self.args), Place.ACKNOWLEDGING)
        super().acknowledge()


class BareTask(celery.Task):  # type: ignore[type-arg]
    """A task of the bare canvases."""

    abstract = True
    Request = "benchmarks.kill_bare:StruckRequest"


def make_app(redis_url: str, *, backend: type[RedisBackend] = PolledBackend) -> Celery:
    """The bare app, acknowledging late like ours; its workers are told a visibility timeout."""
    url = celery_url(redis_url)
    assert url.startswith("redis+socket://"), "the kill matrix runs on an embedded Redis"
    visibility_s = int(os.environ.get(VISIBILITY_VARIABLE, "3600"))
    prefix = f"{backend.__module__}:{backend.__name__}+"
    app = Celery("bare", set_as_current=False)
    app.conf.update(
        broker_url=url,
        result_backend=url.replace("redis+", prefix, 1),
        broker_transport_options={"visibility_timeout": visibility_s, **TRANSPORT},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="bare.work", base=BareTask, shared=False)
    def work(trail: list[Any], case: str, name: str) -> list[str]:
        """Add one's name to the trail, or to the trails of a chord's parts."""
        record(case, name)
        strike(name, Place.HANDLER)
        names = [n for part in trail for n in (part if isinstance(part, list) else [part])]
        return [*names, name]

    @app.task(name="bare.open", base=BareTask, bind=True, shared=False)
    def open_chord(self: Any, case: str, name: str) -> None:
        """Become a chord, as Celery's documentation advises."""
        record(case, name)
        raise self.replace(chord(app, case))

    return app


def chain(app: Celery, case: str) -> Signature[Any]:
    """Three steps and a tail."""
    first, *rest = (_step(app, case, name) for name in ("one", "two", "three", "tail"))
    return celery.chain(first.clone(args=([],)), *rest)


def chord(app: Celery, case: str) -> Signature[Any]:
    """Three parts, a body, and a tail."""
    parts = [_step(app, case, f"item{n}").clone(args=([],)) for n in range(3)]
    body = celery.chain(_step(app, case, "body"), _step(app, case, "tail"))
    return celery.chord(parts, body, app=app)


def opened_chord(app: Celery, case: str) -> Signature[Any]:
    """The same chord, started by a task."""
    return app.signature("bare.open", args=(case, OPENER), immutable=True)


def _step(app: Celery, case: str, name: str) -> Signature[Any]:
    return app.signature("bare.work", args=(case, name))


@signals.task_prerun.connect
def _taken(args: Any, **_: Any) -> None:
    strike(victim_of(args), Place.TAKEN)


@signals.task_postrun.connect
def _finished(args: Any, **_: Any) -> None:
    strike(victim_of(args), Place.FINISHED)


@signals.after_task_publish.connect
def _published(**_: Any) -> None:
    if current_task and current_task.name == "bare.open":
        strike(OPENER, Place.HALFWAY)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = made = make_app(os.environ[URL_VARIABLE], backend=StruckBackend)
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
