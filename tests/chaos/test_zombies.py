"""Workers that are thought dead and are not, messages that come twice, replies that come late.

A patient waits at a gate inside its handler, each run at its own, so that a test decides who
goes on when. The lease is short here.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.fleet import Killable
from tests.chaos.nursery import Nursery
from tests.chaos.site import Site
from tests.chaos.verdict import await_end, flaws, story
from tests.chaos.workload import PLANS
from tests.harness import WAIT_S, eventually, whole_lines
from threadloom import tasks
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.canvas import CONVERSATION, INJECTED

LEASE_MS = 1500


class Ward:
    """Patients at their gates, each named like its conversation."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def admit(self) -> str:
        """A patient, once it is at its gate."""
        conversation = str(uuid.uuid4())
        tasks.inject(self.site.app, "patient", {"gate": conversation}, conversation_id=conversation)
        self.runs(conversation, 1)
        return conversation

    def runs(self, conversation_id: str, count: int) -> list[dict[str, Any]]:
        """What was recorded of the handler's runs, once there are so many."""

        def found() -> list[dict[str, Any]] | None:
            ran = self.site.records(event="ran", what=f"Visit(gate='{conversation_id}')")
            return ran if len(ran) >= count else None

        return eventually(found, what=f"{count} runs of {conversation_id}")

    def passed(self, conversation_id: str) -> list[int]:
        """The processes that have passed the gate."""
        return [r["pid"] for r in self.site.records(event="passed", gate=conversation_id)]

    def worker_of(self, pid: int) -> Killable:
        """The worker whose pool a process belongs to."""
        return next(each for each in self.site.fleet.members if pid in each.pool())

    def discharged(self, conversation_id: str, *, runs: int) -> None:
        """It ends right, after so many runs of its handler."""
        await_end(self.site, conversation_id, timeout_s=WAIT_S)
        found = flaws(self.site, conversation_id, {"gate": conversation_id})
        assert not found, story(self.site, conversation_id)
        assert len(self.runs(conversation_id, runs)) == runs, story(self.site, conversation_id)


@pytest.fixture(scope="module")
def ward(
    nursery: Nursery,
    deployment_url: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ward]:
    site = Site(
        tmp_path_factory.mktemp("ward"),
        nursery,
        redis_url=deployment_url(),
        environment={"CHAOS_LEASE_MS": str(LEASE_MS)},
        concurrency=4,
    )
    try:
        site.fleet.await_ready()
        yield Ward(site)
    finally:
        site.close()


@pytest.mark.parametrize("whole", [True, False], ids=["worker", "main process"])
def test_a_zombie_whose_delivery_was_taken_over_is_fenced(ward: Ward, whole: bool) -> None:
    """Stopped past its lease, it goes on while another has the delivery: its commit is refused."""
    conversation = ward.admit()
    [first] = ward.runs(conversation, 1)
    worker = ward.worker_of(first["pid"])
    worker.signal(signal.SIGSTOP, whole=whole)
    second = ward.runs(conversation, 2)[1]
    assert second["pid"] not in worker.pool(), "another worker took it over"
    ward.site.open_gate(conversation, first["pid"])
    worker.signal(signal.SIGCONT)
    fenced = f"delivery.fenced message_id={conversation}".encode()
    eventually(lambda: fenced in worker.log.read_bytes())
    assert ward.passed(conversation) == [first["pid"]]
    assert ward.site.backend.conversation(conversation).status is ConversationStatus.RUNNING
    ward.site.open_gate(conversation, second["pid"])
    ward.discharged(conversation, runs=2)


