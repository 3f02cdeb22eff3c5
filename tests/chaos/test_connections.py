"""Workers whose connections break, at the worst moment or for seconds, lose and repeat nothing.

The workers reach broker and registry through two proxies; this process sees the real thing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.killer import QUEUE
from tests.chaos.nursery import Nursery
from tests.chaos.verdict import story
from tests.chaos.wires import Wires, out_of_reach, script, wired
from tests.chaos.workload import PLANS, ask
from tests.harness import eventually
from threadloom.service.embedded_redis import EmbeddedRedis
from threadloom.tasks.lost import OVERTAKEN_BY_MS
from threadloom.tasks.recovery import SWEEP_S

#: seconds that a server is away
AWAY_S = 5.0
WORKERS, PROCESSES = 2, 6
#: messages that take one process longer than a lost one takes to be missed
BACKLOG = 200
#: ms of a lease here, so that an outage outlasts several
LEASE_MS = 1500


@pytest.fixture(scope="module")
def wires(
    nursery: Nursery,
    redis_server: EmbeddedRedis,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wires]:
    directory = tmp_path_factory.mktemp("wires")
    environment = {"CHAOS_LEASE_MS": str(LEASE_MS)}
    yield from wired(
        directory, nursery, redis_server, deployment_url(), environment,
        size=WORKERS, concurrency=PROCESSES // WORKERS,
    )  # fmt: skip


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


def test_a_lost_message_is_missed_although_its_queue_is_never_empty(wires: Wires) -> None:
    """Messages that were published after it are begun, and it is not: so it is gone."""
    plan, others = PLANS["call"], ask("increment", 1)
    patients = [wires.admit() for _ in range(PROCESSES - 1)]  # one process is left for the queue
    conversation = str(uuid.uuid4())
    lost = wires.broker.lose_reply(b"BRPOP", conversation.encode())
    wires.begin(plan, conversation)
    eventually(lost.is_set, what="the message lost")
    before = wires.republished()
    time.sleep(1.5 * OVERTAKEN_BY_MS / 1000)  # so much later counts as later
    backlog = [wires.begin(others) for _ in range(BACKLOG)]
    eventually(lambda: wires.republished() > before, what="the message published again")
    assert wires.site.redis.llen(QUEUE), "the queue has not been empty"
    for patient in patients:
        patient.leave()
    for each in backlog:
        wires.came_out_right(each, others)
    wires.came_out_right(conversation, plan)


def test_a_run_whose_connection_was_cut_ends_on_the_next_one(wires: Wires) -> None:
    """The worker is connected again at once; what it acknowledges belongs to a lost connection."""
    plan = PLANS["call"]
    patients = [wires.admit() for _ in range(2)]
    before = wires.connections()
    wires.broker.cut()
    eventually(lambda: wires.connections() >= before + WORKERS, what="connected again")
    for patient in patients:
        patient.leave()
        wires.came_out_right(patient.conversation, patient.plan)
        assert patient.runs() == 1, story(wires.site, patient.conversation)
    wires.came_out_right(wires.begin(plan), plan)
    assert wires.site.fleet.started == WORKERS, "no worker ended by it"


@pytest.mark.parametrize("how", ["away", "silent"])
@pytest.mark.parametrize("server", ["registry", "broker"])
def test_a_server_out_of_reach_costs_time_and_nothing_else(
    wires: Wires, server: str, how: str
) -> None:
    """For several leases, while busy: workers wait and go on, and no finished work is lost.

    One handler is done while the server is out of reach, another one after it is back, when
    the sweep has had the time to look for what is late: each has run once, and counts.
    """
    proxy = wires.registry if server == "registry" else wires.broker
    early, late = wires.admit(), wires.admit()
    begun = [(plan, wires.begin(plan)) for plan in PLANS.values()]
    with out_of_reach(proxy, how):
        time.sleep(AWAY_S / 2)  # the outage itself: it lasts as long as it lasts
        early.leave()
        time.sleep(AWAY_S / 2)
    back = time.monotonic()
    for plan, conversation in begun:
        wires.came_out_right(conversation, plan)
    print(f"{server} {how}: all over {time.monotonic() - back:.1f} s after it was back")
    time.sleep(LEASE_MS / 1000 + 2 * SWEEP_S)
    late.leave()
    for patient in (early, late):
        wires.came_out_right(patient.conversation, patient.plan)
        assert patient.runs() == 1, story(wires.site, patient.conversation)
    assert wires.site.fleet.started == WORKERS, "no worker ended by it"
