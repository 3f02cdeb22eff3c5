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
#: handlers that keep all the others waiting, one after the other
GATES = 2
#: what a `worker` does that waits until its gate lets it pass
WAITS = {"how": "gate", "what": "held"}


@pytest.mark.parametrize(("prefetch", "behind"), [(1, 10), (0, 800)], ids=["queued", "all in hand"])
def test_what_waits_has_one_message(
    prefetch: int,
    behind: int,
    deployment_url: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sender's clock is ten minutes ahead, and two handlers keep all others waiting.

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
        results = [deployment.inject("worker", WAITS) for _ in range(GATES)]
        results += [deployment.inject("copier", {"value": "x"}) for _ in range(behind)]
        monkeypatch.undo()
        eventually(lambda: deployment.records(event="work"), what="the first one runs")
        client = redis.Redis.from_url(deployment.redis_url)
        for _ in range(GATES):  # the next one is taken in while others are older than a lost one
            pause = time.monotonic() + 1.2 * LOST_AFTER_MS / 1000
            eventually(lambda p=pause: time.monotonic() > p, what="longer than a lost one")  # type: ignore[misc]
            client.rpush("gate:held", "pass")
        for result in results:
            result.get(timeout=WAIT_S)
        assert "sweep.republished" not in worker.output
        assert len(deployment.records(event="work")) == GATES
    finally:
        deployment.close()