def test_a_zombie_whose_delivery_was_settled_adopts_that(ward: Ward) -> None:
    """It goes on when all is over, and what it did changes nothing."""
    conversation = ward.admit()
    [first] = ward.runs(conversation, 1)
    worker = ward.worker_of(first["pid"])
    worker.signal(signal.SIGSTOP)
    second = ward.runs(conversation, 2)[1]
    ward.site.open_gate(conversation, second["pid"])
    await_end(ward.site, conversation, timeout_s=WAIT_S)
    worker.signal(signal.SIGCONT)
    ward.site.open_gate(conversation, first["pid"])
    eventually(lambda: first["pid"] in ward.passed(conversation))
    eventually(lambda: _done(worker, conversation), what="the zombie done")
    ward.discharged(conversation, runs=2)


def _done(worker: Killable, conversation_id: str) -> bool:
    named = conversation_id.encode()
    return any(named in line and b"ForkPoolWorker" in line for line in whole_lines(worker.log))


def test_a_stopped_pool_process_keeps_its_delivery_while_its_worker_lives(ward: Ward) -> None:
    """The main process renews the lease: nobody else begins, and the run goes on where it was."""
    conversation = ward.admit()
    [first] = ward.runs(conversation, 1)
    stopped = ward.site.journal(conversation)[-1]
    assert stopped.pid == first["pid"]
    os.kill(first["pid"], signal.SIGSTOP)
    time.sleep(2 * LEASE_MS / 1000)  # two leases: had nobody renewed, another would have it
    ward.site.open_gate(conversation, first["pid"])
    os.kill(first["pid"], signal.SIGCONT)
    ward.discharged(conversation, runs=1)


def test_a_warm_shutdown_finishes_what_runs_however_long_it_takes(ward: Ward) -> None:
    """A worker that is told to end keeps its lease until its handler is done."""
    conversation = ward.admit()
    [first] = ward.runs(conversation, 1)
    worker = ward.worker_of(first["pid"])
    worker.signal(signal.SIGTERM, whole=False)
    time.sleep(2 * LEASE_MS / 1000)  # two leases
    ward.site.open_gate(conversation, first["pid"])
    ward.discharged(conversation, runs=1)
    eventually(lambda: not worker.alive, what="the worker has ended")


def test_a_message_that_comes_many_times_at_once_runs_once(ward: Ward) -> None:
    """Every worker gets copies at the same moment: one has the delivery, the others skip it."""
    plan = PLANS["call"]
    conversations = [str(uuid.uuid4()) for _ in range(5)]
    ward.site.fleet.await_ready()
    for worker in ward.site.fleet.members:
        worker.signal(signal.SIGSTOP)
    for conversation in conversations:
        tasks.inject(ward.site.app, plan.to, plan.message, conversation_id=conversation)
        for _ in range(4):
            copy = {CONVERSATION: conversation, INJECTED: True}
            ward.site.app.send_task(plan.to, kwargs=copy, task_id=conversation)
    for worker in ward.site.fleet.members:
        worker.signal(signal.SIGCONT)
    for conversation in conversations:
        await_end(ward.site, conversation, timeout_s=WAIT_S)
        assert not flaws(ward.site, conversation, plan.expected), story(ward.site, conversation)
        ran = [r for r in ward.site.records(event="ran") if r["message"] == conversation]
        assert len(ran) == 1, story(ward.site, conversation)


def test_a_reply_that_comes_after_the_end_is_logged_and_not_delivered(ward: Ward) -> None:
    """The conversation was killed while its handler was at work."""
    conversation = ward.admit()
    [first] = ward.runs(conversation, 1)
    fault = {"code": "killed", "message": "by a test", "retry_allowed": False}
    ward.site.backend.kill(conversation, Ending(ConversationStatus.KILLED, fault))
    before = ward.site.backend.conversation(conversation)
    ward.site.open_gate(conversation, first["pid"])

    def late() -> list[str]:
        log = ward.site.backend.log(conversation)
        return [entry.detail["delivery"].id for entry in log if entry.event == "late"]

    assert eventually(late, what="a late reply in the log") == [conversation]
    after = ward.site.backend.conversation(conversation)
    assert (after.status, after.deliveries) == (ConversationStatus.KILLED, before.deliveries)
    eventually(lambda: not ward.site.due(conversation), what="nothing left to watch")
