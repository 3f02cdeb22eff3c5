"""The contract of every backend: what failed for good is kept, bounded, and can be replayed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.stories import DONE, KILLED, LONG_MS, Bench, Story, ids
from threadloom.routing.backends import MemoryBackend, SharedBackend
from threadloom.routing.gate import Refused
from threadloom.routing.records import DeadLetter, Ending, Release, Skip
from threadloom.routing.states import ConversationStatus
from threadloom.routing.store import DEAD_LETTERS, REFUSED

BROKEN = Ending(ConversationStatus.ERROR, {"code": "handler"})


def die(story: Story, delivery_id: str, **changes: Any) -> None:
    """Run a delivery for the last time."""
    given = {"note": "why", "dead_letter": True, **changes}
    story.run(delivery_id, **given)


def broken(story: Story) -> Story:
    """A conversation that its first delivery ended with an error; whoever injected it knows."""
    story.backend.open(story.opening())
    die(story, story.id, ending=BROKEN)
    assert story.try_begin(story.id) == Release(BROKEN, 1)
    story.backend.released(story.id)
    return story


def pages(backend: SharedBackend, limit: int) -> list[DeadLetter]:
    read: list[DeadLetter] = []
    while page := backend.dead_letters(limit=limit, before=read[-1].position if read else None):
        assert len(page) <= limit
        read += page
    return read


# --- the list -------------------------------------------------------------------------------


def test_a_dead_letter_has_all_that_is_to_be_known(story: Story) -> None:
    """The delivery with its envelope, how often it ran, and why it is here."""
    story.start()
    frame = story.begin(story.id, lost=True)
    story.commit(frame, note="a | b\n{c}", dead_letter=True, ending=BROKEN)
    [letter] = story.backend.dead_letters(limit=9)
    assert letter.conversation_id == story.id
    assert letter.delivery == story.opening().entry
    assert (letter.attempts, letter.reason) == (2, "a | b\n{c}")
    assert story.row.created_ms <= letter.at_ms <= story.row.updated_ms
    assert story.backend.stats()["dead_letters"] == 1


def test_only_what_failed_for_good_is_a_dead_letter(story: Story) -> None:
    """Neither a fault that was told, nor what its join did not wait for."""
    join = story.open_join(3, need_ok=1)
    story.run(f"{join}.0", note="told")
    frame = story.begin(f"{join}.1")
    story.reply(f"{join}.2")
    story.commit(frame, note="why", dead_letter=True)
    assert story.backend.dead_letters(limit=9) == []
    assert story.events("late") == [f"{join}.1"]


def test_dead_letters_are_listed_newest_first_page_by_page(bench: Bench) -> None:
    """Of many conversations, some of one millisecond: none twice, none left out."""
    for n in range(60):
        story = Story(bench.backend, id=f"{n * 37 % 60}|x")
        story.backend.open(story.opening())
        die(story, story.id)
        if n % 20 == 10:
            bench.tick()
    read = pages(bench.backend, 7)
    assert sorted(letter.conversation_id for letter in read) == sorted(f"{n}|x" for n in range(60))
    assert all(a.at_ms >= b.at_ms for a, b in pairwise(read))
    if isinstance(bench.backend, MemoryBackend):  # its clock stands still in between
        assert any(a.at_ms == b.at_ms for a, b in pairwise(read))
    assert pages(bench.backend, 60) == read
    assert bench.backend.dead_letters(limit=0) == []


def test_the_list_is_bounded_and_keeps_the_newest(bench: Bench, story: Story) -> None:
    """So many of a shard: an organism that fails all day does not fill the registry."""
    frame = story.start()
    more = tuple(story.delivery(frame) for _ in range(DEAD_LETTERS + 5))
    story.commit(frame, deliveries=more)
    for n, delivery in enumerate(more):
        if n == 5:
            bench.tick()
        die(story, delivery.id)
    kept = {letter.delivery.id for letter in pages(bench.backend, 300)}
    assert kept == {delivery.id for delivery in more[5:]}
    assert bench.backend.stats()["dead_letters"] == DEAD_LETTERS


def test_dead_letters_go_with_their_conversation(bench: Bench, story: Story) -> None:
    """Those of others stay."""
    mortal = bench.another(ttl_s=1)
    gone, kept = broken(Story(mortal, id=story.id)), Story(mortal, id=f"{story.id}-kept")
    mortal.released(gone.id)
    join = kept.open_join(2)
    die(kept, f"{join}.0")
    kept.begin(f"{join}.1")

    def gone_at_last() -> int:
        mortal.renew([(kept.id, f"{join}.1")], owner=kept.owner, lease_ms=LONG_MS)
        return mortal.expire(limit=9).gone

    assert bench.until(gone_at_last) == 1
    assert [letter.conversation_id for letter in mortal.dead_letters(limit=9)] == [kept.id]
    assert not mortal.drop(gone.id, gone.id)
    assert mortal.replay(gone.id, gone.id) is None


def test_a_dead_letter_is_dropped_once(story: Story) -> None:
    """By one of twenty; its conversation is as it was."""
    broken(story)
    assert not story.backend.drop(story.id, "unheard-of")
    assert not story.backend.drop("nobody's", story.id)
    with ThreadPoolExecutor(20) as pool:
        dropped = list(pool.map(lambda _: story.backend.drop(story.id, story.id), range(20)))
    assert sorted(dropped) == [False] * 19 + [True]
    assert story.backend.dead_letters(limit=9) == []
    assert story.backend.replay(story.id, story.id) is None
    assert story.row.status is ConversationStatus.ERROR


# --- replay ---------------------------------------------------------------------------------


def test_a_replayed_conversation_goes_on_and_ends_again(story: Story) -> None:
    """Whoever injected it, and was told of the error, is told of the value."""
    broken(story)
    sent = story.backend.replay(story.id, story.id)
    assert sent is not None
    assert (sent.id, sent.canvas) == (story.id, None)
    assert story.backend.dead_letters(limit=9) == []
    assert (story.row.status, story.row.value) == (ConversationStatus.RUNNING, None)
    assert story.row.in_flight == 1
    done = story.run(story.id, ending=DONE)
    assert done.release == DONE
    assert done.resume is not None
    assert done.resume.canvas == "{}"
    assert story.try_begin(story.id) == Release(DONE, 2)
    story.backend.released(story.id)
    assert story.try_begin(story.id) == Skip("settled")
    assert story.events("ended") == ["error", "completed"]
    events = [line.event for line in story.backend.log(story.id)]
    assert events == ["message", "dead_letter", "note", "ended", "replayed", "ended"]


def test_a_replayed_delivery_has_all_its_tries(story: Story) -> None:
    """They count from the replay; the attempts, which fence zombies, go on. It may die again."""
    story.start()
    zombie = story.begin(story.id, lost=True)
    story.commit(zombie, note="why", dead_letter=True, ending=BROKEN)
    story.backend.replay(story.id, story.id)
    frame = story.begin(story.id)
    assert (frame.attempt, frame.tries, frame.abandoned) == (3, 1, "")
    frame = story.begin(story.id, lost=True)
    assert (frame.attempt, frame.tries, frame.abandoned) == (4, 2, "lost")
    story.commit(frame, note="again", dead_letter=True, ending=BROKEN)
    [letter] = story.backend.dead_letters(limit=9)
    assert (letter.attempts, letter.reason) == (4, "again")
    story.backend.replay(story.id, story.id)
    assert story.begin(story.id).tries == 1


def test_a_replay_deep_inside_reaches_whoever_injected(story: Story) -> None:
    """The helper's error had ended its caller; now its answer comes, and the caller goes on."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    called = story.begin("d1")
    fault = story.delivery(called, thread_id="t1", to="clerk")
    story.commit(called, deliveries=(fault,), note="why", dead_letter=True)
    story.run(fault.id, ending=BROKEN)
    assert story.backend.replay(story.id, "d1") is not None
    again = story.begin("d1")
    reply = story.delivery(again, thread_id="t1", to="clerk")
    story.commit(again, deliveries=(reply,))
    assert story.run(reply.id, ending=DONE).release == DONE


