"""The mill, with one worker of a single process, which several modules share.

A module that uses it says `pytest_plugins = ["tests.mill_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.desk import settled
from tests.harness import Deployment, NewBroker, deployed
from tests.mill import Mill

pytest_plugins = ["tests.broker_fixtures"]


@pytest.fixture(scope="session")
def mill_deployment(
    deployment_url: Callable[[], str],
    broker: NewBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The mill on a single process, so that a handler that blocks while it waits blocks
    everything.
    """
    directory = tmp_path_factory.mktemp("mill")
    broker_url = broker()
    for deployment in deployed(
        "mill", deployment_url(), directory, broker_url=broker_url, concurrency=1
    ):
        yield deployment
        settled(deployment)


@pytest.fixture
def mill(mill_deployment: Deployment) -> Mill:
    """The mill, for one test."""
    return Mill(mill_deployment)
