"""A worker killed at each labelled point of a delivery's way, alone and in every kind of flow.

Each test is one conversation with an order to end the process that reaches its point: the pool
process (Celery's main process lives to tell), or the whole worker (as a lost machine; the lease
has to expire). First every delivery goes over the broker, then a run goes on with what follows
from it, and is killed in the midst of that. Whatever the point, the conversation gives the right
value exactly once, and does not wait for the broker's visibility timeout, which is an hour here.
They all run at the same time in a few workers; each test looks at its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple
from unittest import mock

import celery
import pytest

from tests.chaos.nursery import Nursery
from tests.chaos.orders import HANDLING, Order
from tests.chaos.site import Site
from tests.chaos.verdict import await_end, flaws, story
from tests.chaos.workload import Plan, ask, buffer, sequence
from tests.harness import eventually
from threadloom import tasks
from threadloom.tasks import injection
from threadloom.tasks.runtime import Point

#: seconds before a test gives up
PATIENCE_S = 200.0
#: seconds between two injections, so that those who are ended are replaced in the meantime
APART_S = {"process": 0.1, "worker": 0.25}

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


def injected(site: Site, conversation_id: str, plan: Plan) -> None:
    """From inside: the registry has the conversation before the broker has its message."""
    tasks.inject(site.app, plan.to, plan.message, conversation_id=conversation_id)


def sent(site: Site, conversation_id: str, plan: Plan) -> None:
    """A plain message from somebody else."""
    site.app.send_task(plan.to, [plan.message], task_id=conversation_id)


def chained(site: Site, conversation_id: str, plan: Plan) -> None:
    """Somebody else's chain, which goes on with the value."""
    first = site.app.signature(plan.to, [plan.message], task_id=conversation_id)
    last = site.app.signature("keeper", task_id=remainder(conversation_id))
    celery.chain(first, last).apply_async()


def shared(site: Site, conversation_id: str, plan: Plan) -> None:
    """With two others in one message, one of them before it."""
    before, behind = companions(conversation_id)
    payloads = [plan.message] * 3
    with mock.patch.object(injection, "per_message", return_value=3):
        tasks.inject_many(site.app, plan.to, payloads, ids=[before, conversation_id, behind])


def companions(conversation_id: str) -> tuple[str, str]:
    """The conversations that share a message with it."""
    name = uuid.UUID(conversation_id)
    return str(uuid.uuid5(name, "before")), str(uuid.uuid5(name, "behind"))


def remainder(conversation_id: str) -> str:
    """The conversation that the rest of somebody else's chain is."""
    return str(uuid.uuid5(uuid.UUID(conversation_id), "remainder"))


@dataclass(frozen=True)
class Role:
    """A delivery's part in a conversation: which one it is, and what it passes before."""

    listener: str
    way: tuple[str, ...]
    plan: Plan
    begin: Callable[[Site, str, Plan], None] = injected
    #: deliveries to the same listener that come before it in the conversation
    earlier: int = 0
    #: messages it publishes before it is killed while publishing; None: as many as `earlier`
    published: int | None = None

    @property
    def let_publish(self) -> int:
        """How often the point after a message is passed before."""
        return self.earlier if self.published is None else self.published


CALL = ask("asker", 3)
LINE = sequence(["increment", "double", "increment"], 3)
#: one part at a time, so that each part but the last releases the next one
PARTS = buffer("increment", [0, 1, 2], max_parallel=1)
WIDE = buffer("increment", [0, 1, 2, 3])
ROLES = {
    "peer": Role("doubler", WAY, CALL),
    "caller": Role("asker", WAY, CALL),
    "ending": Role("asker", WAY, CALL, earlier=1),
    "told": Role("asker", (Point.RETURNED,), CALL),
    "chain_start": Role("system.sequence", SYSTEM_WAY, LINE),
    "chain_step": Role("double", WAY, LINE),
    "chain_body": Role("system.sequence", SYSTEM_WAY, LINE, earlier=1),
    # killed after the second of its four messages
    "chord_start": Role("system.buffer", SYSTEM_WAY, WIDE, published=1),
    "chord_part": Role("increment", WAY, PARTS, earlier=1),
    "last_chord_part": Role("increment", WAY, PARTS, earlier=2),
    "chord_body": Role("system.buffer", SYSTEM_WAY, PARTS, earlier=1),
    "at_once": Role("increment", AT_ONCE_WAY, ask("increment", 6), begin=sent),
    "shared": Role("increment", AT_ONCE_WAY, ask("increment", 6), begin=shared),
    "parked": Role("asker", WAY, CALL, begin=chained),
    "parked_ending": Role("asker", WAY, CALL, begin=chained, earlier=1),
    "resumed": Role("asker", (Point.RETURNED,), CALL, begin=chained),
}
CASES = [(name, point) for name, role in ROLES.items() for point in role.way]
SHARED_CASES = [case for case in CASES if case[0] == "shared"]
#: what is different where a run goes on: what it comes to has no message
LOCAL_WAY = (Point.BEGUN, HANDLING, Point.HANDLED, Point.COMMITTED)
LOCAL_ROLES = (
    "peer", "ending", "chain_step", "chain_body", "chord_part", "last_chord_part", "chord_body",
    "parked_ending",
)  # fmt: skip
LOCAL_CASES = [
    (name, point) for name in LOCAL_ROLES for point in LOCAL_WAY if point in ROLES[name].way
]
#: long enough that no busy machine ends it
LOCAL_SLICE_MS = 5_000


