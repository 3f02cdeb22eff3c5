"""The protocol as a whole against a reference of a few lines: random histories, checked answers.

The pure planner, the real primitives and a backend are driven through random interleavings of
injecting, beginning, committing, publishing, crashing, redelivering, losing, expiring, retrying,
answering and killing. Whatever the order: each conversation ends exactly once, with the value
that `tests.arithmetic.expected` works out by recursion and in exactly so many messages; each
delivery is settled once; whoever injected is told that and nothing else; and nothing is left.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.arithmetic import FAILED, INPUT, ORGANISM, SILENT, TASKS, Expected, Number, expected
from tests.arithmetic import Work as Task
from tests.plant import Plant, Run
from tests.stories import KILLED, LONG_MS
from threadloom.routing.backends import MemoryBackend, RedisBackend, SharedBackend
from threadloom.routing.records import Release, Skip
from threadloom.routing.states import ConversationStatus

_organisms = itertools.count()
_GRACES = {"publish_grace_ms": 0, "begin_grace_ms": 0}


class Histories(RuleBasedStateMachine):
    """One registry, a few conversations, and whatever can happen to them."""

    #: a lease that runs out at once: the next one to come takes the delivery over
    leases_ms = (LONG_MS, 0)

    def __init__(self) -> None:
        super().__init__()
        self.plant = Plant(self.make_backend(f"protocol-{next(_organisms)}"), ORGANISM)
        self.tasks: dict[str, Any] = {}
        self.killed: set[str] = set()

    def make_backend(self, organism: str) -> SharedBackend:
        raise NotImplementedError

    def let_leases_expire(self) -> None:
        """Time passes, where a test can have it pass."""

    def crash(self, run: Run) -> None:
        """A whole worker is lost: only its lease tells, in time."""
        self.plant.runs.remove(run)

    @initialize(task=TASKS)
    def begin_with(self, task: Any) -> None:
        self.injects(task)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule, not fifteen: the usual things have to be the usual ones."""
        data.draw(st.sampled_from(_HAPPENINGS))(self, data)

    # --- the usual ----------------------------------------------------------------------

    def injects(self, task: Any) -> None:
        conversation = f"c|{len(self.tasks)}"
        self.tasks[conversation] = task
        self.plant.inject(conversation, "solver", Task(json.dumps(task)))

    def injects_one_more(self, data: st.DataObject) -> None:
        if len(self.tasks) < 3:
            self.injects(data.draw(TASKS))

    def begins(self, data: st.DataObject) -> None:
        """A worker takes a message from the broker; it may come again."""
        if not self.plant.broker:
            return
        message = data.draw(st.sampled_from(self.plant.broker))
        if not data.draw(st.sampled_from([False, False, True])):
            self.plant.broker.remove(message)
        self.plant.begin(message, lease_ms=data.draw(st.sampled_from(self.leases_ms)))

    def finishes(self, data: st.DataObject) -> None:
        """Any run, also one that was taken over long ago."""
        if self.plant.runs:
            run = data.draw(st.sampled_from(self.plant.runs))
            answer_lost = data.draw(st.sampled_from([False, False, True]))
            self.plant.finish(run, answer_lost=answer_lost, goes_on=data.draw(st.booleans()))

    def publishes(self, data: st.DataObject) -> None:
        if self.plant.hands:
            self.plant.publish(data.draw(st.sampled_from(self.plant.hands)))

    def says_so(self, data: st.DataObject) -> None:
        """What has been published is cleared from the outbox at once."""
        for each in self.plant.unsaid:
            self.plant.backend.published(each.conversation_id, [each.id])
        self.plant.unsaid = []

    def answers(self, data: st.DataObject) -> None:
        for conversation in self.tasks:
            for wait in self.plant.backend.waits(conversation):
                self.plant.answer(conversation, wait, Number(INPUT))

    # --- the bad days -------------------------------------------------------------------

    def crashes(self, data: st.DataObject) -> None:
        if self.plant.runs:
            self.crash(data.draw(st.sampled_from(self.plant.runs)))

    def loses_a_process(self, data: st.DataObject) -> None:
        """It may yet turn out that it was only slow: it stays among the runs."""
        if self.plant.runs:
            self.plant.lose(data.draw(st.sampled_from(self.plant.runs)))

    def crashes_before_publishing(self, data: st.DataObject) -> None:
        """Of what a commit created, the first few messages reach the broker, and nobody says so."""
        if self.plant.hands:
            hand = data.draw(st.sampled_from(self.plant.hands))
            self.plant.hands.remove(hand)
            self.plant.broker += hand[: data.draw(st.integers(0, len(hand)))]

    def forgets_to_say_so(self, data: st.DataObject) -> None:
        self.plant.unsaid = []

    def loses_the_broker(self, data: st.DataObject) -> None:
        self.plant.broker = []

    def doubles_a_message(self, data: st.DataObject) -> None:
        if self.plant.broker:
            self.plant.broker.append(data.draw(st.sampled_from(self.plant.broker)))

    def time_passes(self, data: st.DataObject) -> None:
        self.let_leases_expire()

    def sweeps(self, data: st.DataObject) -> None:
        self.plant.sweep()

    def kills(self, data: st.DataObject) -> None:
        conversation = data.draw(st.sampled_from(sorted(self.tasks)))
        told = self.plant.backend.kill(conversation, KILLED)
        if told is not None:
            self.killed.add(conversation)
            self.plant.hands.append([told])

    # --- what must have come of it ------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.comes_to_rest()
            for conversation, task in self.tasks.items():
                self.ended_once(conversation, expected(task))
        finally:
            self.plant.backend.clear()

    def comes_to_rest(self) -> None:
        for _ in range(100):
            if self.plant.is_quiet and not any(map(self.plant.backend.waits, self.tasks)):
                return
            self.answers(None)  # type: ignore[arg-type]
            self.plant.drain()
            self.let_leases_expire()
        raise AssertionError(f"never at rest: {self.plant}, {self.plant.backend.stats()}")

    def ended_once(self, conversation_id: str, wanted: Expected) -> None:
        backend = self.plant.backend
        row = backend.conversation(conversation_id)
        assert row is not None
        assert (row.in_flight, row.waiting) == (0, 0)
        log = backend.log(conversation_id, limit=100_000)
        assert [line.detail["text"] for line in log if line.event == "ended"] == [row.status]
        told = self.plant.told[conversation_id]
        assert told, "whoever injected it was never told"
        assert {(each.status, str(each.value)) for each in told} == {(row.status, str(row.value))}
        messages = [line.detail["delivery"].id for line in log if line.event == "message"]
        assert len(set(messages)) == len(messages) == row.deliveries
        for delivery in messages:
            assert isinstance(backend.begin(conversation_id, delivery, owner="", lease_ms=0), Skip)
        settled = [self.plant.settled[delivery] for delivery in messages]
        if conversation_id in self.killed:
            assert row.status is ConversationStatus.KILLED
            assert max(settled) <= 1
            return
        assert set(settled) == {1}
        assert outcome(row.status, row.value) == wanted.value
        assert len(messages) == wanted.messages + 1


