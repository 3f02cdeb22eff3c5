"""The contract of every backend: deliveries are created, leased and settled exactly once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from tests.stories import DONE, KILLED, LONG_MS, Bench, Story, committed, ids
from threadloom.routing.backends import SharedBackend
from threadloom.routing.errors import IdTakenError, UnknownConversationError
from threadloom.routing.records import (
    Begun,
    Committed,
    Ending,
    Fenced,
    Release,
    Replan,
    Skip,
    Thread,
)
from threadloom.routing.states import ConversationStatus, SkipReason


def at_once(times: int, work: Any) -> list[Any]:
    """What `work(n)` returns for every n, all called at the same time."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(work, range(times)))


# --- opening --------------------------------------------------------------------------------


def test_an_id_injected_again_is_the_same_conversation(story: Story) -> None:
    """Until its message was published the first one comes back; then there is nothing to do."""
    opening = story.opening(canvas='{"chain":[]}')
    first = story.backend.open(opening)
    assert first is not None
    assert (first.conversation_id, first.id, first.to) == (story.id, story.id, "clerk")
    assert (first.from_id, first.payload_name, first.canvas) == ("console", "Ask", None)
    assert story.backend.open(opening) == first
    story.backend.published(story.id, [first.id])
    assert story.backend.open(opening) is None
    assert (story.row.deliveries, story.row.in_flight) == (1, 1)
    assert story.events("message") == [story.id]


def test_thirty_who_inject_one_id_at_once_make_one_conversation(story: Story) -> None:
    """And exactly one of thirty workers that receive it at once runs it."""
    opening = story.opening()

    def inject(n: int) -> Any:
        return story.backend.open_and_begin(opening, owner=f"worker-{n}", lease_ms=LONG_MS)

    answers = at_once(30, inject)
    assert sum(isinstance(a, Begun) for a in answers) == 1
    assert answers.count(Skip("leased")) == 29
    assert (story.row.deliveries, len(story.backend.conversations(limit=9))) == (1, 1)


def test_the_first_delivery_comes_with_its_frame(story: Story) -> None:
    """One operation creates a conversation and hands out all that a worker needs to run it."""
    frame = story.start()
    opening = story.opening()
    assert (frame.conversation_id, frame.delivery, frame.thread) == (
        story.id,
        opening.entry,
        opening.thread,
    )
    assert (frame.attempt, frame.deliveries, frame.abandoned) == (1, 1, "")
    assert (frame.children, frame.join) == ({}, None)
    assert story.row.status is ConversationStatus.RUNNING
    assert (story.row.entry, story.row.from_id) == ("clerk", "console")


@pytest.mark.parametrize("delivery_id", ["unheard-of", ""])
def test_what_the_registry_does_not_know_is_skipped(story: Story, delivery_id: str) -> None:
    """Neither an error nor a run: a message may outlive its conversation."""
    assert story.try_begin(delivery_id) == Skip("unknown")
    frame = story.start()
    assert story.try_begin(delivery_id) == Skip("unknown")
    stranger = replace(story.transition(frame), delivery_id=delivery_id)
    assert story.backend.commit(stranger) == Fenced()
    assert story.backend.commit(replace(stranger, conversation_id="nobody's")) == Fenced()


# --- leases ---------------------------------------------------------------------------------


def test_a_live_lease_is_respected(story: Story) -> None:
    """A duplicate message finds it leased: in another worker, and in the same one."""
    story.owner = "worker-1/7"
    frame = story.start()
    assert story.try_begin(story.id, owner="worker-1/7/b") == Skip("leased")
    assert story.try_begin(story.id, owner="worker-2") == Skip("leased")
    assert story.try_begin(story.id, owner="worker-2", lost=True) == Skip("leased")
    assert story.commit(frame, ending=DONE).release == DONE


def test_a_turn_that_asks_again_gets_the_same_grant(story: Story) -> None:
    """The answer to its first question was lost: no attempt is, nor why the one before ended."""
    story.start()
    story.backend.abandon(story.id, story.id, owner=story.owner, reason="timeout")
    frame = story.begin(story.id, owner="worker-2/3/a", lease_ms=1)
    again = story.begin(story.id, owner="worker-2/3/a")
    assert again == frame
    assert (again.attempt, again.abandoned) == (2, "timeout")
    assert story.events("abandoned") == ["timeout"]
    assert story.try_begin(story.id, owner="worker-2/3/b") == Skip("leased")
    opening = story.opening()
    opened = story.backend.open_and_begin(opening, owner="worker-2/3/a", lease_ms=LONG_MS)
    assert opened == Begun(frame)
    assert story.commit(frame, ending=DONE).release == DONE