def test_one_of_twenty_replays_a_dead_letter(story: Story) -> None:
    """It is in flight once, and its conversation ends once more."""
    broken(story)
    with ThreadPoolExecutor(20) as pool:
        sent = list(pool.map(lambda _: story.backend.replay(story.id, story.id), range(20)))
    assert sum(each is not None for each in sent) == 1
    assert story.row.in_flight == 1
    assert story.run(story.id, ending=DONE).release == DONE
    assert story.row.in_flight == 0


def test_a_replay_that_nobody_publishes_is_found(bench: Bench, story: Story) -> None:
    """Whoever asked for it died before publishing: it lies in the outbox like any other."""
    broken(story)
    story.backend.replay(story.id, story.id)
    assert bench.reclaim(story.id, "d", story.id) == [story.id]


def test_a_replay_in_a_completed_conversation_changes_no_value(story: Story) -> None:
    """It had gone on without the letter: that runs, for what it does outside; nobody is told."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    called = story.begin("d1")
    fault = story.delivery(called, thread_id="t1", to="clerk")
    story.commit(called, deliveries=(fault,), note="why", dead_letter=True)
    story.run(fault.id, ending=DONE)
    assert story.try_begin(story.id) == Release(DONE, 1)
    story.backend.released(story.id)
    assert story.backend.replay(story.id, "d1") is not None
    assert (story.row.status, story.row.value) == (ConversationStatus.COMPLETED, DONE.value)
    other = Ending(ConversationStatus.COMPLETED, {"type": "Other"})
    assert story.run("d1", ending=other).release is None
    assert (story.row.status, story.row.value) == (ConversationStatus.COMPLETED, DONE.value)
    assert story.row.in_flight == 0
    assert story.try_begin(story.id) == Skip("settled")
    assert story.events("late") == ["d1"]


def test_nothing_of_a_killed_conversation_is_replayed(story: Story) -> None:
    """The letter stays, for whoever looks; it can be dropped."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    die(story, "d1", deliveries=(story.delivery(frame),))
    story.backend.kill(story.id, KILLED)
    assert story.backend.replay(story.id, "d1") is None
    assert len(story.backend.dead_letters(limit=9)) == 1
    assert story.backend.drop(story.id, "d1")


