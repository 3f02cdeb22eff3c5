"""Workers whose connections break, at the worst moment or for seconds, lose and repeat nothing.

The workers reach broker and registry through two proxies; this process sees the real thing.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import pytest

import tasks
from service.embedded_redis import EmbeddedRedis
from tasks.recovery import SWEEP_S
from tasks.runtime import LEASE_MS
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.site import Site
from tests.chaos.verdict import await_end, flaws, story
from tests.chaos.workload import PLANS, Plan
from tests.harness import eventually

#: seconds within which a conversation is over after its connection broke
PATIENCE_S = 30.0
#: seconds that a server is away
AWAY_S = 5.0


class Wires:
    """A site whose workers reach their servers through proxies."""

    def __init__(self, site: Site, registry: Proxy, broker: Proxy) -> None:
        self.site, self.registry, self.broker = site, registry, broker

    def begin(self, plan: Plan, conversation: str = "") -> str:
        """Start a conversation of this plan."""
        conversation = conversation or str(uuid.uuid4())
        tasks.inject(self.site.app, plan.to, plan.message, conversation_id=conversation)
        return conversation

    def busy(self) -> None:
        """Return when handlers are running."""
        before = len(self.site.records())
        eventually(lambda: len(self.site.records()) > before, what="handlers run")

    def seen(self, event: str, **wanted: Any) -> list[dict[str, Any]]:
        """What handlers recorded of this, once one has."""
        return eventually(
            lambda: self.site.records(event=event, **wanted), what=f"{event} {wanted}"
        )

    def came_out_right(self, conversation: str, plan: Plan) -> None:
        """It ends, with the value it should have, and every delivery settled once."""
        await_end(self.site, conversation, timeout_s=PATIENCE_S)
        assert not flaws(self.site, conversation, plan.expected), story(self.site, conversation)


@pytest.fixture(scope="module")
def wires(
    nursery: Nursery,
    redis_server: EmbeddedRedis,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wires]:
    url = deployment_url()
    db = int(url.rpartition("=")[2])
    registry, broker = (Proxy(str(redis_server.socket_path)) for _ in range(2))
    site = Site(
        tmp_path_factory.mktemp("wires"),
        nursery,
        redis_url=url,
        registry_url=registry.url(db),
        broker_url=broker.url(db),
    )
    try:
        site.fleet.await_ready()
        wires = Wires(site, registry, broker)
        # Redis has to know every script before the reply to one is worth losing.
        wires.came_out_right(wires.begin(PLANS["buffer"]), PLANS["buffer"])
        yield wires
    finally:
        site.close()
        registry.close()
        broker.close()


def script(name: str) -> bytes:
    """What names one of the registry's scripts on the wire."""
    folder = files("routing.backends") / "lua"
    text = (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return hashlib.sha1(text.encode()).hexdigest().encode()


@pytest.mark.parametrize("name", ["begin", "commit", "published", "released"])
def test_an_operation_whose_reply_was_lost_has_its_effect_once(wires: Wires, name: str) -> None:
    """The registry carried it out, the worker cannot know, asks again, and nothing is doubled."""
    plan = PLANS["buffer of fan-outs"]
    lost = wires.registry.lose_reply(script(name))
    conversation = wires.begin(plan)
    wires.came_out_right(conversation, plan)
    assert lost.is_set(), f"no reply to {name} was lost"


def test_a_message_that_was_published_twice_is_run_once(wires: Wires) -> None:
    """The broker took it, the worker cannot know, and publishes it again."""
    plan = PLANS["buffer"]
    lost = wires.broker.lose_reply(b"LPUSH")
    conversation = wires.begin(plan)
    wires.came_out_right(conversation, plan)
    assert lost.is_set(), "no reply was lost"


def test_a_message_that_the_broker_gave_away_and_nobody_got_comes_again(wires: Wires) -> None:
    """It was taken from the queue, and the connection broke before it reached the worker."""
    plan = PLANS["call"]
    conversation = str(uuid.uuid4())
    lost = wires.broker.lose_reply(b"BRPOP", conversation.encode())
    wires.begin(plan, conversation)
    wires.came_out_right(conversation, plan)
    assert lost.is_set(), "no message was lost"


@pytest.mark.parametrize("server", ["registry", "broker"])
@pytest.mark.parametrize("how", ["away", "silent"])
def test_a_server_out_of_reach_while_busy_costs_time_and_nothing_else(
    wires: Wires, server: str, how: str
) -> None:
    """Workers wait and go on: no work that was done is lost, and none has its effect twice."""
    proxy = wires.registry if server == "registry" else wires.broker
    begun = [(plan, wires.begin(plan)) for plan in list(PLANS.values()) * 3]
    wires.busy()
    if how == "away":
        proxy.go_away()
        time.sleep(AWAY_S)  # the outage itself: it takes as long as it takes
        proxy.come_back()
    else:
        proxy.fall_silent()
        time.sleep(AWAY_S)
        proxy.speak_again()
    back = time.time()
    for plan, conversation in begun:
        wires.came_out_right(conversation, plan)
    print(f"{server} {how}: over {time.time() - back:.1f} s after it was back")


@pytest.mark.parametrize("lasts", ["until it is away", "until it is back"])
@pytest.mark.parametrize("server", ["registry", "broker"])
def test_a_run_goes_on_while_a_server_is_away(wires: Wires, server: str, lasts: str) -> None:
    """For longer than a lease: its handler finishes, its run counts, and it is the only one."""
    proxy = wires.registry if server == "registry" else wires.broker
    conversation = gate = str(uuid.uuid4())
    wires.begin(Plan("patient", {"gate": gate}, {"gate": gate}), conversation)
    [run] = wires.seen("ran", listener="patient", what=f"Visit(gate='{gate}')")
    proxy.go_away()
    time.sleep(AWAY_S + LEASE_MS / 1000)  # the outage itself
    if lasts == "until it is back":
        proxy.come_back()
        # Workers are at it again, and have had the time to look for what is late.
        wires.came_out_right(wires.begin(PLANS["call"]), PLANS["call"])
        time.sleep(2 * SWEEP_S)
    wires.site.open_gate(gate, run["pid"])
    wires.seen("passed", gate=gate)
    if lasts == "until it is away":
        proxy.come_back()
    wires.came_out_right(conversation, Plan("patient", None, {"gate": gate}))
    assert len(wires.site.records(event="ran", what=run["what"])) == 1, "the handler ran once"
