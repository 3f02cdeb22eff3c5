"""The contract of every backend: a join fires once, never early, and never not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stories import DONE, SILENT, Bench, Story, ids, then
from threadloom.routing.records import (
    Branch,
    Ending,
    Skip,
    StoredResult,
    Thread,
)
from threadloom.routing.states import ConversationStatus

NOTHING = Ending(ConversationStatus.COMPLETED, None)

# total, need_ok, need_failed, the answers in order, how many of them it takes
THRESHOLDS = [
    pytest.param(3, 0, 0, "-+-", 3, id="best_effort waits for all"),
    pytest.param(3, 0, 1, "+++", 3, id="all: met by the last"),
    pytest.param(3, 0, 1, "+-+", 2, id="all, fail_fast: lost at the first failure"),
    pytest.param(3, 1, 0, "-+-", 2, id="any: met by the first success"),
    pytest.param(3, 1, 0, "---", 3, id="any: lost when all have failed"),
    pytest.param(5, 2, 4, "+-+--", 3, id="at_least 2 of 5: met"),
    pytest.param(5, 2, 4, "--+--", 5, id="at_least 2 of 5: lost"),
    pytest.param(1, 0, 0, "-", 1, id="a single item"),
]


@pytest.mark.parametrize(("total", "need_ok", "need_failed", "answers", "takes"), THRESHOLDS)
def test_a_join_fires_at_its_threshold(
    story: Story, total: int, need_ok: int, need_failed: int, answers: str, takes: int
) -> None:
    """Its body is published by the answer that decides, held before, and never again."""
    join = story.open_join(total, need_ok=need_ok, need_failed=need_failed)
    body = f"{join}.body"
    assert story.try_begin(body) == Skip("held")
    for index, answer in enumerate(answers[: takes - 1]):
        assert story.reply(f"{join}.{index}", success=answer == "+").publications == ()
        assert not story.counts(join)[2]
    decides = story.reply(f"{join}.{takes - 1}", success=answers[takes - 1] == "+")
    assert ids(decides.publications) == [body]
    counted = answers[:takes]
    assert story.counts(join) == (counted.count("+"), counted.count("-"), True)
    assert story.events("join") == [f"fired {join}"]
    for index in range(takes, total):
        assert story.try_begin(f"{join}.{index}") == Skip("cancelled")
    assert story.run(body, ending=DONE).release == DONE
    assert story.row.in_flight == 0


def test_the_frame_of_a_branch_knows_its_join(story: Story) -> None:
    """And publications name the branch, so that Celery's tools can show it."""
    frame = story.start()
    changes = story.fan_out(frame, 2, memo={"buffer_id": "b", "n": [1]}, label="b")
    done = story.commit(frame, **changes)
    assert [p.branch for p in done.publications] == [Branch("j1", 0), Branch("j1", 1)]
    item = story.begin("j1.1")
    assert item.join == changes["joins"][0]
    assert item.thread == changes["threads"][1]
    state = story.backend.join(story.id, "j1")
    assert state is not None
    assert state.join == changes["joins"][0]
    assert story.backend.join(story.id, "j9") is None
    assert story.backend.join("nobody's", "j1") is None


def test_results_are_read_in_parts_and_in_order(story: Story) -> None:
    """Every index that has answered, exactly as it answered; nothing for the others."""
    join = story.open_join(5)
    for index in (4, 0, 3):
        story.reply(f"{join}.{index}", success=index != 3)
    read = story.backend.results(story.id, join, 0, 5)
    assert read == [
        StoredResult(0, True, b"<R>0|True</R>", "desk.R"),
        StoredResult(3, False, b"<R>3|False</R>", ""),
        StoredResult(4, True, b"<R>4|True</R>", "desk.R"),
    ]
    assert [r.index for r in story.backend.results(story.id, join, 1, 4)] == [3]
    assert story.backend.results(story.id, join, 5, 9) == []
    assert story.backend.results(story.id, join, 3, 3) == []
    assert story.backend.results("nobody's", join, 0, 5) == []


def test_an_index_is_counted_once(story: Story) -> None:
    """A branch that answers twice, in one commit or in two, has answered once."""
    join = story.open_join(2)
    frame = story.begin(f"{join}.0")
    more = story.delivery(frame)
    results = (story.result(frame), story.result(frame, success=False))
    story.commit(frame, results=results, deliveries=(more,))
    late = story.begin(more.id)
    branch = Branch(join, 0)
    assert story.commit(late, results=(story.result(late, branch=branch),)).publications == ()
    assert story.counts(join) == (1, 0, False)
    assert story.events("late") == [f"{join}.0", more.id]