def test_a_replay_in_an_open_branch_keeps_it_open(story: Story) -> None:
    """What is replayed is in flight in its branch, whose end waits for it and for the rest."""
    join = story.open_join(1)
    item = story.begin(f"{join}.0")
    story.commit(item, **story.call(item))
    called = story.begin("d1")
    fault = story.delivery(called, thread_id=item.thread.id, to="item")
    story.commit(called, deliveries=(fault,), note="why", dead_letter=True)
    told = story.begin(fault.id)
    wait = story.wait(told)
    story.commit(told, waits=(wait,))
    assert story.backend.replay(story.id, "d1") is not None
    again = story.begin("d1")
    reply = story.delivery(again, thread_id=item.thread.id, to="item")
    story.commit(again, deliveries=(reply,))
    story.run(reply.id)
    assert story.counts(join) == (0, 0, False), "it still waits for its input"
    story.backend.answer(story.id, wait.id, story.input_for(wait))
    assert ids(story.reply(wait.id).publications) == [f"{join}.body"]
    assert story.counts(join) == (1, 0, True)


def test_an_answered_branch_is_not_answered_again(story: Story) -> None:
    """The join counted the failure, and the conversation ended with it: that remains."""
    join = story.open_join(2)
    item = story.begin(f"{join}.0")
    failure = story.result(item, success=False)
    story.commit(item, results=(failure,), note="why", dead_letter=True)
    story.reply(f"{join}.1")
    story.run(f"{join}.body", ending=BROKEN)
    assert story.backend.replay(story.id, f"{join}.0") is not None
    assert (story.row.status, story.row.value) == (BROKEN.status, BROKEN.value)
    assert story.reply(f"{join}.0").release is None
    assert story.counts(join) == (1, 1, True)
    assert story.backend.results(story.id, join, 0, 1)[0].payload == failure.payload
    assert (story.row.status, story.row.value) == (BROKEN.status, BROKEN.value)
    assert story.events("late") == [f"{join}.0"]


@pytest.mark.parametrize("status", ["running", "error"])
def test_what_cannot_count_any_more_is_not_replayed(story: Story, status: str) -> None:
    """Its join has fired without it, or its thread was forgotten: the letter stays."""
    join = story.open_join(2, need_ok=1)
    item = story.begin(f"{join}.0")
    story.commit(item, **story.call(item))
    called = story.begin("d1")
    fault = story.delivery(called, thread_id=item.thread.id, to="item")
    story.commit(called, deliveries=(fault,), note="why", dead_letter=True)
    story.reply(f"{join}.1")
    body = story.begin(f"{join}.body")
    calls = story.call(body, "other")
    story.commit(body, **calls)
    other = story.begin(calls["deliveries"][0].id)
    story.commit(other, note="why", dead_letter=True, ending=BROKEN if status == "error" else None)
    story.backend.drop_threads(story.id, [other.thread.id])
    before = story.row
    for delivery in ("d1", other.delivery.id):
        assert story.backend.replay(story.id, delivery) is None
    assert story.row == before
    assert len(story.backend.dead_letters(limit=9)) == 2


# --- messages that were refused -------------------------------------------------------------


def refused_as(name: str) -> Refused:
    return Refused(name, 5, "desk", "an-id", "echo", 'a "cause" | {€}', "how it began")


def test_a_refused_message_is_kept_whole_and_dropped_once(bench: Bench) -> None:
    """The newest first, each once however often it is said; at most so many; none after `clear`."""
    backend = bench.backend
    first, second = refused_as("first"), refused_as("second")
    for each in (first, second, second):
        backend.refuse(each)
    assert list(backend.refused()) == [second, first]
    with ThreadPoolExecutor(8) as pool:
        dropped = list(pool.map(lambda _: backend.drop_refused("first"), range(8)))
    assert sorted(dropped) == [False] * 7 + [True]
    for number in range(REFUSED):
        backend.refuse(refused_as(str(number)))
    kept = backend.refused()
    assert (len(kept), kept[0].id, kept[-1].id) == (REFUSED, str(REFUSED - 1), "0")
    backend.clear()
    assert list(backend.refused()) == []


def test_refused_messages_go_after_the_retention(bench: Bench) -> None:
    """They belong to no conversation that would take them along."""
    mortal = bench.another(ttl_s=1)
    mortal.refuse(refused_as("x"))
    assert bench.until(lambda: not mortal.refused())
