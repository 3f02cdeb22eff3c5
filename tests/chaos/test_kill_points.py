"""A worker killed at each labelled point of a delivery's way, alone and in every kind of flow.

Each test is one conversation with an order to end the process that reaches its point: the pool
process (Celery's main process lives to tell), or the whole worker (as a lost machine; the lease
has to expire). Whatever the point, the conversation gives the right value exactly once, and
within seconds. They all run at the same time in a few workers; each test looks at its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import celery
import pytest

import tasks
from primitives import BufferStart, SequenceStart
from routing import XML
from tasks.runtime import Point
from tests.chaos.nursery import Nursery
from tests.chaos.orders import HANDLING, Order
from tests.chaos.site import Site
from tests.chaos.verdict import await_end, flaws, story
from tests.harness import eventually
from tests.works import xml

#: seconds from the kill to the end of the conversation: what the issue promises
WORST_S = 15.0
MEDIAN_S = 5.0
#: seconds a loaded machine may take on top before a test gives up
PATIENCE_S = 60.0
#: seconds between two injections: a worker that dies takes others' deliveries with it
APART_S = {"process": 0.02, "worker": 0.3}

#: the way of a delivery with one message to publish …
WAY = (
    Point.BEGUN, HANDLING, Point.HANDLED, Point.COMMITTED,
    Point.PUBLISHING, Point.PUBLISHED, Point.CLEARED,
)  # fmt: skip
#: … of a system listener, whose handler is not ours to interrupt
SYSTEM_WAY = tuple(point for point in WAY if point != HANDLING)

#: … of a message that comes from outside and is answered at once: nothing is published
AT_ONCE_WAY = (
    Point.BEGUN, HANDLING, Point.HANDLED, Point.COMMITTED, Point.CLEARED, Point.RETURNED,
)  # fmt: skip


@dataclass(frozen=True)
class Role:
    """A delivery's part in a conversation: which one it is, and what it passes before."""

    listener: str
    way: tuple[str, ...]
    begin: Callable[[Site, str], None]
    expected: Any
    #: deliveries to the same listener that come before it in the conversation
    earlier: int = 0
    #: messages it publishes before it is killed while publishing; None: as many as `earlier`
    published: int | None = None

    @property
    def let_publish(self) -> int:
        """How often the point after a message is passed before."""
        return self.earlier if self.published is None else self.published


def number(value: int) -> XML:
    return xml("Number", value=value)


def call(site: Site, conversation: str) -> None:
    """A listener calls a peer and replies with what it makes of the answer."""
    tasks.inject(site.app, "asker", {"value": 3}, conversation_id=conversation)


def sequence(site: Site, conversation: str) -> None:
    start = SequenceStart(["increment", "double", "increment"], number(3), sequence_id="line")
    tasks.inject(site.app, "system.sequence", start, conversation_id=conversation)


def buffer(site: Site, conversation: str) -> None:
    """A chord; one part at a time, so that each part but the last releases the next one."""
    start = BufferStart(
        "increment", [number(n) for n in range(3)], max_parallel=1, buffer_id="batch"
    )
    tasks.inject(site.app, "system.buffer", start, conversation_id=conversation)


def wide_buffer(site: Site, conversation: str) -> None:
    start = BufferStart("increment", [number(n) for n in range(4)], buffer_id="batch")
    tasks.inject(site.app, "system.buffer", start, conversation_id=conversation)


def foreign_chain(site: Site, conversation: str) -> None:
    """Somebody else's chain, whose first task calls a peer before it replies."""
    first = site.app.signature("asker", [{"value": 3}], task_id=conversation)
    last = site.app.signature("keeper", task_id=remainder(conversation))
    celery.chain(first, last).apply_async()


def remainder(conversation: str) -> str:
    """The conversation that the rest of somebody else's chain is."""
    return str(uuid.uuid5(uuid.UUID(conversation), "remainder"))


def batch(total: int) -> dict[str, Any]:
    """What a buffer says that incremented the first `total` numbers."""
    items = "".join(
        f'<item index="{n}" success="true">{number(n + 1).text}</item>' for n in range(total)
    )
    return {
        "buffer_id": "batch",
        "total": total,
        "successful": total,
        "results": f"<results>{items}</results>",
    }


def at_once(site: Site, conversation: str) -> None:
    """A plain message from somebody else, answered by the first listener."""
    site.app.send_task("increment", [{"value": 6}], task_id=conversation)