def test_a_worker_holds_what_its_processes_hold_and_they_what_their_turns_do(
    bench: Bench, story: Story
) -> None:
    """A lost process gives up its own lease, not its neighbour's; a worker renews all of them."""
    other = Story(story.backend, id=f"{story.id}-other")
    for each, process in ((story, "7"), (other, "70")):
        each.backend.open(each.opening())
        each.begin(each.id, owner=f"worker-1/{process}/a", lease_ms=1)
        assert each.backend.abandon(each.id, each.id, owner="worker-1/7/", reason="lost") is None
    assert other.backend.abandon(other.id, other.id, owner="worker-1/7", reason="lost") is None
    leases = [(each.id, each.id) for each in (story, other)]
    story.backend.renew(leases, owner="worker-1", lease_ms=LONG_MS)
    assert [d.conversation_id for d in story.backend.due(limit=9)] == []
    lost = story.backend.abandon(story.id, story.id, owner="worker-1/7", reason="lost")
    assert lost is not None
    assert story.backend.abandon(story.id, story.id, owner="worker-1/7", reason="lost") == lost
    assert story.events("abandoned") == ["lost"]
    assert story.backend.abandon(story.id, story.id, owner="worker-2", reason="lost") is None
    story.backend.published(story.id, [story.id])
    assert story.backend.abandon(story.id, story.id, owner="worker-1/7", reason="lost") is None


def test_what_a_lost_process_ran_is_free_at_once(story: Story) -> None:
    """Its main process says so: the lease is free, and the lost process's token void."""
    zombie = story.start()
    frame = story.begin(story.id, lost=True)
    assert (frame.attempt, frame.abandoned) == (2, "lost")
    assert story.backend.commit(story.transition(zombie, ending=DONE)) == Fenced()
    assert story.row.status is ConversationStatus.RUNNING
    assert story.commit(frame, ending=DONE).release == DONE


def test_an_expired_lease_is_taken_over_and_the_zombie_fenced(bench: Bench, story: Story) -> None:
    """Whoever comes after the lease ran out gets the next token; a late commit changes nothing."""
    story.start()
    zombie = story.begin(story.id, lost=True, lease_ms=1)
    bench.late(story.id, "d", story.id)
    frame = story.begin(story.id, owner="worker-2")
    assert (frame.attempt, frame.abandoned) == (3, "lost")
    assert story.backend.commit(story.transition(zombie, **story.call(zombie))) == Fenced()
    assert story.row.deliveries == 1
    assert story.events("abandoned") == ["lost", "lost"]


def test_a_lease_can_be_renewed_by_its_owner_only(bench: Bench, story: Story) -> None:
    """A renewed lease is not due; someone else's renewal of it does nothing."""
    story.backend.open(story.opening())
    story.begin(story.id, lease_ms=1)
    other = Story(story.backend, id=f"{story.id}-other")
    other.backend.open(other.opening())
    other.begin(other.id, lease_ms=1, owner="worker-2")
    leases = [(story.id, story.id), (other.id, other.id), ("gone", "gone")]
    story.backend.renew(leases, owner=story.owner, lease_ms=LONG_MS)
    bench.late(other.id, "d", other.id)
    assert [due.conversation_id for due in story.backend.due(limit=9)] == [other.id]
    assert story.try_begin(story.id, owner="worker-2") == Skip("leased")


def test_an_abandoned_run_is_told_to_the_next_one(story: Story) -> None:
    """A worker that gives up frees the delivery at once; its reason reaches the next attempt."""
    story.start()
    assert story.backend.abandon(story.id, story.id, owner="worker-2", reason="timeout") is None
    again = story.backend.abandon(story.id, story.id, owner=story.owner, reason="timeout")
    assert again is not None
    assert again.id == story.id
    assert story.backend.abandon(story.id, story.id, owner=story.owner, reason="lost") is None
    assert story.backend.abandon(story.id, story.id, owner="worker-2", reason="timeout") is None
    frame = story.begin(story.id, owner="worker-2")
    assert (frame.attempt, frame.abandoned) == (2, "timeout")
    assert story.events("abandoned") == ["timeout"]


def test_a_reason_outlives_its_publication(story: Story) -> None:
    """Also an owner's name with the registry's own separators in it is only a name."""
    story.owner = "celery@host|7|x y"
    story.start()
    story.backend.abandon(story.id, story.id, owner=story.owner, reason="timeout")
    story.backend.published(story.id, [story.id])
    frame = story.begin(story.id)
    assert frame.abandoned == "timeout"
    assert story.begin(story.id, lost=True).attempt == 3


