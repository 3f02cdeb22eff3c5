"""The desk and the strict organism, each with one worker that several modules share.

A module that uses them says `pytest_plugins = ["tests.desk_fixtures"]`, so that each worker starts
once in a test run, and only if a test needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.desk import settled
from tests.harness import Deployment, NewBroker, deployed

pytest_plugins = ["tests.broker_fixtures"]


@pytest.fixture(scope="session")
def desk(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The desk organism with one worker of two processes; at the end nothing may be pending."""
    directory = tmp_path_factory.mktemp("desk")
    for deployment in deployed("desk", deployment_url(), directory, broker_url=broker()):
        yield deployment
        settled(deployment)


@pytest.fixture(scope="session")
def strict(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The strict organism: 70 deliveries per conversation, depth-first, and a queue of its own."""
    directory = tmp_path_factory.mktemp("strict")
    for deployment in deployed("strict", deployment_url(), directory, broker_url=broker()):
        yield deployment
        settled(deployment)