def test_twenty_branches_that_answer_at_once_fire_one_body(story: Story) -> None:
    """Each is counted, and exactly one commit publishes the body."""
    join = story.open_join(20)
    frames = [story.begin(f"{join}.{index}") for index in range(20)]
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda f: story.commit(f, results=(story.result(f),)), frames))
    assert sorted(i for d in done for i in ids(d.publications)) == [f"{join}.body"]
    assert story.counts(join) == (20, 0, True)
    assert story.row.in_flight == 1


def test_an_answer_after_the_end_is_logged(story: Story) -> None:
    """It was running when the join fired: its commit counts nothing and creates nothing."""
    join = story.open_join(2, need_ok=1)
    slow = story.begin(f"{join}.1")
    story.reply(f"{join}.0")
    late = story.commit(slow, results=(story.result(slow),), **story.call(slow))
    assert late.publications == ()
    assert story.counts(join) == (1, 0, True)
    assert story.events("late") == [f"{join}.1"]
    assert story.row.in_flight == 1  # the body


# --- windows --------------------------------------------------------------------------------


def test_a_window_releases_one_item_per_answer(story: Story) -> None:
    """Two of five run at once; each answer, of either kind, lets exactly the next one go."""
    frame = story.start()
    started = story.commit(frame, **story.fan_out(frame, 5, window=2))
    assert ids(started.publications) == ["j1.0", "j1.1"]
    assert (story.row.in_flight, story.row.deliveries) == (2, 7)
    assert story.try_begin("j1.2") == Skip("held")
    assert ids(story.reply("j1.1").publications) == ["j1.2"]
    assert ids(story.reply("j1.2", success=False).publications) == ["j1.3"]
    assert ids(story.run("j1.0").publications) == ["j1.4"], "also one that says nothing"
    assert story.row.in_flight == 2
    assert ids(story.reply("j1.3").publications) == []
    assert ids(story.reply("j1.4").publications) == ["j1.body"]


def test_a_window_as_wide_as_the_join_holds_nothing(story: Story) -> None:
    frame = story.start()
    done = story.commit(frame, **story.fan_out(frame, 2, window=3))
    assert ids(done.publications) == ["j1.0", "j1.1"]
    assert ids(story.reply("j1.0").publications) == []
    assert ids(story.reply("j1.1").publications) == ["j1.body"]


@pytest.mark.parametrize("collect", [True, False])
def test_what_a_window_still_held_never_runs(story: Story, collect: bool) -> None:
    """The join fires early: the held items are no longer anyone's concern."""
    join = story.open_join(4, window=1, need_ok=1, collect=collect)
    done = story.reply(f"{join}.0")
    assert ids(done.publications) == [f"{join}.body"] * collect
    assert story.try_begin(f"{join}.1") == Skip("held")
    ended = story.run(f"{join}.body") if collect else done
    assert ended.release == NOTHING
    assert story.row.in_flight == 0


# --- branches that end without an answer ----------------------------------------------------


def test_a_silent_branch_has_failed(story: Story) -> None:
    """Its last delivery settles without an answer: the branch fails with the given payload."""
    join = story.open_join(2)
    story.reply(f"{join}.0")
    assert ids(story.run(f"{join}.1").publications) == [f"{join}.body"]
    assert story.counts(join) == (1, 1, True)
    assert story.backend.results(story.id, join, 1, 2) == [StoredResult(1, False, SILENT, "")]


def test_a_branch_is_silent_only_when_nothing_of_it_is_left(story: Story) -> None:
    """Nested calls keep it open; the last of them to end without a word ends the branch."""
    join = story.open_join(1)
    item = story.begin(f"{join}.0")
    story.commit(item, **story.call(item))
    called = story.begin("d1")
    story.commit(called, deliveries=(story.delivery(called), story.delivery(called)))
    story.run("d2")
    assert story.counts(join) == (0, 0, False)
    assert ids(story.run("d3").publications) == [f"{join}.body"]
    assert story.counts(join) == (0, 1, True)


def test_a_branch_that_has_answered_may_go_on(story: Story) -> None:
    """What it still does ends in silence, which is not a second answer."""
    join = story.open_join(2)
    item = story.begin(f"{join}.0")
    story.commit(item, results=(story.result(item),), deliveries=(story.delivery(item),))
    story.run("d1")
    assert story.counts(join) == (1, 0, False)


def test_a_branch_that_waits_is_not_silent(story: Story) -> None:
    """A wait keeps its branch open, and its input may answer the branch."""
    join = story.open_join(1)
    item = story.begin(f"{join}.0")
    wait = story.wait(item)
    story.commit(item, waits=(wait,))
    assert (story.row.status, story.counts(join)) == (ConversationStatus.WAITING, (0, 0, False))
    story.backend.answer(story.id, wait.id, story.input_for(wait))
    assert ids(story.reply(wait.id).publications) == [f"{join}.body"]


