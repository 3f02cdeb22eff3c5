"""How many commands a hop costs: what it takes is round trips, and these are them.

Each test holds a long conversation against a short one, so that what is done once, and what
idle workers do, is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.desk import told
from tests.harness import ORGANISMS, Deployment, adjusted
from tests.wire import listening

#: what the workers' main processes send as time goes by, or for several hops together
_BY_TIME = {
    *("BRPOP", "PING", "TIME", "ZRANGE", "ZRANGEBYSCORE", "PUBLISH", "SET", "GET", "EVAL"),
    *("EVALSHA workers", "EVALSHA renew", "ZADD XX"),
}
SHORT, LONG = 20, 120
#: what kombu does for a message that is not acknowledged yet, and once it is
NOTED = {"MULTI": 2.0, "EXEC": 2.0, "HSET": 1.0, "ZADD": 1.0}
FORGOTTEN = {"ZREM": 1.0, "HDEL": 1.0}


@pytest.fixture(scope="module", params=[10_000, 0], ids=["local", "queued"])
def sprint(
    request: pytest.FixtureRequest,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[int, Deployment]]:
    """The sprint organism, its slice longer than any run or none at all."""
    place = tmp_path_factory.mktemp("sprint")
    source = ORGANISMS / "sprint" / "organism.yaml"
    organism = adjusted(source, place, local_slice_ms=request.param)
    deployment = Deployment(organism, redis_url=deployment_url(), directory=place)
    try:
        deployment.start_worker(concurrency=1)
        yield request.param, deployment
    finally:
        deployment.close()


def commands(deployment: Deployment, laps: int) -> Counter[str]:
    """What a conversation of so many laps made clients send."""
    with listening(deployment) as wire:
        told(deployment, "runner", {"left": laps})
    return Counter({name: n for name, n in wire.commands.items() if name not in _BY_TIME})


def test_what_a_hop_costs(sprint: tuple[int, Deployment], tmp_path: Path) -> None:
    """Going on, one script, and nothing else. Through the queue, three scripts in two round trips,
    the message pushed, and what kombu notes and forgets about it; a bare Celery task makes eleven.
    """
    slice_ms, deployment = sprint
    commands(deployment, SHORT)  # whatever is done for the first time
    more = commands(deployment, LONG)
    more.subtract(commands(deployment, SHORT))
    hops = LONG - SHORT
    per_hop = {name: round(n / hops, 1) for name, n in more.items() if abs(n) > hops / 10}
    if slice_ms:
        assert per_hop == {"EVALSHA commit": 1.0}
    else:
        scripts = dict.fromkeys(["EVALSHA published", "EVALSHA begin", "EVALSHA commit"], 1.0)
        assert per_hop == {**scripts, "LPUSH": 1.0, **NOTED, **FORGOTTEN}
