"""What a pool process does before it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.harness import ORGANISMS, Deployment, adjusted, eventually


@pytest.fixture
def brief_processes(
    deployment_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The sprint organism on a worker whose processes run one task each, and not all queues."""
    directory = tmp_path_factory.mktemp("brief")
    organism = adjusted(ORGANISMS / "sprint" / "organism.yaml", directory)
    deployment = Deployment(organism, redis_url=deployment_url(), directory=directory)
    try:
        options = ("--max-tasks-per-child", "1", "-Q", "sprint")
        deployment.start_worker(concurrency=1, options=options)
        yield deployment
    finally:
        deployment.close()


def test_a_process_that_ends_leaves_no_message_to_be_published_again(
    brief_processes: Deployment,
) -> None:
    """What it has published waits in a long queue: it leaves the outbox, and is not copied."""
    backend = brief_processes.backend
    with redis.Redis.from_url(brief_processes.redis_url) as broker:
        brief_processes.inject("coach", {"who": "apart"})
        eventually(lambda: broker.llen("apart"), what="the call published")
        eventually(lambda: not backend.stats()["due"], what="the outbox cleared")
        assert (backend.stats()["sent"], broker.llen("apart")) == (1, 1)
