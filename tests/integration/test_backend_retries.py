"""The contract of every backend: runs that are to be repeated, and messages that got lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.stories import DONE, KILLED, LONG_MS, Bench, Story, committed, ids
from threadloom.routing.backends import RedisBackend, SharedBackend
from threadloom.routing.records import Begun, Fenced, Frame, Skip
from threadloom.routing.states import ConversationStatus


def at_once(times: int, work: Any) -> list[Any]:
    """What `work(n)` returns for every n, all called at the same time."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(work, range(times)))


def postpone(story: Story, frame: Frame, *, delay_ms: int = LONG_MS) -> bool:
    """End this run for another one later."""
    released = story.backend.retry(
        story.id, frame.delivery.id, attempt=frame.attempt, delay_ms=delay_ms, reason="a | b"
    )
    return released is not None


# --- runs to be repeated --------------------------------------------------------------------


def test_a_delivery_runs_again_after_its_delay(bench: Bench, story: Story) -> None:
    """Refused until then; the sweep publishes it; the next run knows why, and counts on."""
    frame = story.start()
    assert postpone(story, frame, delay_ms=60)
    assert story.try_begin(story.id, owner="worker-2") == Skip("postponed")
    assert bench.reclaim(story.id, "d", story.id) == [story.id]
    again = story.begin(story.id, owner="worker-2")
    assert (again.attempt, again.tries, again.abandoned) == (2, 2, "retry")
    assert story.events("retry") == ["a | b"]
    assert story.events("abandoned") == []
    assert story.commit(again, ending=DONE).release == DONE


def test_a_published_retry_can_be_begun_before_that_is_said(bench: Bench, story: Story) -> None:
    """Reclaimed, it is postponed no more, though the sweep would look at it again later."""
    story.backend.open(story.opening())
    postpone(story, story.begin(story.id), delay_ms=1)
    bench.reclaim(story.id, "d", story.id)
    story.backend.published(story.id, [story.id])
    assert story.begin(story.id).attempt == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_message_of_the_run_before_does_not_hurry_it(
    bench: Bench, story: Story, when: str
) -> None:
    """Said late that it was published, sent twice, injected again: it stays postponed."""
    story.backend.open(story.opening())
    frame = story.begin(story.id)
    if when == "before":
        story.backend.published(story.id, [story.id])
    postpone(story, frame)
    if when == "after":
        story.backend.published(story.id, [story.id])
    assert story.backend.open(story.opening()) is None
    assert story.try_begin(story.id) == Skip("postponed")
    begun = story.backend.open_and_begin(story.opening(), owner="w", lease_ms=LONG_MS)
    assert begun == Skip("postponed")
    assert story.backend.stats()["sent"] == 0
    assert story.backend.stats()["due"] == 1


def test_only_the_newest_run_can_be_repeated(story: Story) -> None:
    """Not one that was taken over, that has committed, or that was postponed before."""
    zombie = story.start()
    frame = story.begin(story.id, lost=True)
    assert not postpone(story, zombie)
    assert postpone(story, frame)
    assert not postpone(story, frame), "its answer was lost, and it was repeated"
    assert story.events("retry") == ["a | b"]
    assert story.backend.commit(story.transition(frame, ending=DONE)) == Fenced()
    never = {"attempt": 1, "delay_ms": 1, "reason": ""}
    assert story.backend.retry("nobody's", "d", **never) is None
    assert story.backend.retry(story.id, "nobody's", **never) is None


def test_a_settled_run_is_not_repeated(story: Story) -> None:
    frame = story.start()
    story.commit(frame, **story.call(frame))
    assert not postpone(story, frame)
    assert story.try_begin(story.id) == Skip("settled")


def test_a_postponed_delivery_is_in_flight(bench: Bench, story: Story) -> None:
    """Its conversation and its branch wait for it; only its own end is theirs."""
    join = story.open_join(2)
    postpone(story, story.begin(f"{join}.0"), delay_ms=1)
    story.reply(f"{join}.1")
    assert story.counts(join) == (1, 0, False)
    assert story.row.status is ConversationStatus.RUNNING
    assert bench.reclaim(story.id, "d", f"{join}.0") == [f"{join}.0"]
    assert ids(story.reply(f"{join}.0").publications) == [f"{join}.body"]


