"""Bare Celery's side of the contests, acknowledged late like ours."""

from __future__ import annotations

import os

from celery import Celery, Task, signature

app = Celery("bare", set_as_current=False)
app.conf.update(
    broker_url=os.environ["BENCHMARK_URL"],
    result_backend=os.environ["BENCHMARK_URL"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
    broker_connection_retry_on_startup=True,
)


@app.task(name="bare.step", shared=False)  # type: ignore[untyped-decorator]
def step(left: int) -> int:
    """One hop of a chain, one item of a chord."""
    return left - 1


@app.task(name="bare.replaced", bind=True, shared=False)  # type: ignore[untyped-decorator]
def replaced(self: Task, left: int) -> int:
    """A hop that puts the next one in its own place."""
    if left <= 1:
        return 0
    return self.replace(signature("bare.replaced", (left - 1,), app=app))


@app.task(name="bare.collect", shared=False)  # type: ignore[untyped-decorator]
def collect(results: list[int]) -> int:
    """A chord's body."""
    return len(results)
