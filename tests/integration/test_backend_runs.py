"""Runs that go on, lanes and stored lists: what every backend does in one step for them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.stories import DONE, LONG_MS, Bench, Story, committed, ids
from threadloom.routing import UnknownConversationError
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Frame, Refill, Skip, Turn
from threadloom.routing.store import ROOTS


def a_turn(story: Story, *, within_s: float = 30.0, lanes: int = 0) -> Turn:
    """The run that began with the conversation's first delivery."""
    return Turn(story.id, story.owner, LONG_MS, within_s, lanes)


def calls(story: Story, frame: Frame, *local_s: float) -> dict[str, Any]:
    """A call per number, to a peer whose handler may take so long in any worker's hands."""
    made = [story.call(frame, f"peer{n}") for n in range(len(local_s))]
    return {
        "threads": tuple(thread for call in made for thread in call["threads"]),
        "children": tuple(child for call in made for child in call["children"]),
        "deliveries": tuple(
            replace(call["deliveries"][0], local_s=seconds)
            for call, seconds in zip(made, local_s, strict=True)
        ),
    }


# --- going on -------------------------------------------------------------------------------


def test_a_run_takes_the_first_and_the_others_are_published(story: Story) -> None:
    """It is begun in the same step, with all that `begin` would have told; nobody else gets it."""
    frame = story.start()
    transition = story.transition(frame, **calls(story, frame, 5.0, 30.0, 0.0, 90.0))
    done = committed(story.backend.commit(transition, turn=a_turn(story)))
    assert ids(done.publications) == ["d2", "d3", "d4"]
    assert done.begun is not None
    taken = done.begun.frame
    assert (taken.delivery, taken.attempt, taken.deliveries) == (transition.deliveries[0], 1, 5)
    assert (taken.thread, taken.join, taken.children) == (transition.threads[0], None, {})
    assert story.try_begin("d1", owner="worker-2") == Skip("leased")
    assert committed(story.backend.commit(story.transition(taken))).publications == ()
    assert story.row.in_flight == 3


@pytest.mark.parametrize("first_s", [0.0, 90.0], ids=["not local", "takes too long"])
def test_a_list_of_responses_is_taken_in_its_order(story: Story, first_s: float) -> None:
    """If the first response has to be queued, the second one waits in the queue behind it."""
    frame = story.start()
    transition = story.transition(frame, **calls(story, frame, first_s, 30.0))
    done = committed(story.backend.commit(transition, turn=a_turn(story)))
    assert (ids(done.publications), done.begun) == (["d1", "d2"], None)


@pytest.mark.parametrize("first_has_begun", [True, False])
def test_a_reply_does_not_overtake_one_that_is_queued(story: Story, first_has_begun: bool) -> None:
    """The caller gets the replies in the order in which they were sent, taken or queued."""
    frame = story.start()
    story.commit(frame, **calls(story, frame, 0.0, 0.0))
    replies = {}
    for called, reply in (("d1", "first"), ("d2", "second")):
        taken = story.begin(called)
        replied = story.delivery(taken, id=reply, thread_id="t1", to="clerk", local_s=30.0)
        transition = story.transition(taken, deliveries=(replied,))
        # The slice of the first peer's run is over, so its reply has to be queued.
        run = Turn(called, story.owner, LONG_MS, within_s=0.0 if reply == "first" else 30.0)
        replies[reply] = committed(story.backend.commit(transition, turn=run))
        if reply == "first" and first_has_begun:
            story.begin("first")
    assert (ids(replies["first"].publications), replies["first"].begun) == (["first"], None)
    second = replies["second"]
    begun = second.begun.frame.delivery.id if second.begun else None
    expected = ([], "second") if first_has_begun else (["second"], None)
    assert (ids(second.publications), begun) == expected


@pytest.mark.parametrize("run", [None, 0.0], ids=["no run", "its time is over"])
def test_a_run_that_does_not_go_on_publishes_everything(story: Story, run: float | None) -> None:
    """As if there were no such thing."""
    frame = story.start()
    transition = story.transition(frame, **calls(story, frame, 30.0))
    given = a_turn(story, within_s=run) if run is not None else None
    done = committed(story.backend.commit(transition, turn=given))
    assert (ids(done.publications), done.begun) == (["d1"], None)


