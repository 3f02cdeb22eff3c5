"""The contract of every backend: what is late is found, and taken in hand by exactly one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.harness import eventually
from tests.stories import DONE, KILLED, LONG_MS, SILENT, Bench, Story
from threadloom.config import RegistryUnavailableError
from threadloom.routing.backends import RedisBackend, SharedBackend, codec
from threadloom.routing.records import Due, Ending, Expired, Release, Skip, Thread
from threadloom.routing.states import ConversationStatus
from threadloom.routing.store import MARGIN_MS, TOO_OLD
from threadloom.service.embedded_redis import EmbeddedRedis

# --- what is late ---------------------------------------------------------------------------


def test_a_message_that_nobody_published_is_handed_out_again(bench: Bench, story: Story) -> None:
    """Its worker died between commit and publication: the sweep publishes in its stead."""
    story.backend.open(story.opening())
    assert bench.reclaim(story.id, "d", story.id) == [story.id]
    assert story.backend.due(limit=9) == [], "late again only when the retry is over"
    assert story.start().attempt == 1


def test_a_message_that_the_broker_lost_is_handed_out_again(bench: Bench, story: Story) -> None:
    """Published, and yet nobody began it: once more, with its reason kept."""
    story.start()
    story.backend.abandon(story.id, story.id, owner=story.owner, reason="timeout")
    story.backend.published(story.id, [story.id, "unheard-of"])
    assert story.backend.stats() == {"conversations": 1, "due": 0, "sent": 1, "dead_letters": 0}
    assert bench.republish(story.id, story.id) == story.id
    assert story.start().abandoned == "timeout"
    assert story.backend.stats()["sent"] == 0


def test_a_delivery_whose_worker_died_is_handed_out_again(bench: Bench, story: Story) -> None:
    """Its lease ran out: the next attempt learns that the one before was lost."""
    story.backend.open(story.opening())
    zombie = story.begin(story.id, lease_ms=1)
    assert bench.reclaim(story.id, "d", story.id) == [story.id]
    assert story.events("abandoned") == ["lost"]
    frame = story.begin(story.id)
    assert (frame.attempt, frame.abandoned) == (2, "lost")
    story.commit(frame, ending=DONE)
    assert story.backend.commit(story.transition(zombie, ending=DONE)).adopted  # type: ignore[union-attr]


def test_one_of_many_gets_a_late_thing(bench: Bench, story: Story) -> None:
    """Twenty sweeps find the same entry; one of them publishes."""
    story.backend.open(story.opening())
    due = bench.late(story.id, "d", story.id)

    def reclaim(_: int) -> int:
        got = story.backend.reclaim(due, retry_in_ms=LONG_MS, silent_branch=SILENT)
        return len(got)

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(reclaim, range(20))) == [0] * 19 + [1]


def test_what_is_late_comes_oldest_first_and_limited(bench: Bench) -> None:
    """A sweep that cannot do everything at once does what has waited longest."""
    stories = [Story(bench.backend, id=f"conversation {n}") for n in range(5)]
    for story in stories:
        story.backend.open(story.opening())
        bench.tick()
    bench.late(stories[-1].id, "d", stories[-1].id)
    found = bench.backend.due(limit=3)
    assert [due.conversation_id for due in found] == [story.id for story in stories[:3]]
    assert len(bench.backend.due(limit=10)) == 5


def test_nothing_settled_is_ever_late(bench: Bench, story: Story) -> None:
    """Each thing leaves the list of what may be late when it is done."""
    join = story.open_join(2, deadline_ms=LONG_MS, answer_within_ms=LONG_MS)
    assert bench.backend.stats()["due"] == 3
    story.reply(f"{join}.0")
    story.run(f"{join}.1")
    story.run(f"{join}.body", ending=DONE)
    assert story.try_begin(story.id) == Release(DONE, 1)
    story.backend.released(story.id)
    nothing = {"due": 0, "sent": 0, "dead_letters": 0}
    assert bench.backend.stats() == {"conversations": 1, **nothing}


def test_a_stale_finding_changes_nothing(bench: Bench, story: Story) -> None:
    """It was late when it was found, and has been dealt with since."""
    story.backend.open(story.opening())
    due = bench.late(story.id, "d", story.id)
    story.begin(story.id)
    assert story.backend.reclaim(due, retry_in_ms=1, silent_branch=SILENT) == ()
    nothing = Due(story.id, codec.due_member("d", story.id, "unheard-of"))
    assert story.backend.reclaim(nothing, retry_in_ms=1, silent_branch=SILENT) == ()
    assert story.try_begin(story.id, owner="worker-2") == Skip("leased")


# --- in a conversation that is over, or moot -------------------------------------------------


def test_what_a_killed_conversation_leaves_is_cleared_away(bench: Bench, story: Story) -> None:
    """The sweep cancels its deliveries and forgets its timers; only the release remains."""
    join = story.open_join(2, deadline_ms=1, answer_within_ms=1)
    story.begin(f"{join}.0", lease_ms=1)
    story.backend.kill(story.id, KILLED)
    for kind, thing in (("d", f"{join}.0"), ("d", f"{join}.1"), ("j", join), ("b", f"{join}:0")):
        assert bench.reclaim(story.id, kind, thing) == []
    assert story.counts(join) == (0, 0, False)
    assert bench.reclaim(story.id, "r") == [story.id]
    assert story.backend.stats()["due"] == 1


def test_a_late_delivery_that_nobody_needs_is_cancelled(bench: Bench, story: Story) -> None:
    join = story.open_join(2, need_ok=1)
    story.reply(f"{join}.0")
    assert bench.reclaim(story.id, "d", f"{join}.1") == []
    assert story.try_begin(f"{join}.1") == Skip("settled")
    assert story.row.in_flight == 1


def test_the_last_cancelled_delivery_ends_the_conversation(bench: Bench, story: Story) -> None:
    """Nobody collects, and what was cancelled will never commit: the end must come here."""
    join = story.open_join(2, need_ok=1, collect=False)
    story.reply(f"{join}.0")
    assert story.row.status is ConversationStatus.RUNNING
    assert bench.reclaim(story.id, "d", f"{join}.1") == []
    assert story.row.status is ConversationStatus.COMPLETED
    assert bench.reclaim(story.id, "r") == [story.id]


# --- telling the injector -------------------------------------------------------------------


def test_an_ending_that_nobody_handed_over_comes_back_as_the_first_message(
    bench: Bench, story: Story
) -> None:
    """With its canvas; and again after each lease on it that ran out, until it is released."""
    story.backend.open(story.opening(canvas='{"chord":1}'))
    story.commit(story.begin(story.id), ending=DONE)
    due = bench.late(story.id, "r")
    [told] = story.backend.reclaim(due, retry_in_ms=1, silent_branch=SILENT)
    assert (told.id, told.to, told.canvas) == (story.id, "clerk", '{"chord":1}')
    assert story.try_begin(story.id, lease_ms=1) == Release(DONE, 1)
    assert bench.reclaim(story.id, "r") == [story.id]
    story.backend.released(story.id)
    assert story.backend.stats()["due"] == 0


def test_a_published_ending_is_looked_at_later(bench: Bench, story: Story) -> None:
    """The empty id stands for the release in the outbox."""
    bench = replace(bench, backend=bench.another(begin_grace_ms=LONG_MS))
    published, other = (Story(bench.backend, id=f"{story.id}-{n}") for n in range(2))
    for each in (published, other):
        each.commit(each.start(), ending=DONE)
    bench.backend.published(published.id, [""])
    bench.late(other.id, "r")
    assert [due.conversation_id for due in bench.backend.due(limit=9)] == [other.id]


# --- retention ------------------------------------------------------------------------------


def test_a_conversation_goes_when_its_retention_is_over(bench: Bench, story: Story) -> None:
    """Nothing of it can be read any more, `expire` clears up once, and its id is free again."""
    backend = bench.another(ttl_s=1)
    mortal, other = Story(backend, id=story.id), Story(backend, id=f"{story.id}-other")
    mortal.commit(mortal.start(), ending=DONE)
    backend.released(mortal.id)
    backend.put_thread(other.id, Thread("t", ("console",)))
    assert backend.expire(limit=10).gone == 0
    assert bench.until(lambda: backend.expire(limit=1).gone) == 1
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert backend.expire(limit=10).gone == 0
    assert backend.conversation(mortal.id) is None
    assert backend.conversations(limit=10) == []
    assert (backend.log(mortal.id), backend.threads(mortal.id)) == ([], {})
    assert backend.threads(other.id) == {}
    assert set(backend.stats().values()) == {0}
    assert mortal.start().attempt == 1


def test_nothing_of_an_expired_conversation_is_late(bench: Bench, story: Story) -> None:
    """It was killed with everything in flight: once forgotten, it stands in no list any more."""
    backend = bench.another(ttl_s=1)
    mortal = Story(backend, id=story.id)
    join = mortal.open_join(4, deadline_ms=LONG_MS, answer_within_ms=LONG_MS)
    backend.published(mortal.id, [f"{join}.2", f"{join}.3"])
    mortal.run(f"{join}.0", note="why", dead_letter=True)
    item = mortal.begin(f"{join}.1")
    mortal.commit(item, waits=(mortal.wait(item),))
    mortal.begin(f"{join}.3")
    assert 0 not in backend.stats().values(), "each list has something of it"
    backend.kill(mortal.id, KILLED)
    backend.released(mortal.id)
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert set(backend.stats().values()) == {0}
    assert (backend.due(limit=9), backend.dead_letters(limit=9)) == ([], [])
    assert backend.unbegun(older_than_ms=-LONG_MS, limit=9) == []


def test_activity_keeps_a_conversation(bench: Bench, story: Story) -> None:
    """Retention counts from the last activity, such as that of a thread made in it."""
    backend = bench.another(ttl_s=1)
    active, idle = Story(backend, id=story.id), Story(backend, id=f"{story.id}-idle")
    active.end()
    idle.end()

    def idle_gone() -> int:
        backend.put_thread(active.id, Thread(active.new_id("t"), ("console",)))
        return backend.expire(limit=10).gone

    assert bench.until(idle_gone) == 1
    assert backend.conversation(idle.id) is None
    assert backend.conversation(active.id) is not None


def test_what_owes_an_answer_does_not_expire(bench: Bench, story: Story) -> None:
    """It is queued, runs, waits, goes on after its answer, or was not told: it is kept.

    The one that owes nothing goes meanwhile, though it was the last to do anything.
    """
    backend = bench.another(ttl_s=1)
    queued, runs, waits, goes_on, untold, idle = (
        Story(backend, id=f"{story.id}-{n}") for n in range(6)
    )
    backend.open(queued.opening())
    runs.start()
    frame = waits.start()
    waits.commit(frame, waits=(waits.wait(frame),))
    frame = goes_on.start()
    goes_on.commit(frame, ending=DONE, **goes_on.call(frame))
    backend.released(goes_on.id)
    untold.commit(untold.start(), ending=DONE)
    idle.end()
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert backend.conversation(idle.id) is None
    assert len(backend.conversations(limit=10)) == 5
    goes_on.run("d1")
    backend.released(untold.id)
    gone = [0]

    def both_gone() -> bool:
        gone[0] += backend.expire(limit=10).gone
        return gone[0] == 2

    assert bench.until(both_gone), "they owe nothing any more"


def test_what_owes_an_answer_for_too_long_ends_once_and_is_told(bench: Bench, story: Story) -> None:
    """Its wait is over, nothing of it runs any more, and its injector gets an error."""
    backend = bench.another(ttl_s=1, max_age_s=1)
    bench = replace(bench, backend=backend)
    old = Story(backend, id=story.id)
    frame = old.start()
    old.commit(frame, waits=(old.wait(frame),), **old.call(frame))
    assert bench.until(lambda: backend.expire(limit=10).too_old) == (old.id,)
    assert backend.expire(limit=10) == Expired(), "once, and it is kept until that is told"
    assert (old.row.status, backend.waits(old.id)) == ("killed", [])
    assert old.try_begin("d1") == Skip("ended")
    assert bench.reclaim(old.id, "r") == [old.id]
    assert old.try_begin(old.id) == Release(TOO_OLD, 1)
    backend.released(old.id)
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert backend.conversation(old.id) is None


def test_a_replayed_conversation_owes_an_answer_again(bench: Bench, story: Story) -> None:
    """It was told of its error, and would have been forgotten in the middle of its replay."""
    backend = bench.another(ttl_s=1)
    failed, idle = Story(backend, id=story.id), Story(backend, id=f"{story.id}-idle")
    failed.end(ending=Ending(ConversationStatus.ERROR, {}), note="why", dead_letter=True)
    backend.replay(failed.id, failed.id)
    idle.end()
    assert bench.until(lambda: backend.expire(limit=10).gone) == 1
    assert failed.begin(failed.id).attempt == 2


def test_clear_removes_everything(bench: Bench, story: Story) -> None:
    """Conversations, what may fall due, and threads of conversations that never were opened."""
    story.open_join(3, deadline_ms=LONG_MS)
    story.backend.put_thread("threads-only", Thread("t", ("console",)))
    bench.backend.clear()
    assert set(bench.backend.stats().values()) == {0}
    assert bench.backend.threads("threads-only") == {}
    assert story.start().attempt == 1


# --- Redis alone ----------------------------------------------------------------------------


def test_clear_leaves_other_keys_alone(redis_client: redis.Redis) -> None:
    """Neither those of an organism whose name begins like this one's, nor anyone else's."""
    mine, other = (RedisBackend(redis_client, organism=name) for name in ("desk", "desk:two"))
    redis_client.set("tl:desk", "somebody's")
    for backend in (mine, other):
        Story(backend).open_join(2)
    kept = set(redis_client.scan_iter(match="tl:desk:two:*")) | {b"tl:desk"}
    mine.clear()
    assert set(redis_client.scan_iter()) == kept
    other.clear()
    assert set(redis_client.scan_iter()) == {b"tl:desk"}


def test_every_key_of_a_conversation_expires(redis_client: redis.Redis) -> None:
    """Whatever was written last, and were there no worker to sweep: all of them."""
    backend = RedisBackend(redis_client, organism="mortal", ttl_s=100)
    story = Story(backend)
    join = story.open_join(3, window=1, deadline_ms=LONG_MS)
    item = story.begin(f"{join}.0")
    story.commit(item, waits=(story.wait(item),), **story.call(item))
    backend.put_thread("threads-only", Thread("t", ("console",)))
    backend.child_thread("threads-only", "t", "clerk", "t2")
    expires_ms = 100_000 + MARGIN_MS
    own = [key for key in redis_client.scan_iter() if key.count(b":") == 4]
    assert len(own) == 7, own
    lasting = [key for key in own if redis_client.pttl(key) == -1]
    assert len(lasting) == 6, "what owes an answer does not expire"
    backend.kill(story.id, KILLED)  # its wait goes, and it is kept for those who look
    backend.released(story.id)
    own = [key for key in redis_client.scan_iter() if key.count(b":") == 4]
    assert len(own) == 6, own
    assert all(0 < redis_client.pttl(key) <= expires_ms for key in own)


def test_a_large_conversation_is_forgotten_in_pieces(redis_client: redis.Redis) -> None:
    """Its injector saw it gone at once; its id is free, and what it left goes a bit at a time.

    Redis is kept from others by none of the calls for longer than by one of its usual ones.
    """
    before = redis_client.dbsize()
    backend = RedisBackend(redis_client, organism="large", ttl_s=0)
    story = Story(backend)
    story.open_join(3_000, deadline_ms=LONG_MS, answer_within_ms=LONG_MS)
    for index in range(3):
        story.begin(f"j1.{index}")
    backend.kill(story.id, KILLED)
    backend.released(story.id)
    lasting = [key for key in redis_client.scan_iter() if key.count(b":") == 4]
    assert {redis_client.pttl(key) for key in lasting} == {-1}, "Redis would free it at once"
    found = backend.expire(limit=5)
    assert found == Expired(more=True)
    assert backend.conversation(story.id) is None
    assert backend.context(story.id, "t1", limit=9) == []
    again = Story(RedisBackend(redis_client, organism="large"))
    again.start()
    pieces = 0
    while (found := backend.expire(limit=5)).more:
        pieces += 1
    assert pieces > 10
    assert found.gone == 1
    assert again.backend.stats() == {"conversations": 1, "due": 1, "sent": 0, "dead_letters": 0}
    again.commit(again.begin(story.id, lost=True), ending=DONE)
    again.backend.clear()
    assert redis_client.dbsize() == before


def test_expire_leaves_nothing_behind(redis_client: redis.Redis) -> None:
    """As many keys as before, once the retention is over and the sweep has been."""
    before = redis_client.dbsize()
    backend = RedisBackend(redis_client, organism="mortal", ttl_s=0)
    for n in range(3):
        Story(backend, id=f"c{n}").open_join(2, deadline_ms=LONG_MS)
        backend.kill(f"c{n}", KILLED)
        backend.released(f"c{n}")
    assert [backend.expire(limit=2).gone for _ in range(3)] == [2, 1, 0]
    assert redis_client.dbsize() == before


def test_an_id_used_again_before_the_sweep_is_a_new_conversation(
    redis_client: redis.Redis,
) -> None:
    """Its keys expired by themselves: clearing up after the old one must spare the new one."""
    mortal = RedisBackend(redis_client, organism="mortal", ttl_s=0, max_age_s=0)
    story = Story(mortal)
    frame = story.start()
    story.commit(frame, deliveries=(story.delivery(frame),), note="why", dead_letter=True)
    mortal.published(story.id, ["d1"])
    created_ms = story.row.created_ms
    redis_client.unlink(*mortal._keys(story.id)[:6])
    lasting = Story(RedisBackend(redis_client, organism="mortal"))
    eventually(lambda: _now_ms(redis_client) > created_ms)
    lasting.start()
    assert [row.id for row in lasting.backend.conversations(limit=5)] == [story.id]
    [lost] = lasting.backend.unbegun(older_than_ms=0, limit=5)
    assert lasting.backend.republish(lost, older_than_ms=0) is None
    assert lasting.backend.dead_letters(limit=5) == []
    assert lasting.backend.expire(limit=5).gone == 1
    assert lasting.row.status is ConversationStatus.RUNNING
    assert lasting.backend.stats() == {"conversations": 1, "due": 1, "sent": 0, "dead_letters": 0}


@pytest.mark.parametrize("binary", [None, Path("/usr/bin/redis-server")], ids=["ours", "system"])
def test_a_redis_that_cannot_now_is_unavailable(tmp_path: Path, binary: Path | None) -> None:
    """Its disk refuses what it should keep, its memory is full, another script does not end.

    Redis says each in its own words, and old ones in other words when a script meets it.
    """
    if binary and not binary.exists():
        pytest.skip(f"no {binary}")
    with EmbeddedRedis(tmp_path, persistent=False, binary=binary) as server:
        client = redis.Redis.from_url(server.url(), retry=Retry(NoBackoff(), 0))
        backend = RedisBackend(client, organism="o")
        before = Story(backend, id="before")
        before.start()

        def refused(text: str) -> None:
            with pytest.raises(RegistryUnavailableError, match=text):
                Story(backend, id=text).start()
            with pytest.raises(RegistryUnavailableError, match=text):
                backend.begin("x", "x", owner="w", lease_ms=1, published={"before": ["before"]})

        with _stuck_script(server):
            refused("BUSY")
        client.config_set("maxmemory", 1)
        with pytest.raises(RegistryUnavailableError, match=r"OOM|used memory"):
            Story(backend, id="full").start()
        client.config_set("maxmemory", 0)
        (server.directory / "dump.rdb").mkdir()  # where it wants to write a file
        client.config_set("save", "3600 1")
        try:
            client.bgsave()
            eventually(lambda: client.info()["rdb_last_bgsave_status"] == "err")
            with pytest.raises(RegistryUnavailableError, match="MISCONF"):
                Story(backend, id="unsafe").start()
        finally:
            client.config_set("save", "")  # or it would not even stop
        assert before.row.status is ConversationStatus.RUNNING
        client.close()


@contextmanager
def _stuck_script(server: EmbeddedRedis) -> Iterator[None]:
    """A script that does not end, until the block is left."""
    with (
        redis.Redis.from_url(server.url(), retry=Retry(NoBackoff(), 0)) as client,
        redis.Redis.from_url(server.url(), retry=Retry(NoBackoff(), 0)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        client.config_set("lua-time-limit", 5)
        running = pool.submit(other.eval, "while true do end", 0)
        eventually(lambda: _is_busy(client), what="a script that runs")
        yield
        client.script_kill()
        assert isinstance(running.exception(), redis.ResponseError)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as exc:
        return str(exc).startswith("BUSY")
    return False


def _now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def test_a_server_that_is_gone_is_unavailable(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    """Every method says so in this project's words; the caller may repeat it."""
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        client = redis.Redis.from_url(server.url(), retry=Retry(NoBackoff(), 0))
        backend: SharedBackend = RedisBackend(client, organism="o")
        story = Story(backend)
        frame = story.start()
    delivery = story.delivery(frame)
    opening = story.opening()
    calls = [
        lambda: backend.open(opening),
        lambda: story.start(),
        lambda: story.try_begin(story.id),
        lambda: story.commit(frame),
        lambda: backend.begin(
            story.id, story.id, owner="o", lease_ms=1, published={story.id: [story.id]}
        ),
        lambda: backend.published(story.id, [story.id]),
        lambda: backend.retry(story.id, story.id, attempt=1, delay_ms=1, reason=""),
        lambda: backend.released(story.id),
        lambda: backend.renew([(story.id, story.id)], owner="o", lease_ms=1),
        lambda: backend.abandon(story.id, story.id, owner="o", reason="lost"),
        lambda: backend.answer(story.id, delivery.id, delivery),
        lambda: backend.kill(story.id, Ending(ConversationStatus.KILLED, None)),
        lambda: backend.due(limit=1),
        lambda: backend.reclaim(Due(story.id, "d"), retry_in_ms=1, silent_branch=b""),
        lambda: backend.expire(limit=1).gone,
        lambda: backend.unbegun(older_than_ms=0, limit=1),
        lambda: backend.republish(Due(story.id, "d"), older_than_ms=0),
        lambda: backend.dead_letters(limit=1),
        lambda: backend.drop(story.id, story.id),
        lambda: backend.replay(story.id, story.id),
        lambda: backend.waits(story.id),
        lambda: backend.join(story.id, "j"),
        lambda: backend.results(story.id, "j", 0, 1),
        lambda: backend.put_thread(story.id, frame.thread),
        lambda: backend.child_thread(story.id, "t1", "a", "t2"),
        lambda: backend.thread(story.id, "t1"),
        lambda: backend.threads(story.id),
        lambda: backend.drop_threads(story.id, ["t1"]),
        lambda: backend.conversation(story.id),
        lambda: backend.conversations(limit=1),
        lambda: backend.log(story.id),
        lambda: backend.context(story.id, "t1", limit=1),
        lambda: backend.stats(),
        lambda: backend.clear(),
    ]
    for call in calls:
        with pytest.raises(RegistryUnavailableError):
            call()
    backend.close()


def test_renewing_makes_nothing_again_of_a_conversation_that_is_gone(
    redis_client: redis.Redis,
) -> None:
    """Redis has evicted its row: what renews, gives up or retries leaves it gone, without error."""
    backend = RedisBackend(redis_client, organism="desk")
    story = Story(backend, id="evicted")
    frame = story.start()
    [row] = redis_client.keys("tl:desk:*:conversation:evicted")
    redis_client.delete(row)
    before = sorted(redis_client.keys("*"))
    backend.renew([(story.id, story.id)], owner=story.owner, lease_ms=LONG_MS)
    assert backend.abandon(story.id, story.id, owner=story.owner, reason="lost") is None
    assert backend.retry(story.id, story.id, attempt=frame.attempt, delay_ms=1, reason="") is None
    backend.released(story.id)
    assert sorted(redis_client.keys("*")) == before
