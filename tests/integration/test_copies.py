"""What waits is not published again, whatever a sender's clock says and however much is held."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.harness import ORGANISMS, WAIT_S, Deployment, adjusted, eventually
from threadloom.tasks.lost import LOST_AFTER_MS

AHEAD_NS = 600 * 1_000_000_000
#: what a `worker` does that waits until its gate lets it pass
WAITS = {"how": "gate", "what": "held"}


@pytest.mark.parametrize("prefetch", [1, 0], ids=["queued", "all in hand"])
def test_what_waits_has_one_message(
    prefetch: int,
    deployment_url: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender's clock is ten minutes ahead, and one handler keeps all others waiting.

    Without a limit to its prefetch, the worker holds every one of them.
    """
    organism = adjusted(
        ORGANISMS / "works" / "organism.yaml", tmp_path,
        celery={"worker_prefetch_multiplier": prefetch},
    )  # fmt: skip
    deployment = Deployment(organism, redis_url=deployment_url(), directory=tmp_path)
    try:
        worker = deployment.start_worker(concurrency=1)
        true = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: true() + AHEAD_NS)
        results = [deployment.inject("worker", WAITS) for _ in range(5)]
        monkeypatch.undo()
        eventually(lambda: deployment.records(event="work"), what="the first one runs")
        until = time.monotonic() + 1.5 * LOST_AFTER_MS / 1000
        eventually(lambda: time.monotonic() > until, what="longer than a lost one")
        client = redis.Redis.from_url(deployment.redis_url)
        client.rpush("gate:held", *["pass"] * len(results))
        for result in results:
            result.get(timeout=WAIT_S)
        assert "sweep.republished" not in worker.output
        assert len(deployment.records(event="work")) == len(results)
    finally:
        deployment.close()