# --- commits --------------------------------------------------------------------------------


def test_a_call_creates_everything_in_one_step(story: Story) -> None:
    """The called delivery runs with its own thread; the caller's later frame knows the child."""
    frame = story.start()
    done = story.commit(frame, **story.call(frame, "helper"), note="as planned")
    [sent] = done.publications
    assert (sent.id, sent.to, sent.from_id, sent.parent_id) == ("d1", "helper", "clerk", story.id)
    assert (done.adopted, done.release, done.resume) == (False, None, None)
    called = story.begin("d1")
    assert called.thread.chain == ("console", "clerk", "helper")
    assert called.deliveries == 2
    reply = story.delivery(called, thread_id="t1", to="clerk")
    story.commit(called, deliveries=(reply,))
    assert story.begin(reply.id).children == {("t1", "helper"): called.thread.id}
    assert story.events("note") == ["as planned"]


def test_a_settled_delivery_stays_settled(story: Story) -> None:
    """A duplicate message, and a commit of an older attempt, come to nothing."""
    zombie = story.start()
    frame = story.begin(story.id, lost=True)
    story.commit(frame, **story.call(frame))
    assert story.try_begin(story.id, lost=True) == Skip("settled")
    assert committed(story.backend.commit(story.transition(zombie))) == Committed(adopted=True)
    assert story.row.deliveries == 2


def test_a_repeated_commit_is_adopted_and_hands_out_what_nobody_published(story: Story) -> None:
    """Its answer was lost: what the first commit created comes again, unless it was published."""
    frame = story.start()
    first, second = story.delivery(frame), story.delivery(frame)
    transition = story.transition(frame, deliveries=(first, second))
    before = committed(story.backend.commit(transition))
    again = committed(story.backend.commit(transition))
    assert again == replace(before, adopted=True)
    story.backend.published(story.id, [first.id])
    assert ids(committed(story.backend.commit(transition)).publications) == [second.id]
    story.begin(second.id)
    assert committed(story.backend.commit(transition)) == Committed(adopted=True)
    assert (story.row.deliveries, story.row.in_flight) == (3, 2)


def test_twenty_who_commit_at_once_settle_once(story: Story) -> None:
    """One commit counts, nineteen adopt it; one reply comes out of it, and one ending."""
    frame = story.start()
    transition = story.transition(frame, **story.call(frame), ending=DONE)
    answers = at_once(20, lambda _: story.backend.commit(transition))
    assert sum(a.adopted for a in answers) == 19
    assert {tuple(ids(a.publications)) for a in answers} == {("d1",)}
    assert [a.release for a in answers if a.release] == [DONE]
    assert (story.row.deliveries, story.row.in_flight) == (2, 1)
    assert story.events("ended") == ["completed"]


def test_a_child_thread_that_exists_already_makes_the_plan_stale(story: Story) -> None:
    """Two runs on one thread call the same peer: the second plan learns the first one's child."""
    frame = story.start()
    first, second = story.delivery(frame, to="clerk"), story.delivery(frame, to="clerk")
    story.commit(frame, deliveries=(first, second))
    one, two = story.begin(first.id), story.begin(second.id)
    calls = story.call(one)
    child = calls["threads"][0]
    story.commit(one, **calls)
    answer = story.backend.commit(story.transition(two, **story.call(two)))
    assert answer == Replan(4, {("t1", "helper"): child.id})
    assert story.row.deliveries == 4
    story.commit(two, deliveries=(story.delivery(two, thread_id=child.id),))
    assert set(story.backend.threads(story.id)) == {"t0", "t1", child.id}


def test_a_proposal_equal_to_what_is_there_is_no_clash(story: Story) -> None:
    frame = story.start()
    calls = story.call(frame)
    story.backend.put_thread(story.id, calls["threads"][0])
    story.commit(frame, **calls)
    called = story.begin("d1")
    story.commit(called, children=calls["children"])


def test_a_label_in_use_makes_the_plan_stale(story: Story) -> None:
    """Open joins of one kind have different labels; a fired one's is free again."""
    frame = story.start()
    first, second = story.delivery(frame), story.delivery(frame)
    story.commit(frame, deliveries=(first, second))
    one, two = story.begin(first.id), story.begin(second.id)
    story.commit(one, **story.fan_out(one, 1, label="x|y"))
    plan = story.transition(two, **story.fan_out(two, 1, label="x|y"))
    assert story.backend.commit(plan) == Replan(5, label_taken=True)
    story.reply("j1.0")
    assert ids(committed(story.backend.commit(plan)).publications) == ["j2.0"]