def test_a_commit_that_ends_the_conversation_takes_nothing(story: Story) -> None:
    """Whoever injected it need not wait for the rest."""
    frame = story.start()
    transition = story.transition(frame, ending=DONE, **calls(story, frame, 30.0))
    done = committed(story.backend.commit(transition, turn=a_turn(story)))
    assert (done.release, ids(done.publications), done.begun) == (DONE, ["d1"], None)


def test_a_lost_answer_of_a_commit_is_asked_for_again_with_what_it_took(story: Story) -> None:
    """The same lease, not a second one."""
    frame = story.start()
    transition = story.transition(frame, **calls(story, frame, 30.0, 0.0))
    first = committed(story.backend.commit(transition, turn=a_turn(story)))
    assert first.begun is not None
    again = committed(story.backend.commit(transition, turn=a_turn(story)))
    assert (again.adopted, again.begun, again.publications) == (
        True,
        first.begun,
        first.publications,
    )


def test_the_lease_of_a_run_goes_with_it(bench: Bench, story: Story) -> None:
    """The worker knows the message that the run began with; what it renews is what runs now."""
    frame = story.start()
    transition = story.transition(frame, **calls(story, frame, 30.0))
    run = replace(a_turn(story), lease_ms=40)
    taken = committed(story.backend.commit(transition, turn=run)).begun
    assert taken is not None
    story.backend.renew([(story.id, story.id)], owner=story.owner, lease_ms=LONG_MS)
    assert story.try_begin("d1", owner="worker-2") == Skip("leased")
    lost = story.backend.abandon(story.id, story.id, owner=story.owner, reason="lost")
    assert lost is not None
    assert lost.id == "d1"
    again = story.begin("d1", owner="worker-2")
    assert (again.attempt, again.abandoned) == (2, "lost")
    refused = story.backend.commit(story.transition(taken.frame), turn=run)
    assert type(refused).__name__ == "Fenced"


def test_what_a_dead_run_had_taken_falls_due(bench: Bench, story: Story) -> None:
    """A whole worker is gone: the first delivery that is not settled comes back, no other."""
    frame = story.start()
    run = replace(a_turn(story), lease_ms=30)
    transition = story.transition(frame, **calls(story, frame, 30.0))
    assert committed(story.backend.commit(transition, turn=run)).begun
    assert bench.reclaim(story.id, "d", "d1") == ["d1"]
    assert story.begin("d1", owner="worker-2").attempt == 2


# --- lanes ----------------------------------------------------------------------------------


def test_a_lane_is_free_once_the_first_delivery_of_its_branch_is_settled(story: Story) -> None:
    """Not when the branch answers: what waits for somebody holds no lane."""
    join = story.open_join(4, released=2)
    assert story.try_begin(f"{join}.2") == Skip("held")
    item = story.begin(f"{join}.0")
    done = story.commit(item, **story.call(item))
    assert ids(done.publications) == ["d1", f"{join}.2"]
    answer = story.begin("d1")
    result = story.result(item)
    assert ids(story.commit(answer, results=(result,)).publications) == []
    assert ids(story.reply(f"{join}.1").publications) == [f"{join}.3"]
    assert ids(story.reply(f"{join}.2").publications) == []
    assert ids(story.reply(f"{join}.3").publications) == [f"{join}.body"]


def test_the_run_of_an_item_goes_on_with_the_next_one(story: Story) -> None:
    """So a lane needs one message, however many items it takes."""
    frame = story.start()
    changes = story.fan_out(frame, 5, released=1)
    changes["deliveries"] = tuple(replace(d, local_s=30.0) for d in changes["deliveries"])
    begun = committed(story.backend.commit(story.transition(frame, **changes), turn=a_turn(story)))
    seen = []
    while begun.begun is not None:
        taken = begun.begun.frame
        seen.append(taken.delivery.id)
        results = (story.result(taken),) if taken.join is not None else ()
        transition = story.transition(taken, results=results)
        begun = committed(story.backend.commit(transition, turn=a_turn(story)))
        assert begun.publications == ()
    assert seen == ["j1.0", "j1.1", "j1.2", "j1.3", "j1.4", "j1.body"]


def test_the_first_lane_is_the_one_that_a_run_takes(story: Story) -> None:
    """The items begin with index 0, whether a run goes on with one of them or not."""
    frame = story.start()
    changes = story.fan_out(frame, 5, released=3)
    changes["deliveries"] = tuple(replace(d, local_s=30.0) for d in changes["deliveries"])
    opened = committed(story.backend.commit(story.transition(frame, **changes), turn=a_turn(story)))
    assert opened.begun is not None
    assert opened.begun.frame.delivery.id == "j1.0"
    assert ids(opened.publications) == ["j1.1", "j1.2"]


