"""The works organism with one worker of twelve processes, which several modules share.

A module that uses it says `pytest_plugins = ["tests.works_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.desk import settled
from tests.harness import ORGANISMS, Deployment, NewBroker
from tests.works import Works

pytest_plugins = ["tests.broker_fixtures"]

#: more than any test lets run at once, so that the worker never holds items back
CONCURRENCY = 12


@pytest.fixture(scope="session")
def works_deployment(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The works; no worker consumes the queue `lobby` until a test says so."""
    deployment = Deployment(
        ORGANISMS / "works" / "organism.yaml",
        redis_url=deployment_url(),
        directory=tmp_path_factory.mktemp("works"),
        broker_url=broker(),
    )
    try:
        deployment.start_worker(concurrency=CONCURRENCY, options=("-Q", "works"))
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def works(works_deployment: Deployment) -> Iterator[Works]:
    """The works for one test; at the end nothing that the test began may be left."""
    works = Works(works_deployment)
    yield works
    works.nothing_left()
    settled(works_deployment)
