"""Memory and Redis, told the same random story, give the same answers to the last field.

The two implementations were written apart, in Python and in Lua, so where they agree on
thousands of histories that nobody thought of, both follow the contract.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from routing.backends import MemoryBackend, RedisBackend, SharedBackend
from routing.errors import UnknownThreadError
from routing.records import Begun, Branch, ConversationStatus, Ending, Frame, JoinKind, Thread
from tests.stories import KILLED, LONG_MS, SILENT, Story, then

#: an expired lease or a live one; nothing in between depends on when exactly it is looked at
LEASES_MS = st.sampled_from([0, LONG_MS])
#: what a handler may do in one run, the usual things more often
_RUNS: list[tuple[str, ...]] = [
    (),
    *[("answers",)] * 3,
    ("answers", "delivers"),
    ("calls",),
    ("calls", "delivers"),
    ("delivers", "waits"),
    ("ends",),
    *[("fans_out",)] * 3,
    ("fans_out", "waits"),
    ("waits",),
]
_organisms = itertools.count()


class SameStory(RuleBasedStateMachine):
    """Every rule does one thing to both backends and compares what they say."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        organism = f"model-{next(_organisms)}"
        graces = {"publish_grace_ms": 0, "begin_grace_ms": 0}
        self.backends = (
            MemoryBackend(organism=organism, **graces),
            RedisBackend(self.client, organism=organism, **graces),
        )
        self.story = Story(self.backends[0], id="a|b {0}")
        self.frames: list[Frame] = []
        self.known: list[str] = [self.story.id]
        self.waits: list[Any] = []
        self.joins: list[str] = []

    def both(self, method: str, *args: Any, **options: Any) -> Any:
        """What a method of both backends returned, or raised."""
        memory, in_redis = (self.call(b, method, *args, **options) for b in self.backends)
        assert memory == in_redis, (method, args, options)
        return memory

    def call(self, backend: SharedBackend, method: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(backend, method)(*args, **options)
        except UnknownThreadError as exc:
            return str(exc)

    def teardown(self) -> None:
        try:
            self.looks_the_same()
        finally:
            self.backends[1].clear()

    # --- running ------------------------------------------------------------------------

    @initialize(total=st.integers(1, 4), data=st.data())
    def begins_with_a_join(self, total: int, data: st.DataObject) -> None:
        """Most of what can go wrong goes wrong inside joins."""
        begun = self.both("open_and_begin", self.story.opening(), owner="w1", lease_ms=LONG_MS)
        self.frames.append(begun.frame)
        self.commits(begun.frame, ("fans_out",), data)

    @rule(data=st.data(), kinds=st.sampled_from(_RUNS))
    def run(self, data: st.DataObject, kinds: tuple[str, ...]) -> None:
        """Begin something that can run, and commit it: what makes a story go on."""
        runnable = [i for i in self.known if self.state_of(i) in ("ready", "sent")]
        if not runnable:
            return
        delivery = data.draw(st.sampled_from(runnable))
        begun = self.both("begin", self.story.id, delivery, owner="w1", lease_ms=LONG_MS)
        if isinstance(begun, Begun):
            self.frames.append(begun.frame)
            self.commits(begun.frame, kinds, data)

    def state_of(self, delivery: str) -> str:
        stored = self.backends[0]._states[self.story.id].deliveries.get(delivery)
        return stored.state if stored else ""

    @rule()
    def open(self) -> None:
        self.both("open", self.story.opening())

    @rule(owner=st.sampled_from(["w1", "w2"]), lease_ms=LEASES_MS)
    def open_and_begin(self, owner: str, lease_ms: int) -> None:
        options = {"owner": owner, "lease_ms": lease_ms}
        self.began(self.both("open_and_begin", self.story.opening(), **options))

    @rule(
        data=st.data(),
        owner=st.sampled_from(["w1", "w2"]),
        lease_ms=LEASES_MS,
    )
    def begin(self, data: st.DataObject, owner: str, lease_ms: int) -> None:
        delivery = data.draw(st.sampled_from(self.known))
        options = {"owner": owner, "lease_ms": lease_ms}
        self.began(self.both("begin", self.story.id, delivery, **options))

    def began(self, beginning: object) -> None:
        if isinstance(beginning, Begun):
            self.frames.append(beginning.frame)

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), kinds=st.sampled_from(_RUNS), limit=st.sampled_from([0, 12]))
    def commit(self, data: st.DataObject, kinds: tuple[str, ...], limit: int) -> None:
        """Commit any frame ever begun, the stale ones too."""
        self.commits(data.draw(st.sampled_from(self.frames)), kinds, data, limit)

    def commits(
        self, frame: Frame, kinds: tuple[str, ...], data: st.DataObject, limit: int = 0
    ) -> None:
        changes: dict[str, Any] = {"max_deliveries": limit}
        for kind in kinds:
            for name, value in _PARTS[kind](self, frame, data).items():
                changes[name] = changes.get(name, ()) + value if name != "ending" else value
        transition = self.story.transition(frame, **changes)
        self.both("commit", transition)
        self.known += [d.id for d in transition.deliveries]
        self.known += [r.then_delivery.id for r in transition.results if r.then_delivery]
        self.waits += transition.waits
        self.joins += [join.id for join in transition.joins]
        if data.draw(st.booleans()):
            self.both("commit", transition)

    # --- around -------------------------------------------------------------------------

    @rule(data=st.data())
    def published(self, data: st.DataObject) -> None:
        some = st.lists(st.sampled_from([*self.known, ""]), max_size=4)
        self.both("published", self.story.id, data.draw(some))

    @rule()
    def released(self) -> None:
        self.both("released", self.story.id)

    @rule(data=st.data(), owner=st.sampled_from(["w1", "w2"]), lease_ms=LEASES_MS)
    def renew(self, data: st.DataObject, owner: str, lease_ms: int) -> None:
        leases = [(self.story.id, data.draw(st.sampled_from(self.known)))]
        self.both("renew", leases, owner=owner, lease_ms=lease_ms)

    @rule(data=st.data(), owner=st.sampled_from(["w1", "w2"]))
    def abandon(self, data: st.DataObject, owner: str) -> None:
        delivery = data.draw(st.sampled_from(self.known))
        self.both("abandon", self.story.id, delivery, owner=owner, reason="timeout")

    @precondition(lambda self: self.waits)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        wait = data.draw(st.sampled_from(self.waits))
        self.both("answer", self.story.id, wait.id, self.story.input_for(wait))
        self.known.append(wait.id)

    @precondition(lambda self: len(self.known) > 20)
    @rule()
    def kill(self) -> None:
        self.both("kill", self.story.id, KILLED)

    @rule(data=st.data(), retry_in_ms=LEASES_MS, all_of_it=st.booleans())
    def sweep(self, data: st.DataObject, retry_in_ms: int, all_of_it: bool) -> None:
        """What is late is late in both, once the millisecond of the last rule is over."""
        self.pass_the_moment()
        found = [sorted(b.due(limit=99), key=lambda d: d.member) for b in self.backends]
        assert found[0] == found[1]
        if found[0] and not all_of_it:
            found[0] = [data.draw(st.sampled_from(found[0]))]
        for due in found[0]:
            self.both("reclaim", due, retry_in_ms=retry_in_ms, silent_branch=SILENT)

    def pass_the_moment(self) -> None:
        def now() -> int:
            seconds, micros = self.client.time()
            return int(seconds * 1000 + micros // 1000)

        until = now() + 2
        while now() < until:
            pass

    @rule(parent=st.sampled_from(["t0", "t1", "", "u"]), name=st.sampled_from(["clerk", "x"]))
    def child_thread(self, parent: str, name: str) -> None:
        self.both("child_thread", self.story.id, parent, name, self.story.new_id("k"))

    @rule(data=st.data())
    def drop_threads(self, data: st.DataObject) -> None:
        known = sorted(set(self.backends[0].threads(self.story.id)) - {"t0", "t1"})
        if known:
            dropped = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
            self.both("drop_threads", self.story.id, dropped)

    # --- what can be seen ---------------------------------------------------------------

    @rule()
    def looks_the_same(self) -> None:
        seen = []
        for backend in self.backends:
            row = backend.conversation(self.story.id)
            log = backend.log(self.story.id)
            seen.append(
                (
                    replace(row, created_ms=0, updated_ms=0) if row else None,
                    [(line.event, line.detail) for line in log],
                    backend.threads(self.story.id),
                    [backend.join(self.story.id, join) for join in self.joins],
                    [backend.results(self.story.id, join, 0, 9) for join in self.joins],
                    backend.context(self.story.id, "t1", limit=99),
                    backend.stats(),
                )
            )
        assert seen[0] == seen[1]

    @invariant()
    def adds_up(self) -> None:
        """In flight and waiting are never negative, and an ended conversation has an ending."""
        row = self.backends[0].conversation(self.story.id)
        if row is None:
            return
        assert 0 <= row.waiting <= row.in_flight
        running = row.status in (ConversationStatus.RUNNING, ConversationStatus.WAITING)
        assert row.in_flight > 0 or not running, "nothing in flight, and yet not ended"


# --- what a commit may hold -----------------------------------------------------------------


def _calls(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return machine.story.call(frame, data.draw(st.sampled_from(["helper", "other"])))


def _delivers(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"deliveries": (machine.story.delivery(frame),)}


def _waits(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"waits": (machine.story.wait(frame),)}


def _ends(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"ending": Ending(ConversationStatus.COMPLETED, {"by": frame.delivery.id})}


def _fans_out(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    kind = data.draw(st.sampled_from(list(JoinKind)))
    changes = machine.story.fan_out(
        frame,
        data.draw(st.integers(1, 4)),
        collect=data.draw(st.booleans()),
        need_ok=data.draw(st.integers(0, 2)),
        need_failed=data.draw(st.integers(0, 2)),
        window=data.draw(st.sampled_from([0, 0, 1, 2])),
        deadline_ms=data.draw(st.sampled_from([0, 0, 1, LONG_MS])),
        answer_within_ms=data.draw(st.sampled_from([0, 0, 1, LONG_MS])),
        label=data.draw(st.sampled_from(["", "", "one"])),
        kind=kind,
    )
    if kind is JoinKind.SEQUENCE:  # its later steps come with the answers of those before
        kept = [d for d in changes["deliveries"] if not d.opens_branch or d.scope[-1].index == 0]
        changes |= {"deliveries": tuple(kept), "threads": changes["threads"][:1]}
    return changes


def _answers(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    """Answer the innermost branch; a step of a sequence brings the next one along."""
    if not frame.delivery.scope:
        return {}
    story, branch = machine.story, frame.delivery.scope[-1]
    success = data.draw(st.booleans())
    result = story.result(frame, success=success, branch=branch)
    state = machine.backends[0].join(story.id, branch.join)
    assert state is not None
    following = Branch(branch.join, branch.index + 1)
    if success and state.join.kind is JoinKind.SEQUENCE and following.index < state.join.total:
        thread = Thread(story.new_id("s"), ("console", "step"), "t1", following)
        scope = (*frame.delivery.scope[:-1], following)
        step = story.delivery(frame, thread=thread.id, scope=scope, opens_branch=True)
        result = then(result, step, thread)
    return {"results": (result,)}


_PARTS = {
    "answers": _answers,
    "calls": _calls,
    "delivers": _delivers,
    "ends": _ends,
    "fans_out": _fans_out,
    "waits": _waits,
}


@pytest.mark.timeout(400)  # it takes seconds, but to shorten a history that failed takes minutes
def test_memory_and_redis_tell_the_same_story(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random histories of one conversation, every operation of the contract among them."""
    monkeypatch.setattr(SameStory, "client", redis_client, raising=False)
    SameStory.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    SameStory.TestCase().runTest()