def test_more_workers_get_more_lanes(story: Story) -> None:
    """One more with each item that is settled, up to what is wanted by now."""
    join = story.open_join(9, released=1)
    released = []
    for index in range(3):
        item = story.begin(f"{join}.{index}")
        transition = story.transition(item, results=(story.result(item),))
        run = a_turn(story, within_s=0.0, lanes=3)
        released.append(ids(committed(story.backend.commit(transition, turn=run)).publications))
    assert released == [["j1.1", "j1.2"], ["j1.3", "j1.4"], ["j1.5"]]


def test_an_item_that_is_to_run_again_later_does_not_hold_its_lane(story: Story) -> None:
    """The others need not wait for it."""
    join = story.open_join(3, released=1)
    item = story.begin(f"{join}.0")
    released = story.backend.retry(
        story.id, item.delivery.id, attempt=1, delay_ms=LONG_MS, reason="later"
    )
    assert ids(released or ()) == [f"{join}.1"]


def test_a_lane_of_what_was_cancelled_is_free_too(bench: Bench, story: Story) -> None:
    """Its time was over before its process said anything."""
    join = story.open_join(2, released=1, answer_within_ms=30)
    story.begin(f"{join}.0", lease_ms=30)
    bench.late(story.id, "b", f"{join}:0")
    bench.reclaim(story.id, "b", f"{join}:0")
    assert bench.reclaim(story.id, "d", f"{join}.0") == [f"{join}.1"]


# --- branches that come later -----------------------------------------------------------------


def refill(story: Story, frame: Frame, join_id: str, at: int) -> dict[str, Any]:
    """A held delivery that will bring more branches."""
    more = story.delivery(frame, id=f"more{at}", to="buffer", held=True)
    return {"deliveries": (more,), "refills": (Refill(join_id, at, more.id),)}


def test_more_branches_are_asked_for_when_the_lanes_come_to_the_last(story: Story) -> None:
    """And a lane that found nothing held takes the first one that comes.

    What brings them comes before the item that was the sign: a turn goes on with it. If it waited
    in the queue behind the messages of many lanes, all of these would run out of items.
    """
    frame = story.start()
    changes = story.fan_out(frame, 6, released=1)
    [join], (body, *items) = changes["joins"], changes["deliveries"]
    first, later = items[:3], items[3:]
    more = refill(story, frame, join.id, 2)
    opened = story.commit(
        frame,
        joins=(join,),
        threads=changes["threads"],
        deliveries=(body, *first, *more["deliveries"]),
        refills=more["refills"],
    )
    assert ids(opened.publications) == ["j1.0"]
    assert ids(story.reply("j1.0").publications) == ["j1.1"]
    assert ids(story.reply("j1.1").publications) == ["more2", "j1.2"]
    assert ids(story.reply("j1.2").publications) == []
    supplied = story.run("more2", deliveries=tuple(replace(d, held=True) for d in later))
    assert ids(supplied.publications) == ["j1.3"]
    assert ids(story.reply("j1.3").publications) == ["j1.4"]


def test_a_join_that_has_fired_wants_no_more(story: Story) -> None:
    """What would have brought more is cancelled, what brings more brings nothing."""
    frame = story.start()
    changes = story.fan_out(frame, 4, released=2, need_ok=1)
    [join], (body, *items) = changes["joins"], changes["deliveries"]
    more = refill(story, frame, join.id, 1)
    story.commit(
        frame,
        joins=(join,),
        threads=changes["threads"],
        deliveries=(body, *items[:2], *more["deliveries"]),
        refills=more["refills"],
    )
    bringing = story.begin("more1")
    assert ids(story.reply("j1.0").publications) == ["j1.body"]
    again = refill(story, bringing, join.id, 3)
    deliveries = (*(replace(item, held=True) for item in items[2:]), *again["deliveries"])
    story.commit(bringing, deliveries=deliveries, refills=again["refills"])
    assert story.try_begin("j1.2") == Skip("unknown")
    assert story.try_begin("more3") == Skip("settled")
    story.run("j1.body", ending=DONE)
    story.try_begin("j1.1")
    assert story.row.in_flight == 0


# --- lists, workers, many at once ---------------------------------------------------------------


