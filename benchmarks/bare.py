"""The other contestant: the same work as a bare Celery chain, acknowledged late like ours."""

from __future__ import annotations

import os

from celery import Celery

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


@app.task(name="bare.step")  # type: ignore[untyped-decorator]
def step(left: int) -> int:
    """One hop."""
    return left - 1
