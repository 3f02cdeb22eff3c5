"""The backends, told the same random story, give the same answers to the last field.

Memory and Redis were written apart, in Python and in Lua, so where they agree on thousands of
histories that nobody thought of, both follow the contract. The manager's is the memory one
again, seen through a socket.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from tests.stories import KILLED, LONG_MS, SILENT, Story, then
from threadloom.routing.backends import ManagerBackend, MemoryBackend, RedisBackend, SharedBackend
from threadloom.routing.errors import UnknownThreadError
from threadloom.routing.records import (
    Begun,
    Branch,
    DeadLetter,
    Due,
    Ending,
    Frame,
    Release,
    Thread,
)
from threadloom.routing.states import ConversationStatus

#: an expired lease or a live one; nothing in between depends on when exactly it is looked at
SOON_OR_LATE = st.sampled_from([0, LONG_MS])
#: what a handler may do in one run, the usual things more often
_RUNS: list[tuple[str, ...]] = [
    (),
    *[("answers",)] * 3,
    ("answers", "delivers"),
    ("calls",),
    ("calls", "delivers"),
    ("delivers", "waits"),
    ("ends",),
    *[("fails",)] * 3,
    ("fails", "calls"),
    *[("fans_out",)] * 3,
    ("fans_out", "waits"),
    ("waits",),
]
#: what is asked again if its answer was lost, and of these what then answers the same
_SAME_ANSWER = frozenset(("begin", "open_and_begin", "open", "abandon", "renew", "released"))
_REPEATED = _SAME_ANSWER | {"commit", "retry", "answer", "kill", "replay", "published", "republish"}
_organisms = itertools.count()
_turns = itertools.count()


class SameStory(RuleBasedStateMachine):
    """Every rule does one thing to all backends and compares what they say."""

    client: redis.Redis
    door: Path

    def __init__(self) -> None:
        super().__init__()
        organism = f"model-{next(_organisms)}"
        graces = {"publish_grace_ms": 0, "begin_grace_ms": 0}
        self.backends = (
            MemoryBackend(organism=organism, **graces),
            RedisBackend(self.client, organism=organism, **graces),
            ManagerBackend(self.door, organism=organism, **graces),
        )
        self.story = Story(self.backends[0], id="a|b {0}")
        self.frames: list[Frame] = []
        self.known: list[str] = [self.story.id]
        self.waits: list[Any] = []
        #: whether the answers of the happening that is under way are lost
        self.loses_answers = False
        self.joins: list[str] = []
        #: conversations that were opened with this one, and have no history
        self.neighbours: list[str] = []

    def every(self, method: str, *args: Any, **options: Any) -> Any:
        """What a method of all backends returned, or raised; sometimes its first answer is lost."""
        answer = self.once(method, *args, **options)
        if self.loses_answers and method in _REPEATED:
            again = self.once(method, *args, **options)
            assert method not in _SAME_ANSWER or type(again) is type(answer)
            assert not isinstance(answer, Begun | Release) or again == answer, "an attempt was lost"
        return answer

    def once(self, method: str, *args: Any, **options: Any) -> Any:
        answer, *others = (self.call(b, method, *args, **options) for b in self.backends)
        assert others == [answer] * len(others), (method, args, options)
        return answer

    def call(self, backend: SharedBackend, method: str, *args: Any, **options: Any) -> Any:
        try:
            return getattr(backend, method)(*args, **options)
        except UnknownThreadError as exc:
            return str(exc)

    def teardown(self) -> None:
        try:
            self.looks_the_same()
        finally:
            for backend in self.backends:
                backend.clear()
            self.backends[2].close()

    # --- running ------------------------------------------------------------------------

    @initialize(total=st.integers(1, 4), data=st.data())
    def begins_with_a_join(self, total: int, data: st.DataObject) -> None:
        """Most of what can go wrong goes wrong inside joins.

        Half of the histories begin with a conversation that was opened among many: what opening
        left out would show when it runs, ends, is told or forgotten.
        """
        if data.draw(st.booleans()):
            if data.draw(st.booleans()):
                self.every("child_thread", self.story.id, "", "x", self.story.new_id("k"))
            self.opens_many(data)
        begun = self.every("open_and_begin", self.story.opening(), owner="w1", lease_ms=LONG_MS)
        self.frames.append(begun.frame)
        self.commits(begun.frame, ("fans_out",), data)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule, not twenty: the usual things have to be the usual ones."""
        self.loses_answers = data.draw(st.integers(0, 3)) == 0
        data.draw(st.sampled_from(_HAPPENINGS))(self, data)
        self.loses_answers = False

    def runs(self, data: st.DataObject) -> None:
        """Begin something that can run, and commit it: what makes a story go on."""
        frame = self.takes_one(data)
        if frame is not None:
            self.commits(frame, data.draw(st.sampled_from(_RUNS)), data)

    def goes_wrong(self, data: st.DataObject) -> None:
        """Begin something, and end the run without a commit."""
        frame = self.takes_one(data)
        if frame is None:
            return
        delivery = frame.delivery.id
        if data.draw(st.booleans()):
            self.every("abandon", self.story.id, delivery, owner="w1", reason="lost")
        else:
            self.retries(frame, data)

    def takes_one(self, data: st.DataObject) -> Frame | None:
        runnable = [i for i in self.known if self.state_of(i) in ("ready", "sent")]
        if not runnable:
            return None
        delivery = data.draw(st.sampled_from(runnable))
        begun = self.every("begin", self.story.id, delivery, owner=_turn("w1"), lease_ms=LONG_MS)
        return self.began(begun)

    def state_of(self, delivery_id: str) -> str:
        stored = self.backends[0]._states[self.story.id].deliveries.get(delivery_id)
        return stored.state if stored else ""

    def opens(self, data: st.DataObject) -> None:
        self.every("open", self.story.opening())

    def opens_many(self, data: st.DataObject) -> None:
        """This conversation among new ones and known ones."""
        fresh = [f"n|{len(self.neighbours) + n}" for n in range(data.draw(st.integers(0, 2)))]
        known = data.draw(st.lists(st.sampled_from(self.neighbours))) if self.neighbours else []
        names = dict.fromkeys([*fresh, self.story.id, *known])
        openings = [Story(self.backends[0], id=name).opening() for name in names]
        answers = [sorted(backend.open_many(openings)) for backend in self.backends]
        assert answers[1:] == [answers[0]] * (len(answers) - 1)
        self.neighbours += fresh

    def opens_and_begins(self, data: st.DataObject) -> None:
        options = _holder(data)
        options["owner"] = _turn(options["owner"])
        self.began(self.every("open_and_begin", self.story.opening(), **options))

    def begins(self, data: st.DataObject) -> None:
        """Anything there ever was."""
        delivery = data.draw(st.sampled_from(self.known))
        options = _holder(data)
        options["owner"] = _turn(options["owner"])
        if data.draw(st.booleans()):
            some = data.draw(st.lists(st.sampled_from(self.known), max_size=3))
            options["published"] = {self.story.id: some, "unheard-of": [delivery]}
        self.began(self.every("begin", self.story.id, delivery, **options))

    def began(self, beginning: object) -> Frame | None:
        if not isinstance(beginning, Begun):
            return None
        self.frames.append(beginning.frame)
        return beginning.frame

    def commits_any(self, data: st.DataObject) -> None:
        """Any frame ever begun, the stale ones too."""
        if self.frames:
            frame = data.draw(st.sampled_from(self.frames))
            kinds = data.draw(st.sampled_from(_RUNS))
            self.commits(frame, kinds, data, data.draw(st.sampled_from([0, 12])))

    def commits(
        self, frame: Frame, kinds: tuple[str, ...], data: st.DataObject, limit: int = 0
    ) -> None:
        changes: dict[str, Any] = {"max_deliveries": limit}
        for kind in kinds:
            for name, value in _PARTS[kind](self, frame, data).items():
                changes[name] = changes.get(name, ()) + value if isinstance(value, tuple) else value
        transition = self.story.transition(frame, **changes)
        self.every("commit", transition)
        self.known += [d.id for d in transition.deliveries]
        self.known += [r.then_delivery.id for r in transition.results if r.then_delivery]
        self.waits += transition.waits
        self.joins += [join.id for join in transition.joins]
        if data.draw(st.booleans()):
            self.every("commit", transition)

    # --- around -------------------------------------------------------------------------

    def retries_any(self, data: st.DataObject) -> None:
        if self.frames:
            self.retries(data.draw(st.sampled_from(self.frames)), data)

    def retries(self, frame: Frame, data: st.DataObject) -> None:
        given = {"attempt": frame.attempt, "delay_ms": data.draw(SOON_OR_LATE), "reason": "a | b"}
        self.every("retry", self.story.id, frame.delivery.id, **given)

    def replays(self, data: st.DataObject) -> None:
        letters = self.backends[0].dead_letters(limit=99)
        known = [letter.delivery.id for letter in letters] or self.known
        self.every("replay", self.story.id, data.draw(st.sampled_from(known)))

    def drops(self, data: st.DataObject) -> None:
        self.every("drop", self.story.id, data.draw(st.sampled_from(self.known)))

    def republishes(self, data: st.DataObject) -> None:
        """What nobody began is the same in all."""
        older_than_ms = data.draw(SOON_OR_LATE)
        for due in self.the_same("unbegun", older_than_ms=0, limit=99):
            self.every("republish", due, older_than_ms=older_than_ms)

    def publishes(self, data: st.DataObject) -> None:
        ready = [i for i in self.known if self.state_of(i) == "ready"]
        some = st.lists(st.sampled_from([*self.known, "", *ready * 4]), max_size=4)
        self.every("published", self.story.id, data.draw(some))

    def releases(self, data: st.DataObject) -> None:
        self.every("released", self.story.id)

    def renews(self, data: st.DataObject) -> None:
        leases = [(self.story.id, data.draw(st.sampled_from(self.known)))]
        self.every("renew", leases, **_holder(data))

    def abandons(self, data: st.DataObject) -> None:
        delivery, owner = data.draw(st.sampled_from(self.known)), _holder(data)["owner"]
        self.every("abandon", self.story.id, delivery, owner=owner, reason="timeout")

    def answers(self, data: st.DataObject) -> None:
        if self.waits:
            wait = data.draw(st.sampled_from(self.waits))
            self.every("answer", self.story.id, wait.id, self.story.input_for(wait))
            self.known.append(wait.id)

    def kills(self, data: st.DataObject) -> None:
        if len(self.known) > 20:
            self.every("kill", self.story.id, KILLED)

    def sweeps(self, data: st.DataObject) -> None:
        """What is late is late in all, once the millisecond of the last rule is over."""
        self.pass_the_moment()
        found = self.the_same("due", limit=99)
        if found and data.draw(st.booleans()):
            found = [data.draw(st.sampled_from(found))]
        retry_in_ms = data.draw(SOON_OR_LATE)
        for due in found:
            self.every("reclaim", due, retry_in_ms=retry_in_ms, silent_branch=SILENT)

    def the_same(self, method: str, **options: Any) -> list[Due]:
        found = [
            sorted(getattr(backend, method)(**options), key=lambda due: due.member)
            for backend in self.backends
        ]
        assert found[1:] == [found[0]] * (len(found) - 1)
        return found[0]

    def pass_the_moment(self) -> None:
        def now() -> int:
            seconds, micros = self.client.time()
            return int(seconds * 1000 + micros // 1000)

        until = now() + 2
        while now() < until:
            pass

    def makes_child_thread(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(["t0", "t1", "", "u"]))
        name = data.draw(st.sampled_from(["clerk", "x"]))
        self.every("child_thread", self.story.id, parent, name, self.story.new_id("k"))

    def drops_threads(self, data: st.DataObject) -> None:
        known = sorted(set(self.backends[0].threads(self.story.id)) - {"t0", "t1"})
        if known:
            dropped = data.draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
            self.every("drop_threads", self.story.id, dropped)

    # --- what can be seen ---------------------------------------------------------------

    def looks_the_same(self, data: st.DataObject | None = None) -> None:
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
                    sorted(backend.waits(self.story.id), key=lambda wait: wait.id),
                    sorted(
                        (replace(letter, at_ms=0, position="") for letter in dead(backend)),
                        key=lambda letter: letter.delivery.id,
                    ),
                    [len(backend.log(name)) for name in self.neighbours],
                    backend.stats(),
                )
            )
        assert seen[1:] == [seen[0]] * (len(seen) - 1)

    @invariant()
    def adds_up(self) -> None:
        """In flight and waiting are never negative, and an ended conversation has an ending."""
        row = self.backends[0].conversation(self.story.id)
        if row is None:
            return
        assert 0 <= row.waiting <= row.in_flight
        running = row.status in (ConversationStatus.RUNNING, ConversationStatus.WAITING)
        assert row.in_flight > 0 or not running, "nothing in flight, and yet not ended"