def test_a_wait_that_nobody_needs_is_let_go(story: Story) -> None:
    """The join fired without it: the conversation does not wait for an input in vain."""
    join = story.open_join(2, need_ok=1)
    item = story.begin(f"{join}.0")
    wait = story.wait(item)
    story.commit(item, waits=(wait,))
    story.reply(f"{join}.1")
    assert (story.row.waiting, story.row.in_flight) == (0, 1)
    assert story.backend.answer(story.id, wait.id, story.input_for(wait)) is None
    assert story.run(f"{join}.body").release == NOTHING


# --- joins inside joins ---------------------------------------------------------------------


def test_a_join_inside_a_branch_keeps_the_branch_open(story: Story) -> None:
    """The inner body is part of the outer branch and answers it."""
    outer = story.open_join(2)
    item = story.begin(f"{outer}.0")
    story.commit(item, **story.fan_out(item, 2))
    story.reply("j2.0")
    assert ids(story.run("j2.1").publications) == ["j2.body"], "an inner branch may be silent"
    assert story.counts(outer) == (0, 0, False)
    assert story.begin("j2.body").delivery.scope == (Branch(outer, 0),)
    assert story.begin("j2.body", lost=True).join is not None
    body = story.begin("j2.body", lost=True)
    story.commit(body, results=(story.result(body),))
    assert ids(story.reply(f"{outer}.1").publications) == [f"{outer}.body"]


def test_an_inner_body_that_says_nothing_fails_the_outer_branch(story: Story) -> None:
    outer = story.open_join(1)
    item = story.begin(f"{outer}.0")
    story.commit(item, **story.fan_out(item, 1))
    story.reply("j2.0")
    assert ids(story.run("j2.body").publications) == [f"{outer}.body"]
    assert story.counts(outer) == (0, 1, True)


def test_branches_that_nobody_collects_do_not_keep_the_outer_branch_open(story: Story) -> None:
    """Dispatched and forgotten: the outer branch may answer, or end, before they are done."""
    outer = story.open_join(1)
    item = story.begin(f"{outer}.0")
    story.commit(item, **story.fan_out(item, 1, collect=False))
    assert story.counts(outer) == (0, 1, True)


def test_everything_inside_a_decided_branch_is_cancelled(story: Story) -> None:
    """The outer join fires: inner items, their body, waits and labels are all let go."""
    outer = story.open_join(2, need_ok=1)
    item = story.begin(f"{outer}.0")
    wait = story.wait(item)
    inner = story.fan_out(item, 3, label="inner", window=2, deadline_ms=60_000)
    story.commit(item, waits=(wait,), **inner)
    running = story.begin("j2.0")
    assert ids(story.reply(f"{outer}.1").publications) == [f"{outer}.body"]
    assert story.try_begin("j2.1") == Skip("cancelled")
    assert story.commit(running, results=(story.result(running),)).publications == ()
    assert story.events("late") == ["j2.0"]
    body = story.begin(f"{outer}.body")
    story.commit(body, **story.fan_out(body, 1, label="inner"))
    story.reply("j3.0")
    assert story.run("j3.body").release == NOTHING
    assert (story.row.in_flight, story.row.waiting) == (0, 0)


# --- sequences ------------------------------------------------------------------------------


def next_step(story: Story, frame_of: str, index: int, *, success: bool = True) -> list[str]:
    """Answer one step of `j1`; its success brings the next step along. What is published."""
    frame = story.begin(frame_of)
    branch = Branch("j1", index + 1)
    thread = Thread(f"j1.t{index + 1}", (*frame.thread.chain[:-1], "step"), "t1", branch)
    step = story.delivery(
        frame, id=f"j1.{index + 1}", thread_id=thread.id, scope=(branch,), opens_branch=True
    )
    result = then(story.result(frame, success=success), step, thread)
    return ids(story.commit(frame, results=(result,)).publications)


def start_sequence(story: Story, total: int) -> None:
    frame = story.start()
    changes = story.fan_out(
        frame, total, kind="system.sequence", need_failed=1, targets=("step",) * total
    )
    kept = [d for d in changes["deliveries"] if d.id in ("j1.body", "j1.0")]
    story.commit(frame, **{**changes, "deliveries": kept, "threads": changes["threads"][:1]})


def test_the_next_step_exists_once_its_input_counts(story: Story) -> None:
    """Steps run one after the other; the last one's answer fires the join."""
    start_sequence(story, 3)
    assert story.try_begin("j1.1") == Skip("unknown")
    assert next_step(story, "j1.0", 0) == ["j1.1"]
    assert story.backend.thread(story.id, "j1.t1") is not None
    assert next_step(story, "j1.1", 1) == ["j1.2"]
    assert ids(story.reply("j1.2").publications) == ["j1.body"]
    assert story.counts("j1") == (3, 0, True)
    assert story.row.deliveries == 5