class Kills:
    """Every case of one scope under way, each in a conversation of its own."""

    def __init__(self, site: Site, scope: str, cases: Sequence[tuple[str, str]]) -> None:
        self.site = site
        self.conversations = {case: str(uuid.uuid4()) for case in cases}
        self.resumed_s: list[float] = []
        for (name, point), conversation in self.conversations.items():
            role = ROLES[name]
            let_pass = role.earlier if point != Point.PUBLISHING else role.let_publish
            order = Order(role.listener, point, let_pass, whole_worker=scope == "worker")
            site.orders.give(conversation, order)
            role.begin(site, conversation, role.plan)
            time.sleep(APART_S[scope])  # the pace of what arrives: nothing to wait for

    def tell_times(self) -> None:
        """How long they took, from the kill to the conversation's end; `pytest -rP` shows it."""
        print(
            f"{len(self.resumed_s)} kills: median {median(self.resumed_s):.2f} s, "
            f"worst {max(self.resumed_s):.2f} s to the end of the conversation"
        )

    def await_kill(self, conversation_id: str) -> float:
        """When the process was killed, once it was."""
        orders = self.site.orders
        try:
            return eventually(lambda: orders.carried_out(conversation_id), timeout_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"nobody killed\n{story(self.site, conversation_id)}") from None

    def await_end(self, conversation_id: str) -> float:
        """When the conversation was over, the last of its messages dealt with."""
        await_end(self.site, conversation_id, timeout_s=PATIENCE_S)
        ended = (
            e.at_ms / 1000 for e in self.site.backend.log(conversation_id) if e.event == "ended"
        )
        return max(*ended, *(step.at for step in self.site.journal(conversation_id)))


class Scene(NamedTuple):
    """What is killed, and how deliveries get about."""

    scope: str
    local: bool

    @property
    def cases(self) -> list[tuple[str, str]]:
        return [*LOCAL_CASES, *SHARED_CASES] if self.local else CASES

    def __str__(self) -> str:
        return f"{self.scope}-{'local' if self.local else 'queued'}"


SCENES = [Scene(scope, local) for local in (False, True) for scope in ("process", "worker")]


class Scenes:
    """One scene at a time: the next one begins when it is first asked for."""

    def __init__(self, new_site: Callable[[Scene], Site]) -> None:
        self._new_site = new_site
        self._at: tuple[Scene, Kills] | None = None

    def kills(self, scene: Scene) -> Kills:
        """Every kill of a scene."""
        if self._at is None or self._at[0] != scene:
            self.close()
            site = self._new_site(scene)
            try:
                site.fleet.await_ready()
            except BaseException:
                site.close()
                raise
            self._at = scene, Kills(site, scene.scope, scene.cases)
        return self._at[1]

    def close(self) -> None:
        """Stop the workers of the scene at hand."""
        if self._at is not None:
            self._at[1].site.close()
        self._at = None


@pytest.fixture(scope="module")
def scenes(
    nursery: Nursery,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scenes]:
    """All scenes."""

    def new_site(scene: Scene) -> Site:
        return Site(
            tmp_path_factory.mktemp("kills"),
            nursery,
            redis_url=deployment_url(),
            size=6,
            concurrency=1,
            watchers=1,
            local_slice_ms=LOCAL_SLICE_MS if scene.local else 0,
        )

    scenes = Scenes(new_site)
    yield scenes
    scenes.close()


@pytest.mark.parametrize(
    ("scene", "role", "point"),
    [(scene, *case) for scene in SCENES for case in scene.cases],
    ids=str,
)
def test_killed_there_a_conversation_still_ends_right_and_once(
    scenes: Scenes, scene: Scene, role: str, point: str
) -> None:
    """The value is right and told once, each delivery settled once, nothing is left to watch."""
    kills = scenes.kills(scene)
    conversation = kills.conversations[role, point]
    killed = kills.await_kill(conversation)
    resumed_s = max(0.0, kills.await_end(conversation) - killed)
    kills.resumed_s.append(resumed_s)
    expected = ROLES[role].plan.expected
    found = flaws(kills.site, conversation, expected)
    others: Sequence[str] = ()
    if ROLES[role].begin is chained:
        others = (remainder(conversation),)
    elif ROLES[role].begin is shared:
        others = companions(conversation)
    for other in others:
        await_end(kills.site, other, timeout_s=PATIENCE_S)
        found += flaws(kills.site, other, expected)
    assert not found, story(kills.site, conversation)
    if (role, point) == scene.cases[-1]:
        kills.tell_times()
