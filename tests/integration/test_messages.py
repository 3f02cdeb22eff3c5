"""What goes over the broker: small messages, in the queue and with the priority asked for."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.desk import close_app, plain_app, told
from tests.harness import WAIT_S, Deployment, eventually
from tests.wire import listening

pytest_plugins = ["tests.desk_fixtures"]

HOPS = 30


def test_the_thirtieth_hop_costs_no_more_than_the_first(strict: Deployment) -> None:
    """In thirty calls down and back every message has one size and holds no payload.

    Only the injected message differs: it comes from "external" and has no parent.
    """
    with listening(strict) as wire:
        told(strict, "ping", {"left": HOPS})
    first, *others = wire.sizes()
    assert len(others) >= 2 * HOPS, "30 calls, 30 replies and the end"
    hops = others[: 2 * HOPS]
    assert set(hops) == {hops[0]}
    assert hops[0] - first < 100
    assert hops[0] < 1_500
    for message in wire.messages:
        assert "left" not in message
        assert "Down" not in json.dumps(_body(message))


def _body(message: str) -> Any:
    return json.loads(base64.b64decode(json.loads(message)["body"]))


def test_deeper_deliveries_are_more_urgent(strict: Deployment) -> None:
    """With depth-first scheduling the priority rises with the depth, up to Celery's highest.

    On Redis 0 is the highest; the organism does not depend on the broker's numbers.
    """
    _, story = told(strict, "ping", {"left": 12})
    runs = story.records("came")
    depths = [len(story.chain(run["thread"])) - 1 for run in runs]
    assert depths == [*range(1, 14), *range(12, 0, -1)]
    assert [run["priority"] for run in runs] == [max(9 - depth, 0) for depth in depths]


def test_breadth_first_has_no_priorities(desk: Deployment) -> None:
    """The default is first in, first out, all in one queue."""
    with listening(desk) as wire:
        told(desk, "clerk", {"number": 1})
    assert {json.loads(m)["properties"]["priority"] for m in wire.messages} == {0}


@pytest.mark.both_brokers
def test_a_worker_serves_the_queues_of_its_listeners(strict: Deployment) -> None:
    """A worker serves the default queue and a listener's own queue without being told of either."""
    _, story = told(strict, "errand", {})
    assert [r["queue"] for r in story.records("came")] == ["errands"]
    app = plain_app(strict)
    result = app.send_task("errand", [{}], queue="strict")
    result.get(timeout=WAIT_S)
    sent = eventually(lambda: [r for r in strict.records() if r["message"] == result.id])
    assert [r["queue"] for r in sent] == ["strict"]
    close_app(app)


@pytest.mark.both_brokers
def test_the_rate_limit_is_celerys(strict: Deployment) -> None:
    """The worker itself reports the listener's rate limit."""
    inspect = strict.app.control.inspect(["worker0@test"], timeout=5.0)
    [tasks] = inspect.registered("rate_limit").values()
    assert "errand [rate_limit=500/m]" in tasks
    assert not [t for t in tasks if "rate_limit=" in t and not t.startswith("errand")]


def test_the_broker_message_is_readable_and_says_nothing(desk: Deployment) -> None:
    """The argument that Flower shows names sender, receiver and payload class, without the
    payload's content.
    """
    with listening(desk) as wire:
        told(desk, "echo", {"text": "nobody's business"})
    headers = [json.loads(m)["headers"] for m in wire.messages]
    assert [h["argsrepr"] for h in headers] == ["external → echo Text"]
    assert not [m for m in wire.messages if "business" in m or "business" in json.dumps(_body(m))]