def test_the_delivery_limit_refuses_a_plan_but_never_a_reply(story: Story) -> None:
    """`max_deliveries` is inclusive, counts what exists, and 0 lets everything pass."""
    frame = story.start()
    calls = {"deliveries": tuple(story.delivery(frame) for _ in range(3))}
    refused = story.backend.commit(story.transition(frame, **calls, max_deliveries=3))
    assert refused == Replan(1, over_limit=True)
    story.commit(frame, **calls, max_deliveries=4)
    last = story.begin("d1")
    story.commit(last, deliveries=(story.delivery(last),))
    assert story.row.deliveries == 5


# --- endings --------------------------------------------------------------------------------


def test_a_conversation_without_anything_in_flight_completes_without_a_value(story: Story) -> None:
    """Each delivery that settles is one less in flight; the last one ends the conversation."""
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame), story.delivery(frame)))
    assert story.run("d1").release is None
    assert story.row.in_flight == 1
    done = story.run("d2")
    assert done.release == Ending(ConversationStatus.COMPLETED, None)
    assert done.resume is not None
    assert (done.resume.id, done.resume.canvas) == (story.id, "{}")
    assert (story.row.status, story.row.in_flight) == (ConversationStatus.COMPLETED, 0)


def test_the_first_ending_wins_and_later_ones_are_logged(story: Story) -> None:
    """What is in flight at the end runs on; its own ending comes too late."""
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame), story.delivery(frame)))
    value = {"type": "Sum", "payload": {"text": "ü|{}"}, "thread": "t0"}
    ending = Ending(ConversationStatus.COMPLETED, value)
    first = story.run("d1", ending=ending)
    assert (first.release, first.resume and first.resume.id) == (ending, story.id)
    second = story.run("d2", ending=Ending(ConversationStatus.ERROR, {"code": "handler"}))
    assert (second.release, second.resume) == (None, None)
    assert (story.row.status, story.row.value) == (ConversationStatus.COMPLETED, value)
    assert (story.events("ended"), story.events("late")) == (["completed"], ["d2"])


def test_the_value_is_handed_over_once(bench: Bench, story: Story) -> None:
    """Parked, due, handing, done: one caller hands over; again only when its lease ran out."""
    frame = story.start()
    assert story.try_begin(story.id, owner="worker-2") == Skip("leased")
    story.commit(frame, ending=DONE)
    release = story.try_begin(story.id, lease_ms=5)
    assert release == Release(DONE, 1)
    assert story.try_begin(story.id, lease_ms=5) == release, "its answer may have been lost"
    bench.late(story.id, "r")
    assert story.try_begin(story.id, owner="worker-2") == Release(DONE, 2)
    assert story.try_begin(story.id, owner="worker-3") == Skip("leased")
    story.backend.released(story.id)
    assert story.try_begin(story.id) == Skip("settled")
    story.backend.released(story.id)
    assert story.backend.stats()["due"] == 0


def test_only_an_ended_conversation_can_be_released(story: Story) -> None:
    """A `released` that comes before the end must not swallow the end."""
    frame = story.start()
    story.backend.released(story.id)
    story.backend.released("nobody's")
    story.commit(frame, ending=DONE)
    assert story.try_begin(story.id) == Release(DONE, 1)


def test_nobody_else_gets_the_value(story: Story) -> None:
    """Only the first delivery, which is the injected task itself, hands the value over."""
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame),), ending=DONE)
    story.run("d1")
    assert story.try_begin("d1") == Skip("settled")


# --- waiting --------------------------------------------------------------------------------


def test_a_wait_becomes_the_delivery_of_its_input(story: Story) -> None:
    """It holds the conversation open and no worker; the first input counts."""
    frame = story.start()
    wait = story.wait(frame)
    assert story.commit(frame, waits=(wait,)).publications == ()
    assert (story.row.status, story.row.waiting) == (ConversationStatus.WAITING, 1)
    assert story.try_begin(wait.id) == Skip("waiting")
    [line] = [line for line in story.backend.log(story.id) if line.event == "waiting"]
    assert (line.detail["id"], line.detail["prompt"]) == (wait.id, "Really?")
    given = story.input_for(wait)
    sent = story.backend.answer(story.id, wait.id, given)
    assert sent is not None
    assert sent.id == wait.id
    assert story.backend.answer(story.id, wait.id, given) is None
    assert (story.row.status, story.row.waiting) == (ConversationStatus.RUNNING, 0)
    assert (story.row.deliveries, story.row.in_flight) == (2, 1)
    assert story.begin(wait.id).delivery == given
    assert story.commit(story.begin(wait.id, lost=True), ending=DONE).release == DONE