def _holder(data: st.DataObject) -> dict[str, Any]:
    """Who begins, and for how long."""
    owner = data.draw(st.sampled_from(["w1", "w2"]))
    return {"owner": owner, "lease_ms": data.draw(SOON_OR_LATE)}


def _turn(owner: str) -> str:
    """A turn of this worker, which nobody else has."""
    return f"{owner}/{next(_turns)}"


def dead(backend: SharedBackend) -> list[DeadLetter]:
    """All dead letters, page by page."""
    read: list[DeadLetter] = []
    while page := backend.dead_letters(limit=2, before=read[-1].position if read else None):
        read += page
    assert [each.position for each in read] == sorted({d.position for d in read}, reverse=True)
    return read


# --- what a commit may hold -----------------------------------------------------------------


def _calls(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return machine.story.call(frame, data.draw(st.sampled_from(["helper", "other"])))


def _delivers(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"deliveries": (machine.story.delivery(frame),)}


def _waits(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"waits": (machine.story.wait(frame),)}


def _ends(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    return {"ending": Ending(ConversationStatus.COMPLETED, {"by": frame.delivery.id})}


def _fails(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    """For good: the caller, a branch or whoever injected is told, or nobody."""
    buried = {"dead_letter": True, "note": f"{frame.delivery.id} is broken"}
    if frame.delivery.scope and data.draw(st.booleans()):
        branch = frame.delivery.scope[-1]
        return {**buried, "results": (machine.story.result(frame, success=False, branch=branch),)}
    if data.draw(st.booleans()):
        return {**buried, "ending": Ending(ConversationStatus.ERROR, {"code": "handler"})}
    return buried


def _fans_out(machine: SameStory, frame: Frame, data: st.DataObject) -> dict[str, Any]:
    is_chained = data.draw(st.booleans())
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
        kind="system.sequence" if is_chained else "system.buffer",
        delivery_ids=("reserved",) * is_chained,
    )
    if is_chained:  # its later steps come with the answers of those before
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
    state = machine.backends[0].join(story.id, branch.join_id)
    assert state is not None
    following = Branch(branch.join_id, branch.index + 1)
    if success and state.join.is_chained and following.index < state.join.total:
        thread = Thread(story.new_id("s"), ("console", "step"), "t1", following)
        scope = (*frame.delivery.scope[:-1], following)
        step = story.delivery(frame, thread_id=thread.id, scope=scope, opens_branch=True)
        result = then(result, step, thread)
    return {"results": (result,)}


_PARTS = {
    "answers": _answers,
    "calls": _calls,
    "delivers": _delivers,
    "ends": _ends,
    "fails": _fails,
    "fans_out": _fans_out,
    "waits": _waits,
}


_HAPPENINGS = [
    *[SameStory.runs] * 8,
    *[SameStory.goes_wrong] * 2,
    *[SameStory.commits_any] * 2,
    *[SameStory.sweeps, SameStory.publishes, SameStory.republishes, SameStory.begins] * 2,
    *[SameStory.opens, SameStory.opens_many, SameStory.opens_and_begins],
    *[SameStory.releases, SameStory.answers],
    *[SameStory.replays, SameStory.drops, SameStory.retries_any],
    *[SameStory.renews, SameStory.abandons, SameStory.kills],
    *[SameStory.makes_child_thread, SameStory.drops_threads, SameStory.looks_the_same],
]


@pytest.mark.hypothesis
@pytest.mark.timeout(900)  # it takes seconds, but to shorten a history that failed takes minutes
def test_all_backends_tell_the_same_story(
    redis_client: redis.Redis, manager_door: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random histories of one conversation, every operation of the contract among them."""
    monkeypatch.setattr(SameStory, "client", redis_client, raising=False)
    monkeypatch.setattr(SameStory, "door", manager_door, raising=False)
    SameStory.TestCase.settings = settings(
        max_examples=80,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    SameStory.TestCase().runTest()
