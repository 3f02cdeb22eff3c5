"""After the retention nothing of conversations is left, in the registry or beside it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from benchmarks.soak import soak
from tests.desk import settled
from tests.harness import ORGANISMS, WAIT_S, Deployment, eventually
from threadloom.primitives import BUFFER, SEQUENCE, BufferStart, SequenceStart
from threadloom.routing import XML, ConversationError

ADD = XML("<Add><a>1</a><b>2</b></Add>")
#: s after which conversations and results may go
_KEPT_S = 4


def test_two_thousand_conversations_leave_nothing_in_the_registry(
    redis_client: redis.Redis,
) -> None:
    """They are of every kind, and many are unfinished.

    Afterwards there is no additional key, and the memory is as before. `python -m benchmarks.soak`
    does the same with 20 000.
    """
    found = soak(redis_client, 2_000, at_once=1_000)
    assert found.peak.keys > found.before.keys + 500
    assert found.after.keys == found.before.keys
    assert found.is_clean, found


@pytest.fixture
def hasty(deployment_url: Callable[[], str], tmp_path: Path) -> Iterator[Deployment]:
    """The desk with a retention of a few seconds for everything."""
    organism = tmp_path / "desk"
    shutil.copytree(ORGANISMS / "desk", organism)
    file = organism / "organism.yaml"
    backend = f"  backend: {{redis_ttl: {_KEPT_S}}}\n"
    text = file.read_text().replace("  celery:\n", f"{backend}  celery:\n", 1)
    file.write_text(text)
    deployment = Deployment(file, redis_url=deployment_url(), directory=tmp_path)
    try:
        deployment.start_worker(concurrency=2)
        yield deployment
    finally:
        deployment.close()


def test_workers_leave_nothing_beside_the_registry(hasty: Deployment) -> None:
    """Results and messages go as well: the keys of Celery and kombu are the same before and
    after.
    """
    with redis.Redis.from_url(hasty.redis_url) as client:
        run_some(hasty, 1)
        before = eventually(lambda: left(hasty, client), what="nothing left of the first")
        run_some(hasty, 10)
        settled(hasty)
        assert hasty.ask("clerk", {"number": 1})
        results = [key for key in client.scan_iter() if key.startswith(b"celery-task-meta-")]
        assert results
        lasting = -1  # what redis says of a key without an end
        ttls_ms = {client.pttl(key) for key in results}
        assert lasting not in ttls_ms
        assert max(ttls_ms) <= _KEPT_S * 1000
        # For a moment there may be the lock under which workers look for unacknowledged messages.
        eventually(
            lambda: {key[-6:] for key in client.scan_iter("*unacked*")} <= {b"_mutex"},
            what="every message is acknowledged",
        )
        after = eventually(lambda: left(hasty, client), what="nothing left of the others")
        assert after == before
        # The format of the registry is the one thing that stays.
        assert [key for key in after if key.startswith(b"tl:")] == [b"tl:desk:{0}:format"]


def run_some(deployment: Deployment, times: int) -> None:
    """Run calls, buffers, sequences and errors; the values of the second half are never read."""
    begun = []
    for _ in range(times):
        begun.append(deployment.inject("clerk", {"number": 1}))
        begun.append(deployment.inject(BUFFER, BufferStart("calculator.add", [ADD] * 3)))
        begun.append(deployment.inject(SEQUENCE, SequenceStart(["calculator.add"], ADD)))
        begun.append(deployment.inject("raises", {"number": 1}))
    for result in begun[: (len(begun) + 1) // 2]:
        with contextlib.suppress(ConversationError):
            result.get(timeout=WAIT_S)
    for result in begun:
        eventually(lambda id=result.id: _is_over(deployment, id), what="its end")


def _is_over(deployment: Deployment, conversation_id: str) -> bool:
    """Return whether nothing of it is in flight; it may have been forgotten since it ended."""
    found = deployment.backend.conversation(conversation_id)
    return found is None or found.in_flight == 0


def left(deployment: Deployment, client: redis.Redis) -> set[bytes]:
    """Return the remaining keys once results and conversations are gone, and an empty set
    before.
    """
    deployment.backend.expire(limit=1_000)
    # Live workers announce themselves and look for unacknowledged messages.
    passing = (b"unacked_mutex", b":workers")
    keys = {key for key in client.scan_iter() if not key.endswith(passing)}
    kept = deployment.backend.stats()["conversations"]
    results = any(key.startswith(b"celery-task-meta-") for key in keys)
    return set() if kept or results else keys