def test_a_stored_list_is_read_in_parts(story: Story) -> None:
    """Written in parts as well, and as often as need be."""
    story.start()
    story.backend.put_items(story.id, "list", 0, [b"<a/>", b"<b/>"])
    for _ in range(2):
        story.backend.put_items(story.id, "list", 2, [b"<c/>"])
    assert story.backend.items(story.id, "list", 0, 2) == [b"<a/>", b"<b/>"]
    assert story.backend.items(story.id, "list", 1, 9) == [b"<b/>", b"<c/>"]
    assert story.backend.items(story.id, "another", 0, 9) == []
    with pytest.raises(UnknownConversationError):
        story.backend.put_items("nobody's", "list", 0, [b"<a/>"])


def test_workers_are_counted_while_they_say_that_they_are_there(bench: Bench) -> None:
    """By their pool processes; one that says so twice is one."""
    backend: SharedBackend = bench.backend
    assert backend.processes() == 0
    backend.announce("one", 4, ttl_ms=LONG_MS)
    backend.announce("two", 3, ttl_ms=40)
    backend.announce("one", 4, ttl_ms=LONG_MS)
    assert backend.processes() in (4, 7)
    bench.until(lambda: backend.processes() == 4)


def test_many_conversations_open_at_once_and_count_as_published(bench: Bench) -> None:
    """Known ones are named; what was not published after all is found as a lost message."""
    stories = [Story(bench.backend, id=f"c{n}") for n in range(400)]
    bench.backend.open(stories[1].opening())
    assert bench.backend.open_many(story.opening() for story in stories) == ["c1"]
    assert bench.backend.stats()["sent"] == 399
    assert bench.republish("c2", "c2") == "c2"
    assert stories[2].begin("c2").attempt == 1
    again = bench.backend.open_many(story.opening() for story in stories[:3])
    assert sorted(again) == ["c0", "c1", "c2"]


def test_one_of_many_is_like_one_alone(bench: Bench) -> None:
    """Also where a thread of it was known before: whoever runs it sees the same."""
    alone, among, adopted = (Story(bench.backend, id=name) for name in ("alone", "among", "adopt"))
    bench.backend.open(alone.opening())
    known = bench.backend.child_thread(adopted.id, ROOTS, "another", "other-root")
    bench.backend.open_many([among.opening(), adopted.opening()])
    seen = [_as_alone(story) for story in (alone, among, adopted)]
    assert seen[0] == seen[1] == seen[2]
    assert bench.backend.thread(adopted.id, known.id) == known


def _as_alone(story: Story) -> tuple[object, ...]:
    """All that can be read of a conversation with one delivery, under one name."""
    opening, backend = story.opening(), story.backend
    frame = story.begin(story.id)
    root = backend.child_thread(story.id, ROOTS, opening.root.chain[-1], "proposed")
    row = backend.conversation(story.id)
    assert row is not None
    log = [(entry.event, entry.detail.get("delivery")) for entry in backend.log(story.id)]
    context = backend.context(story.id, opening.thread.id, limit=9)
    assert frame.delivery == opening.entry
    assert (frame.thread, root) == (opening.thread, opening.root)
    assert log == [("message", opening.entry)]
    assert context == [(0, opening.entry)]
    return replace(row, id="", created_ms=0, updated_ms=0), frame.children.keys(), frame.attempt


def test_what_is_put_back_into_the_queue_is_missed_later(bench: Bench) -> None:
    """Its time begins anew; what was begun meanwhile, or never was, is left."""
    stories = [Story(bench.backend, id=f"c{n}") for n in range(3)]
    bench.backend.open_many(story.opening() for story in stories)
    stories[1].begin("c1")
    bench.tick()
    bench.backend.requeued([("c0", "c0"), ("c1", "c1"), ("c9", "c9")])
    missed = bench.backend.unbegun(older_than_ms=0, limit=9)
    assert [due.conversation_id for due in missed] == ["c2", "c0"]  # what waits longest comes first
    assert bench.backend.stats()["sent"] == 2


def test_what_waits_for_input_costs_the_sweep_nothing(story: Story) -> None:
    """It stands in none of the lists that the sweep looks at, however many there are."""
    for number in range(50):
        waiting = Story(story.backend, id=f"{story.id}-{number}")
        frame = waiting.start()
        waiting.commit(frame, waits=(waiting.wait(frame),))
    stats = story.backend.stats()
    assert (stats["conversations"], stats["due"], stats["sent"]) == (50, 0, 0)