def outcome(status: ConversationStatus, value: Any) -> int | str:
    """A conversation's ending as the reference tells it."""
    if status is ConversationStatus.ERROR:
        return FAILED
    return SILENT if value is None else int(value["payload"]["value"])


_HAPPENINGS = [
    *[Histories.begins, Histories.finishes] * 6,
    *[Histories.publishes] * 6,
    *[Histories.says_so, Histories.answers, Histories.sweeps] * 2,
    *[Histories.crashes, Histories.loses_a_process, Histories.crashes_before_publishing],
    *[Histories.forgets_to_say_so, Histories.loses_the_broker, Histories.doubles_a_message],
    *[Histories.time_passes, Histories.injects_one_more, Histories.kills],
]


def play(machine: type[Histories], *, examples: int) -> None:
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase().runTest()


@pytest.mark.hypothesis
@pytest.mark.timeout(900)  # it takes seconds, but to shorten a history that failed takes minutes
def test_every_history_in_memory_comes_out_right() -> None:
    """Leases run out because time passes, which is in the test's hand."""

    class InMemory(Histories):
        leases_ms = (LONG_MS,)

        def make_backend(self, organism: str) -> SharedBackend:
            self.now = 1_700_000_000_000
            return MemoryBackend(organism=organism, clock=lambda: self.now, **_GRACES)

        def let_leases_expire(self) -> None:
            self.now += LONG_MS

    play(InMemory, examples=120)


@pytest.mark.timeout(400)
def test_every_history_in_redis_comes_out_right(redis_client: redis.Redis) -> None:
    """Time is Redis's: some leases run out at once, and a worker with a long one is reported."""

    class InRedis(Histories):
        def make_backend(self, organism: str) -> SharedBackend:
            return RedisBackend(redis_client, organism=organism, **_GRACES)

        def crash(self, run: Run) -> None:
            if run.lease_ms and isinstance(run.work, Release):
                return  # nobody reports it, and nobody here can wait for its lease
            if run.lease_ms:
                self.plant.lose(run)
            super().crash(run)

    play(InRedis, examples=50)