SEVEN = {"value": 7}
LINE = {"sequence_id": "line", "final_result": xml("Number", value=9).text, "step_count": 3}
ROLES = {
    "peer": Role("doubler", WAY, call, SEVEN),
    "caller": Role("asker", WAY, call, SEVEN),
    "ending": Role("asker", WAY, call, SEVEN, earlier=1),
    "chain_start": Role("system.sequence", SYSTEM_WAY, sequence, LINE),
    "chain_step": Role("double", WAY, sequence, LINE),
    "chain_body": Role("system.sequence", SYSTEM_WAY, sequence, LINE, earlier=1),
    "chord_start": Role("system.buffer", SYSTEM_WAY, wide_buffer, batch(4), published=1),
    "chord_part": Role("increment", WAY, buffer, batch(3), earlier=1),
    "last_chord_part": Role("increment", WAY, buffer, batch(3), earlier=2),
    "chord_body": Role("system.buffer", SYSTEM_WAY, buffer, batch(3), earlier=1),
    "told": Role("asker", (Point.RETURNED,), call, SEVEN),
    "at_once": Role("increment", AT_ONCE_WAY, at_once, SEVEN),
    "parked": Role("asker", WAY, foreign_chain, SEVEN),
    "parked_ending": Role("asker", WAY, foreign_chain, SEVEN, earlier=1),
    "resumed": Role("asker", (Point.RETURNED,), foreign_chain, SEVEN),
}
CASES = [(name, point) for name, role in ROLES.items() for point in role.way]


class Kills:
    """Every case of one scope under way, each in a conversation of its own."""

    def __init__(self, site: Site, scope: str) -> None:
        self.site = site
        self.conversations = {case: str(uuid.uuid4()) for case in CASES}
        self.resumed_s: list[float] = []
        for (name, point), conversation in self.conversations.items():
            role = ROLES[name]
            let_pass = role.earlier if point != Point.PUBLISHING else role.let_publish
            order = Order(role.listener, point, let_pass, whole_worker=scope == "worker")
            site.orders.give(conversation, order)
            role.begin(site, conversation)
            time.sleep(APART_S[scope])  # the pace of what arrives: nothing to wait for

    def await_kill(self, conversation: str) -> float:
        """When the process was killed, once it was."""
        orders = self.site.orders
        try:
            return eventually(lambda: orders.carried_out(conversation), timeout_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"nobody killed\n{story(self.site, conversation)}") from None

    def await_end(self, conversation: str) -> float:
        """When the conversation was over, the last of its messages dealt with."""
        await_end(self.site, conversation, timeout_s=PATIENCE_S)
        ended = (e.at_ms / 1000 for e in self.site.backend.log(conversation) if e.event == "ended")
        return max(*ended, *(step.at for step in self.site.journal(conversation)))


@pytest.fixture(scope="module", params=["process", "worker"])
def kills(
    request: pytest.FixtureRequest,
    nursery: Nursery,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kills]:
    """Every kill of a pool process, then every kill of a worker."""
    directory = tmp_path_factory.mktemp("kills")
    site = Site(directory, nursery, redis_url=deployment_url(), size=3)
    try:
        site.fleet.await_ready()
        yield Kills(site, request.param)
    finally:
        site.close()


@pytest.mark.parametrize(("role", "point"), CASES)
def test_killed_there_a_conversation_still_ends_right_and_once(
    kills: Kills, role: str, point: str
) -> None:
    """The value is right and told once, each delivery settled once, nothing is left to watch."""
    conversation = kills.conversations[role, point]
    killed = kills.await_kill(conversation)
    resumed_s = max(0.0, kills.await_end(conversation) - killed)
    kills.resumed_s.append(resumed_s)
    expected = ROLES[role].expected
    found = flaws(kills.site, conversation, expected)
    if ROLES[role].begin is foreign_chain:
        rest = remainder(conversation)
        await_end(kills.site, rest, timeout_s=PATIENCE_S)
        found += flaws(kills.site, rest, expected)
    assert not found, story(kills.site, conversation)
    assert resumed_s <= WORST_S, story(kills.site, conversation)


def test_half_of_them_were_over_within_five_seconds(kills: Kills) -> None:
    """The median over all points, from the kill to the end of the conversation."""
    if not kills.resumed_s:
        pytest.skip("measures what the tests above did")
    print(
        f"{len(kills.resumed_s)} kills: median {median(kills.resumed_s):.2f} s, "
        f"worst {max(kills.resumed_s):.2f} s to the end of the conversation"
    )
    assert median(kills.resumed_s) <= MEDIAN_S
