"""Which broker a deployment runs on: a test's `broker`, Redis or RabbitMQ.

Every deployment fixture asks `broker` for the URL of a broker of its own. A test marked
`both_brokers` runs once on each, and a third time with the organism attached to an app of somebody
else (`tests.team`); any other on Redis, which is the registry's. Where there is no
RabbitMQ, or none on which we may make a virtual host, its tests say so and are skipped; not
under CI, where they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness import ATTACHED, NewBroker
from tests.rabbit import Rabbit, RabbitUnavailableError

_BROKERS = ["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), ATTACHED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a marked test once on each kind of broker.

    In the scope of the session, all tests on Redis run first, then all on RabbitMQ, …
    """
    if "broker" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("both_brokers")
        brokers = _BROKERS if both else _BROKERS[:1]
        metafunc.parametrize("broker", brokers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def rabbit() -> Rabbit:
    """The RabbitMQ of this test run."""
    try:
        return Rabbit()
    except RabbitUnavailableError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[NewBroker]:
    """Return brokers of one kind."""
    if request.param != "rabbitmq":
        yield lambda: ATTACHED if request.param == ATTACHED else None
        return
    rabbit: Rabbit = request.getfixturevalue("rabbit")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(rabbit.virtual_host())