def test_a_failed_step_ends_the_sequence(story: Story) -> None:
    """What would have followed is never created."""
    start_sequence(story, 3)
    assert next_step(story, "j1.0", 0, success=False) == ["j1.body"]
    assert story.try_begin("j1.1") == Skip("unknown")
    assert story.backend.thread(story.id, "j1.t1") is None
    assert story.row.deliveries == 3


def test_a_step_is_created_by_the_first_answer_only(story: Story) -> None:
    """A step that answers twice starts its successor once; repeating the commit adds nothing."""
    start_sequence(story, 3)
    frame = story.begin("j1.0")
    branch = Branch("j1", 1)
    made = []
    for name in ("first", "second"):
        thread = Thread(name, ("console", "clerk", "step"), "t1", branch)
        step = story.delivery(frame, id=name, thread_id=name, scope=(branch,), opens_branch=True)
        made.append(then(story.result(frame), step, thread))
    assert ids(story.commit(frame, results=tuple(made)).publications) == ["first"]
    again = story.commit(frame, results=tuple(made))
    assert (again.adopted, ids(again.publications)) == (True, ["first"])
    assert story.try_begin("second") == Skip("unknown")
    assert story.events("late") == ["j1.0"]


# --- time -----------------------------------------------------------------------------------


def test_a_deadline_fires_the_join_with_what_there_is(bench: Bench, story: Story) -> None:
    """What is missing stays missing, and is cancelled when it comes."""
    join = story.open_join(3, deadline_ms=40)
    story.reply(f"{join}.1")
    late = story.begin(f"{join}.2")
    assert bench.reclaim(story.id, "j", join) == [f"{join}.body"]
    assert story.counts(join) == (1, 0, True)
    assert [r.index for r in story.backend.results(story.id, join, 0, 3)] == [1]
    assert story.try_begin(f"{join}.0") == Skip("cancelled")
    story.commit(late, results=(story.result(late),))
    assert story.events("late") == [f"{join}.2"]
    assert story.run(f"{join}.body", ending=DONE).release == DONE
    assert story.row.in_flight == 0


def test_a_join_that_fired_has_no_deadline_any_more(bench: Bench, story: Story) -> None:
    join = story.open_join(1, deadline_ms=60_000)
    assert story.backend.stats()["due"] == 2
    story.reply(f"{join}.0")
    story.run(f"{join}.body", ending=DONE)
    story.backend.released(story.id)
    assert story.backend.stats()["due"] == 0


def test_a_time_limit_runs_from_the_begin_of_its_item(bench: Bench, story: Story) -> None:
    """An item that does not answer in time fails its branch and lets the next one go."""
    join = story.open_join(2, window=1, answer_within_ms=40)
    assert story.backend.stats()["due"] == 1, "no limit while it lies in a queue"
    slow = story.begin(f"{join}.0")
    assert bench.reclaim(story.id, "b", f"{join}:0") == [f"{join}.1"]
    assert story.counts(join) == (0, 1, False)
    assert story.backend.results(story.id, join, 0, 1) == [StoredResult(0, False, SILENT, "")]
    assert story.commit(slow, results=(story.result(slow),), **story.call(slow)).publications == ()
    assert (story.counts(join), story.events("late")) == ((0, 1, False), [f"{join}.0"])
    assert ids(story.reply(f"{join}.1").publications) == [f"{join}.body"]
    assert bench.backend.stats()["due"] == 1, "an answer in time lifts the limit"


def test_a_time_limit_covers_everything_its_branch_causes(bench: Bench, story: Story) -> None:
    """Calls and waits inside a branch that ran out of time are cancelled too."""
    join = story.open_join(2, answer_within_ms=40)
    item = story.begin(f"{join}.0")
    wait = story.wait(item)
    story.commit(item, waits=(wait,), **story.call(item))
    bench.reclaim(story.id, "b", f"{join}:0")
    assert (story.row.waiting, story.row.in_flight) == (0, 2)
    assert story.try_begin("d1") == Skip("cancelled")
    story.reply(f"{join}.1")
    assert story.run(f"{join}.body").release == NOTHING


def test_a_second_attempt_does_not_extend_the_time_limit(bench: Bench, story: Story) -> None:
    join = story.open_join(1, answer_within_ms=60)
    story.begin(f"{join}.0", lease_ms=1)
    bench.late(story.id, "d", f"{join}.0")
    story.begin(f"{join}.0", owner="worker-2")
    assert bench.reclaim(story.id, "b", f"{join}:0") == [f"{join}.body"]
    assert story.try_begin(f"{join}.0", lost=True) == Skip("cancelled")
