"""The works organism with one worker of twelve processes, which several modules share.

A module that uses it says `pytest_plugins = ["tests.works_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.desk import settled
from tests.harness import Deployment, deployed
from tests.works import Works

#: more than any test lets run at once, so that what holds items back is never the worker
CONCURRENCY = 12


@pytest.fixture(scope="session")
def _works(
    deployment_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("works")
    yield from deployed("works", deployment_url(), directory, concurrency=CONCURRENCY)


@pytest.fixture
def works(_works: Deployment) -> Iterator[Works]:
    """The works; at the end nothing of what the test began may be left."""
    works = Works(_works)
    yield works
    works.nothing_left()
    settled(_works)
