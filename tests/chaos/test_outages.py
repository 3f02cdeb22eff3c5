"""A registry that is away for longer than a limit: nothing is lost, and nobody is told falsely.

The workers reach broker and registry through two proxies, and results are stored beside the
broker, so all but the registry is there during an outage.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from unittest import mock

import pytest

from tests.chaos.nursery import Nursery
from tests.chaos.site import Site
from tests.chaos.verdict import story
from tests.chaos.wires import Patient, Told, Wires, out_of_reach, script, wired
from tests.chaos.workload import PLANS, ask
from tests.harness import eventually
from threadloom import tasks
from threadloom.routing.backends.redis.connection import shard_of
from threadloom.service.embedded_redis import EmbeddedRedis
from threadloom.tasks import injection
from threadloom.tasks.canvas import TOGETHER
from threadloom.tasks.publisher import Publisher

#: seconds of a message's hard limit, of the time after which it is handed back, of the outage
LIMIT_S, HANDED_BACK_S, AWAY_S = 2, 4.0, 6.0
LEASE_MS = 1500


@pytest.fixture(scope="module")
def wires(
    nursery: Nursery,
    redis_server: EmbeddedRedis,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Wires]:
    environment = {"CHAOS_LEASE_MS": str(LEASE_MS), "CHAOS_PATIENCE_S": str(HANDED_BACK_S)}
    directory = tmp_path_factory.mktemp("outages")
    yield from wired(
        directory, nursery, redis_server, deployment_url(), environment, size=1, concurrency=4
    )


@pytest.fixture
def told(wires: Wires) -> Iterator[Told]:
    told = Told(wires.site.redis)
    yield told
    told.close()


def test_an_outage_beyond_every_limit_is_told_to_nobody(wires: Wires, told: Told) -> None:
    """Before begin, in the handler, at commit, at telling the end: each ends once, with its value.

    The message that nobody could begin is not ended by its hard limit, and comes back when it was
    handed back; what a handler returned is kept; who was told is not told again.
    """
    plan, unbegun, informed = PLANS["call"], str(uuid.uuid4()), str(uuid.uuid4())
    early, late = wires.admit(), wires.admit()
    lost = wires.registry.lose_reply(script("released"))
    wires.begin(plan, informed)
    eventually(lost.is_set, what="the injector told")
    with out_of_reach(wires.registry, "away"):
        early.leave()
        wires.site.app.send_task(
            "increment", [{"value": 1}], task_id=unbegun, queue=wires.site.queue, time_limit=LIMIT_S
        )
        time.sleep(AWAY_S)  # the outage itself: it lasts as long as it lasts
        assert told.states(unbegun) == told.states(early.conversation) == []
    late.leave()
    wires.came_out_right(unbegun, ask("increment", 1))
    wires.came_out_right(informed, plan)
    for patient in (early, late):
        wires.came_out_right(patient.conversation, patient.plan)
        assert patient.runs() == 1, story(wires.site, patient.conversation)
    everybody = (unbegun, informed, early.conversation, late.conversation)
    eventually(lambda: all(map(told.states, everybody)), what="everybody told")
    time.sleep(2 * LEASE_MS / 1000)  # whoever would tell again is due by then
    assert [told.states(each) for each in everybody] == [["SUCCESS"]] * 4
    logs = wires.site.fleet.logs()
    assert "message.handed_back" in logs
    assert "hard_timeout" not in logs


def test_nothing_ends_the_renewal_of_leases(wires: Wires) -> None:
    """Neither a message with nonsense beside its conversation nor one that Redis has evicted."""
    evicted, *patients = [wires.admit() for _ in range(3)]
    patients.append(admitted_with_nonsense(wires))
    [row] = wires.site.redis.keys(f"*:conversation:{evicted.conversation}")
    wires.site.redis.delete(row)
    before = {patient.conversation: due_at(wires.site, patient) for patient in patients}

    def are_renewed() -> bool:
        return all(due_at(wires.site, p) > before[p.conversation] for p in patients)

    eventually(are_renewed, timeout_s=30, what="all leases renewed")
    before = {patient.conversation: due_at(wires.site, patient) for patient in patients}
    eventually(are_renewed, timeout_s=30, what="all leases renewed once more")
    assert not wires.site.redis.exists(row), "made again"
    for patient in (evicted, *patients):
        patient.leave()
    for patient in patients:
        wires.came_out_right(patient.conversation, patient.plan)
        assert patient.runs() == 1, story(wires.site, patient.conversation)


def admitted_with_nonsense(wires: Wires) -> Patient:
    """A patient whose message names something else, too, that is no conversation."""
    conversation = str(uuid.uuid4())
    with mock.patch.object(Publisher, "send", return_value=True):  # as if the broker lost it
        tasks.inject_many(wires.site.app, "patient", [{"gate": conversation}], ids=[conversation])
    wires.site.app.send_task("patient", [], {TOGETHER: [conversation, 7]}, queue=wires.site.queue)
    return Patient(wires.site, conversation)


def together() -> AbstractContextManager[object]:
    """Have several conversations that are injected together share a message."""
    return mock.patch.object(injection, "per_message", lambda count, *_: count)


def test_a_lost_process_costs_its_neighbours_in_a_message_nothing(wires: Wires) -> None:
    """Two share a message; the second was published by itself and runs when the first's is lost."""
    first, second = (str(uuid.uuid4()) for _ in range(2))
    payloads = [{"gate": first}, {"gate": second}]
    with together():
        tasks.inject_many(wires.site.app, "patient", payloads, ids=[first, second])
    lost, neighbour = Patient(wires.site, first), Patient(wires.site, second)
    lost.end_process()
    eventually(lambda: lost.runs() == 2, what="the lost one runs again")
    neighbour.leave()
    wires.came_out_right(second, neighbour.plan)
    assert neighbour.runs() == 1, story(wires.site, second)
    lost.leave(run=1)
    wires.came_out_right(first, lost.plan)


def due_at(site: Site, patient: Patient) -> float:
    """The ms at which the lease of a patient's delivery ends."""
    due = f"tl:chaos:{{{shard_of(patient.conversation)}}}:due"
    rows = site.redis.zrange(due, 0, -1, withscores=True)
    return max((at for name, at in rows if patient.conversation in name), default=0.0)