def test_a_postponed_delivery_that_nobody_needs_is_cancelled(bench: Bench, story: Story) -> None:
    """Its join fires without it, or its conversation is killed: it does not run again."""
    join = story.open_join(2, need_ok=1)
    postpone(story, story.begin(f"{join}.0"))
    story.reply(f"{join}.1")
    assert story.try_begin(f"{join}.0") == Skip("cancelled")
    other = Story(story.backend, id=f"{story.id}-other")
    postpone(other, other.start(), delay_ms=1)
    other.backend.kill(other.id, KILLED)
    assert bench.reclaim(other.id, "d", other.id) == []
    assert other.row.in_flight == 0


def test_one_of_twenty_retries_counts(bench: Bench, story: Story) -> None:
    """And one of twenty sweeps publishes the next run, and one of twenty workers gets it."""
    frame = story.start()
    assert sorted(at_once(20, lambda _: postpone(story, frame, delay_ms=1))) == [False] * 19 + [
        True
    ]
    due = bench.late(story.id, "d", story.id)

    def reclaim(_: int) -> int:
        return len(story.backend.reclaim(due, retry_in_ms=LONG_MS, silent_branch=b""))

    assert sorted(at_once(20, reclaim)) == [0] * 19 + [1]
    begun = at_once(20, lambda n: story.try_begin(story.id, owner=f"worker-{n}"))
    assert sorted(type(each).__name__ for each in begun) == ["Begun"] + ["Skip"] * 19


def test_a_conversation_is_kept_until_its_retry_and_beyond(bench: Bench, story: Story) -> None:
    """A retry after longer than the retention would otherwise be forgotten, and never said so."""
    backend = bench.another(ttl_s=1)
    kept, idle = Story(backend, id=story.id), Story(backend, id=f"{story.id}-idle")
    frame = kept.start()
    kept.commit(frame, deliveries=(kept.delivery(frame), kept.delivery(frame)))
    postpone(kept, kept.begin("d1"))
    kept.run("d2")  # activity, which does not shorten it either
    idle.end()
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert backend.conversation(idle.id) is None
    assert kept.row.in_flight == 1


# --- messages that got lost -----------------------------------------------------------------


def test_a_published_message_waits_until_it_is_begun(bench: Bench, story: Story) -> None:
    """It is late for nobody; it can be found, oldest first, and published again."""
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame), story.delivery(frame)))
    story.backend.published(story.id, ["d2"])
    bench.until(lambda: story.backend.unbegun(older_than_ms=1, limit=9))
    story.backend.published(story.id, ["d1"])
    assert story.backend.due(limit=9) == []
    found = story.backend.unbegun(older_than_ms=0, limit=9)
    assert [due.member.rpartition("|")[2] for due in found] == ["d2", "d1"]
    assert story.backend.unbegun(older_than_ms=0, limit=1) == found[:1]
    assert story.backend.unbegun(older_than_ms=LONG_MS, limit=9) == []
    sent = story.backend.republish(found[0], older_than_ms=0)
    assert sent is not None
    assert (sent.conversation_id, sent.id, sent.to) == (story.id, "d2", "helper")
    story.run("d2")
    assert story.backend.republish(found[0], older_than_ms=0) is None, "it has been begun"
    story.begin("d1")
    assert story.backend.unbegun(older_than_ms=0, limit=9) == []


#: longer than twenty callers take on a busy machine
AGE_MS = 400


def test_one_of_twenty_publishes_a_lost_message_again(bench: Bench, story: Story) -> None:
    """Nobody else gets it until it is as old again."""
    story.backend.open(story.opening())
    story.backend.published(story.id, [story.id])
    [due] = bench.until(lambda: story.backend.unbegun(older_than_ms=AGE_MS, limit=9))
    sent = at_once(20, lambda _: story.backend.republish(due, older_than_ms=AGE_MS))
    assert sum(each is not None for each in sent) == 1
    bench.until(lambda: story.backend.unbegun(older_than_ms=AGE_MS, limit=9))
    assert story.backend.republish(due, older_than_ms=AGE_MS) is not None
    assert story.start().attempt == 1