def test_one_of_twenty_inputs_is_taken(story: Story) -> None:
    frame = story.start()
    wait = story.wait(frame)
    story.commit(frame, waits=(wait,))
    given = story.input_for(wait)
    answers = at_once(20, lambda _: story.backend.answer(story.id, wait.id, given))
    assert sum(answer is not None for answer in answers) == 1
    assert (story.row.waiting, story.row.deliveries) == (0, 2)


def test_an_input_for_nobody(story: Story) -> None:
    """An unknown conversation is an error; an unknown wait was answered before."""
    frame = story.start()
    given = story.input_for(story.wait(frame))
    assert story.backend.answer(story.id, given.id, given) is None
    with pytest.raises(UnknownConversationError):
        story.backend.answer("nobody's", given.id, given)


# --- killing --------------------------------------------------------------------------------


def test_nothing_of_a_killed_conversation_runs_any_more(story: Story) -> None:
    """What is in flight is refused at its begin, and what runs comes to nothing at its commit."""
    frame = story.start()
    wait = story.wait(frame)
    story.commit(frame, deliveries=tuple(story.delivery(frame) for _ in range(2)), waits=(wait,))
    running = story.begin("d1")
    told = story.backend.kill(story.id, KILLED)
    assert told is not None
    assert (told.id, told.canvas) == (story.id, "{}")
    assert story.backend.kill(story.id, KILLED) is None
    assert story.try_begin("d2") == Skip("ended")
    assert story.try_begin("d2") == Skip("ended")
    late = story.commit(running, **story.call(running), ending=DONE)
    assert (late.publications, late.release, late.adopted) == ((), None, False)
    assert story.events("late") == ["d1"]
    assert story.backend.answer(story.id, wait.id, story.input_for(wait)) is None
    assert (story.row.status, story.row.value) == (ConversationStatus.KILLED, {"code": "killed"})
    assert story.row.deliveries == 3
    assert story.try_begin(story.id) == Release(KILLED, 1)


def test_a_conversation_killed_before_its_first_delivery_ran_still_answers(story: Story) -> None:
    story.backend.open(story.opening())
    story.backend.kill(story.id, KILLED)
    assert story.try_begin(story.id) == Release(KILLED, 1)
    assert story.try_begin(story.id, owner="worker-2") == Skip("leased")


def test_an_ended_or_unknown_conversation_cannot_be_killed(backend: SharedBackend) -> None:
    story = Story(backend)
    assert backend.kill(story.id, KILLED) is None
    story.commit(story.start(), ending=DONE)
    assert backend.kill(story.id, KILLED) is None
    assert story.row.status is ConversationStatus.COMPLETED


# --- cleaned-up threads ---------------------------------------------------------------------


def test_a_delivery_on_a_forgotten_thread_is_logged_and_not_run(story: Story) -> None:
    """Late replies to an ended thread: the log shows them, the conversation does not hang."""
    frame = story.start()
    calls = story.call(frame)
    story.commit(frame, **calls)
    child: Thread = calls["threads"][0]
    assert story.backend.drop_threads(story.id, [child.id]) == 1
    assert story.try_begin("d1") == Skip("cancelled")
    assert story.events("late") == ["d1"]
    assert story.row.status is ConversationStatus.COMPLETED


# --- what an id stands for --------------------------------------------------------------------


def test_an_id_stands_for_one_listener_and_payload(story: Story) -> None:
    """Opened again with the same digest it is the same conversation; with another it is refused."""
    first = replace(story.opening(), digest="one")
    another = replace(story.opening(), digest="two")
    assert story.backend.open(first) is not None
    assert story.backend.open(first) is not None, "it was never published"
    with pytest.raises(IdTakenError):
        story.backend.open(another)
    with pytest.raises(IdTakenError):
        story.backend.open_many([another])
    assert list(story.backend.open_many([first])) == [story.id]
    assert story.backend.open_and_begin(another, owner="x", lease_ms=LONG_MS) == Skip(
        SkipReason.ANOTHER
    )
    assert isinstance(story.backend.open_and_begin(first, owner="x", lease_ms=LONG_MS), Begun)


def test_many_remember_what_each_id_stands_for(story: Story) -> None:
    """As one that was opened alone does."""
    first = replace(story.opening(), digest="one")
    assert list(story.backend.open_many([first])) == []
    with pytest.raises(IdTakenError):
        story.backend.open(replace(first, digest="two"))
    assert list(story.backend.open_many([first])) == [story.id]