def test_a_lost_message_that_nobody_needs_is_not_published_again(story: Story) -> None:
    """Cancelled instead, which may be what its conversation waits for."""
    join = story.open_join(2, need_ok=1, collect=False)
    story.backend.published(story.id, [f"{join}.1"])
    story.reply(f"{join}.0")
    [due] = story.backend.unbegun(older_than_ms=0, limit=9)
    assert story.backend.republish(due, older_than_ms=0) is None
    assert story.row.status is ConversationStatus.COMPLETED
    assert story.backend.stats()["sent"] == 0


def test_nothing_of_a_killed_conversation_is_published_again(story: Story) -> None:
    story.backend.open(story.opening())
    story.backend.published(story.id, [story.id])
    story.backend.kill(story.id, KILLED)
    [due] = story.backend.unbegun(older_than_ms=0, limit=9)
    assert story.backend.republish(due, older_than_ms=0) is None
    assert story.backend.unbegun(older_than_ms=0, limit=9) == []
    assert story.row.in_flight == 0


def test_a_stale_finding_is_nobodys_message(story: Story) -> None:
    """It was unbegun when it was found; its conversation may be gone since."""
    story.backend.open(story.opening())
    story.backend.published(story.id, [story.id])
    [due] = story.backend.unbegun(older_than_ms=0, limit=9)
    story.backend.clear()
    assert story.backend.republish(due, older_than_ms=0) is None


# --- said on the way ------------------------------------------------------------------------


def test_what_was_published_is_said_on_the_way_to_the_next_begin(story: Story) -> None:
    """Of several conversations, also when the begin is refused or opens a conversation."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    others = [Story(story.backend, id=f"{story.id}-{n}") for n in range(3)]
    for other in others:
        other.backend.open(other.opening())
    due = story.backend.stats()["due"]
    begun = story.backend.begin(
        story.id, "d1", owner="w", lease_ms=LONG_MS,
        published={story.id: ["d1"], others[0].id: [others[0].id], "nobody's": ["x"]},
    )  # fmt: skip
    assert isinstance(begun, Begun)
    assert story.backend.stats() == {
        "conversations": 4, "due": due - 1, "sent": 1, "dead_letters": 0,
    }  # fmt: skip
    refused = story.backend.begin(
        story.id, "d1", owner="v", lease_ms=LONG_MS, published={others[1].id: [others[1].id]}
    )
    assert refused == Skip("leased")
    opening = Story(story.backend, id=f"{story.id}-new").opening()
    opened = story.backend.open_and_begin(
        opening, owner="v", lease_ms=LONG_MS, published={others[2].id: [others[2].id]}
    )
    assert isinstance(opened, Begun)
    assert story.backend.stats()["sent"] == 3


def test_a_delivery_may_be_begun_by_whoever_published_it(story: Story) -> None:
    """The process that says so is the one that begins: what it says must not unsettle that."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    begun = story.backend.begin(
        story.id, "d1", owner="w", lease_ms=LONG_MS, published={story.id: ["d1"]}
    )
    assert isinstance(begun, Begun)
    story.backend.published(story.id, ["d1"])
    assert story.try_begin("d1") == Skip("leased")
    assert committed(story.backend.commit(story.transition(begun.frame, ending=DONE))).release


@pytest.mark.parametrize("known", ["begin", "published", "nothing"])
def test_a_redis_that_does_not_know_the_scripts_yet_begins_once(
    redis_client: redis.Redis, known: str
) -> None:
    """Restarted, or new: whichever script it lacks, the caller gets the delivery it asked for."""
    backend: SharedBackend = RedisBackend(redis_client, organism="fresh")
    story = Story(backend)
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame), story.delivery(frame)))
    redis_client.script_flush()
    if known == "begin":
        story.try_begin("unheard-of")
    elif known == "published":
        backend.published("nobody's", ["x"])
    begun = backend.begin(story.id, "d1", owner="w", lease_ms=LONG_MS, published={story.id: ["d2"]})
    assert isinstance(begun, Begun)
    assert begun.frame.attempt == 1
    assert backend.stats()["sent"] == 1
