"""The contract of every backend: what can be read, in which order, and under which keys."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import redis

from tests.stories import DONE, KILLED, LONG_MS, SILENT, Bench, Story
from threadloom.routing.backends import MemoryBackend, RedisBackend, SharedBackend
from threadloom.routing.backends.redis.scripts import load_scripts
from threadloom.routing.errors import UnknownThreadError
from threadloom.routing.records import Branch, Conversation, Due, Thread
from threadloom.routing.states import ConversationStatus

ODD_IDS = [
    "a|b|a|b",
    "{0}:due",
    "due",
    "}{",
    "with blank\nand line",
    "ünïcödé-☃-𝄞",
    "x:deliveries",
    'quote"\\',
    "*?[a]",
]
#: what the scripts may call, each of them older than Redis 6.2
COMMANDS = {
    *("EXISTS", "GET", "SET", "PERSIST", "PEXPIRE", "RENAME", "TIME", "UNLINK", "RPUSH"),
    *("ZADD", "ZCARD", "ZRANGE", "ZREM", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZSCORE"),
    *("HDEL", "HEXISTS", "HGET", "HINCRBY", "HKEYS", "HMGET", "HSCAN", "HSET", "HSETNX"),
}


# --- lists of conversations -----------------------------------------------------------------


def pages(backend: SharedBackend, limit: int) -> list[Conversation]:
    """All conversations, read page by page as a user would."""
    read: list[Conversation] = []
    while page := backend.conversations(
        limit=limit, before=(read[-1].created_ms, read[-1].id) if read else None
    ):
        assert len(page) <= limit
        read += page
    return read


def test_conversations_are_listed_newest_first_page_by_page(bench: Bench) -> None:
    """Three hundred, many of them of one millisecond: none twice, none left out."""
    for n in range(300):
        bench.backend.open(Story(bench.backend, id=f"{n * 7919 % 300}").opening())
        if n % 100 == 50:
            bench.tick()
    read = pages(bench.backend, 17)
    assert sorted(row.id for row in read) == sorted(str(n) for n in range(300))
    order = [(row.created_ms, row.id) for row in read]
    assert order == sorted(order, reverse=True)
    if isinstance(bench.backend, MemoryBackend):  # its clock stands still in between
        assert any(a.created_ms == b.created_ms for a, b in pairwise(read))
    assert pages(bench.backend, 300) == read
    assert bench.backend.conversations(limit=0) == []
    assert bench.backend.conversations(limit=5, before=(0, "")) == []
    assert bench.backend.stats()["conversations"] == 300


def test_equal_timestamps_are_told_apart_by_id(redis_client: redis.Redis) -> None:
    """Also over Redis's shards, where every member could be of one millisecond."""
    backend = RedisBackend(redis_client, organism="paging")
    for n in range(200):
        backend.open(Story(backend, id=f"c{n:03d}").opening())
    stamp = 1_700_000_000_000
    for row in backend.conversations(limit=200):
        keys = backend._keys(row.id)
        redis_client.zrem(keys[7], f"{row.created_ms:015d}:{row.id}")
        redis_client.zadd(keys[7], {f"{stamp:015d}:{row.id}": 0})
        redis_client.hset(keys[0], "created", stamp)
    read = pages(backend, 7)
    assert [row.id for row in read] == [f"c{n:03d}" for n in reversed(range(200))]


def test_pages_stay_full_while_conversations_expire(redis_client: redis.Redis) -> None:
    """Expired and not yet cleared away, they leave no gap that would look like the last page."""
    mortal = RedisBackend(redis_client, organism="paging", ttl_s=1)
    backend = RedisBackend(redis_client, organism="paging")
    for n in range(5):
        backend.open(Story(backend, id=f"old{n}").opening())
    for n in range(20):
        mortal.open(Story(mortal, id=f"gone{n}").opening())
        redis_client.unlink(*mortal._keys(f"gone{n}")[:6])
    assert [row.id for row in backend.conversations(limit=4)] == ["old4", "old3", "old2", "old1"]
    assert len(pages(backend, 4)) == 5


def test_a_conversation_is_unknown_until_it_is_opened(story: Story) -> None:
    """Threads alone do not make one, and survive its opening."""
    story.backend.put_thread(story.id, Thread("early", ("console",)))
    assert story.backend.conversation(story.id) is None
    assert story.backend.conversations(limit=5) == []
    assert story.backend.log(story.id) == []
    story.start()
    assert story.row.created_ms <= story.row.updated_ms
    assert set(story.backend.threads(story.id)) == {"early", "t0", "t1"}


def test_a_waiting_conversation_shows_as_waiting(story: Story) -> None:
    """Also inside a join, whose held body does not run either."""
    join = story.open_join(2)
    item = story.begin(f"{join}.0")
    wait = story.wait(item)
    story.commit(item, waits=(wait,))
    assert story.row.status is ConversationStatus.RUNNING
    story.reply(f"{join}.1")
    assert story.row.status is ConversationStatus.WAITING
    story.backend.answer(story.id, wait.id, story.input_for(wait))
    assert story.row.status is ConversationStatus.RUNNING


# --- log and context ------------------------------------------------------------------------


def test_the_log_tells_the_whole_story(story: Story) -> None:
    """Messages with their content, in the order they were created, readable in parts."""
    frame = story.start()
    story.commit(frame, **story.call(frame), note="a | b\n{c}")
    story.run("d1", ending=DONE)
    log = story.backend.log(story.id)
    assert [line.event for line in log] == ["message", "message", "note", "ended"]
    assert log[1].detail["delivery"].envelope == b"<Help>d1</Help>"
    assert log[2].detail == {"id": story.id, "text": "a | b\n{c}"}
    assert log[3].detail == {"text": "completed"}
    assert [line.at_ms for line in log] == sorted(line.at_ms for line in log)
    assert story.backend.log(story.id, start=1, limit=2) == log[1:3]
    assert story.backend.log(story.id, start=3, limit=9) == log[3:]
    assert story.backend.log(story.id, start=9) == []
    assert story.backend.log(story.id, limit=0) == []


def test_a_thread_remembers_its_messages_in_order(story: Story) -> None:
    """Slots are numbered from 0; the newest ones are read, oldest first."""
    frame = story.start()
    story.commit(frame, deliveries=tuple(story.delivery(frame) for _ in range(4)))
    read = story.backend.context(story.id, "t1", limit=100)
    assert [(slot, d.id) for slot, d in read] == list(enumerate([story.id, "d1", "d2", "d3", "d4"]))
    assert story.backend.context(story.id, "t1", limit=2) == read[3:]
    assert story.backend.context(story.id, "t0", limit=2) == []
    assert story.backend.context("nobody's", "t1", limit=2) == []


def test_twenty_writers_leave_no_gap(story: Story) -> None:
    """Twenty commits at once on one thread: every message has its slot and its line."""
    frame = story.start()
    story.commit(frame, deliveries=tuple(story.delivery(frame) for _ in range(20)))
    frames = [story.begin(f"d{n + 1}") for n in range(20)]
    new = [tuple(story.delivery(f) for _ in range(3)) for f in frames]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda n: story.commit(frames[n], deliveries=new[n]), range(20)))
    slots = story.backend.context(story.id, "t1", limit=1000)
    assert [slot for slot, _ in slots] == list(range(81))
    assert [d.id for _, d in slots] == story.events("message")
    assert len({d.id for _, d in slots}) == 81
    assert (story.row.deliveries, story.row.in_flight) == (81, 60)


# --- waits ----------------------------------------------------------------------------------


def test_open_waits_can_be_read(story: Story) -> None:
    """With their scope, until they are answered, not needed any more, or killed."""
    join = story.open_join(3, need_ok=1)
    assert story.backend.waits(story.id) == []
    items = [story.begin(f"{join}.{n}") for n in range(2)]
    first, second = (story.wait(item) for item in items)
    for item, wait in zip(items, (first, second), strict=True):
        story.commit(item, waits=(wait,))
    assert {wait.id: wait for wait in story.backend.waits(story.id)} == {
        first.id: first,
        second.id: second,
    }
    story.backend.answer(story.id, first.id, story.input_for(first))
    assert story.backend.waits(story.id) == [second]
    story.reply(f"{join}.2")
    assert story.backend.waits(story.id) == [], "the join has fired without it"
    body = story.begin(f"{join}.body")
    last = story.wait(body)
    story.commit(body, waits=(last,))
    assert story.backend.waits(story.id) == [last]
    story.backend.kill(story.id, KILLED)
    assert story.backend.waits(story.id) == []
    assert story.backend.answer(story.id, last.id, story.input_for(last)) is None
    assert story.backend.waits("nobody's") == []


# --- threads --------------------------------------------------------------------------------


def test_a_thread_is_stored_once_and_whole(story: Story) -> None:
    """Names may hold anything; a known id changes nothing."""
    thread = Thread("t", ("con.sole", "a|b", 'ü"{}'), "p", Branch("j", 7))
    assert story.backend.put_thread(story.id, thread)
    assert not story.backend.put_thread(story.id, Thread("t", ("other",)))
    assert story.backend.thread(story.id, "t") == thread
    assert story.backend.threads(story.id) == {"t": thread}
    assert story.backend.thread(story.id, "u") is None
    assert story.backend.thread("nobody's", "t") is None


def test_there_is_one_child_per_parent_and_name(story: Story) -> None:
    """Fifty propose fifty ids, and get the same one; the conversation's own threads are found."""
    story.start()
    with ThreadPoolExecutor(50) as pool:
        found = list(
            pool.map(
                lambda n: story.backend.child_thread(story.id, "t1", "a.b", f"id{n}"), range(50)
            )
        )
    assert set(found) == {Thread(found[0].id, ("console", "clerk", "a.b"), "t1")}
    assert set(story.backend.threads(story.id)) == {"t0", "t1", found[0].id}
    assert story.backend.child_thread(story.id, "", "console", "new").id == "t0"
    assert story.backend.child_thread(story.id, "t0", "clerk", "new").id == "t1"
    with pytest.raises(UnknownThreadError):
        story.backend.child_thread(story.id, "unheard-of", "a", "new")
    with pytest.raises(UnknownThreadError):
        story.backend.child_thread("nobody's", "t1", "a", "new")


def test_a_forgotten_child_can_be_made_anew(story: Story) -> None:
    """Nothing goes on to point to what was dropped."""
    story.backend.put_thread(story.id, Thread("p", ("console",)))
    for name in ("a", "b"):
        story.backend.child_thread(story.id, "p", name, f"{name}1")
    assert story.backend.drop_threads(story.id, ["a1", "unheard-of"]) == 1
    assert story.backend.drop_threads(story.id, ["a1"]) == 0
    assert story.backend.drop_threads(story.id, []) == 0
    assert story.backend.drop_threads("nobody's", ["a1"]) == 0
    assert story.backend.child_thread(story.id, "p", "a", "a2").id == "a2"
    assert story.backend.child_thread(story.id, "p", "b", "b2").id == "b1"


# --- ids and keys ---------------------------------------------------------------------------


def everything(story: Story) -> None:
    """One conversation with something of every kind in it."""
    backend = story.backend
    backend.open(story.opening())
    backend.published(story.id, [story.id])
    frame = story.begin(story.id)
    backend.renew([(story.id, story.id)], owner=story.owner, lease_ms=LONG_MS)
    backend.abandon(story.id, story.id, owner=story.owner, reason="timeout")
    frame = story.begin(story.id)
    changes = story.fan_out(frame, 3, window=2, deadline_ms=LONG_MS, answer_within_ms=1, label="l")
    story.commit(frame, **changes, children=story.call(frame)["children"])
    item = story.begin("j1.0")
    wait = story.wait(item)
    story.commit(item, waits=(wait,))
    backend.answer(story.id, wait.id, story.input_for(wait))
    story.reply("j1.1")
    story.reply(wait.id)
    story.reply("j1.2")
    body = story.begin("j1.body")
    story.commit(body, waits=(story.wait(body),))
    backend.put_thread(story.id, Thread("t9", ("x",)))
    backend.child_thread(story.id, "t9", "y", "t10")
    backend.drop_threads(story.id, ["t10"])
    backend.results(story.id, "j1", 0, 3)
    backend.join(story.id, "j1")
    backend.kill(story.id, KILLED)
    story.try_begin(story.id, lease_ms=1)


def test_every_answer_can_be_sent_to_another_process(story: Story) -> None:
    """What a backend takes and returns pickles, as the processes of one machine need it."""
    frame = story.start()
    given = story.transition(frame, **story.fan_out(frame, 2, memo={"n": [1]}))
    answers = [
        frame,
        given,
        story.backend.commit(given),
        story.begin("j1.0"),
        story.row,
        story.backend.log(story.id),
        story.backend.threads(story.id),
        story.backend.join(story.id, "j1"),
        story.backend.due(limit=9),
    ]
    assert pickle.loads(pickle.dumps(answers)) == answers


@pytest.mark.parametrize("conversation_id", ODD_IDS)
def test_any_text_is_an_id(bench: Bench, conversation_id: str) -> None:
    """Task ids come from anybody, and are the ids of conversations and of first deliveries."""
    story = Story(bench.backend, id=conversation_id)
    everything(story)
    assert story.row.id == conversation_id
    assert [row.id for row in bench.backend.conversations(limit=5)] == [conversation_id]
    assert bench.reclaim(conversation_id, "r") == [conversation_id]
    bench.backend.released(conversation_id)
    assert len(bench.backend.log(conversation_id)) > 5


def test_odd_ids_do_not_meet(bench: Bench) -> None:
    """All at once in one organism, with one that is the beginning of another."""
    stories = [Story(bench.backend, id=odd) for odd in (*ODD_IDS, "x", "a|b", "a|b|a")]
    for story in stories:
        bench.backend.open(story.opening())

    def all_due() -> Sequence[Due]:
        found = bench.backend.due(limit=99)
        return found if len(found) == len(stories) else ()

    for each in bench.until(all_due):
        [sent] = bench.backend.reclaim(each, retry_in_ms=LONG_MS, silent_branch=SILENT)
        assert (sent.conversation_id, sent.id) == (each.conversation_id, each.conversation_id)
    for story in stories:
        story.commit(story.begin(story.id), ending=DONE)
    assert {row.status for row in bench.backend.conversations(limit=99)} == {
        ConversationStatus.COMPLETED
    }


def test_every_key_is_declared_and_of_one_slot(redis_client: redis.Redis) -> None:
    """As Redis Cluster demands, and an access list would: watched on the server itself."""
    backend = RedisBackend(redis_client, organism="desk", prefix="tl:", publish_grace_ms=1)
    story = Story(backend, id="watched")
    declared: set[str] = set()
    touched: dict[bool, set[str]] = {True: set(), False: set()}
    with redis.Redis(connection_pool=redis_client.connection_pool) as other, other.monitor() as m:
        everything(story)
        for due in backend.due(limit=9):
            backend.reclaim(due, retry_in_ms=1, silent_branch=SILENT)
        backend.log(story.id)
        backend.context(story.id, "t1", limit=3)
        backend.conversations(limit=3)
        backend.expire(limit=3)
        backend.stats()
        backend.clear()
        redis_client.echo("over")
        for line in m.listen():
            words = line["command"].split(" ")
            if words[0] == "ECHO":
                break
            if line["db"] != 0:  # a worker of another test, on a database of its own
                continue
            if words[0] in ("EVALSHA", "EVAL"):
                keys = words[3 : 3 + int(words[2])]
                assert len({re.findall(r"\{(\d+)\}", key)[0] for key in keys}) == 1
                declared.update(keys)
            elif words[0] not in ("TIME", "SCRIPT", "HELLO", "CLIENT", "SELECT"):
                by_script = line["client_type"] == "lua"
                # UNLINK is the only command here with more than one key.
                touched[by_script].update(words[1:] if words[0] == "UNLINK" else words[1:2])
    assert touched[True]
    assert touched[True] <= declared
    strange = [k for k in declared | touched[False] if not re.match(r"tl:desk:\{\d+\}:", k)]
    assert strange == []


def test_scripts_use_nothing_newer_than_redis_6_2() -> None:
    """Commands as of 6.2 and no shebang flags: the embedded server may be that old."""
    for source in load_scripts().values():
        assert not source.startswith("#!")
        assert set(re.findall(r"redis\.call\('(\w+)'", source)) <= COMMANDS
        assert len(re.findall(r"redis\.", source)) == len(re.findall(r"redis\.call\('", source))


def test_to_begin_a_delivery_reads_nothing_twice(redis_client: redis.Redis) -> None:
    """It is what every message costs: the row and state, the thread, the envelope, each in one."""
    story = Story(RedisBackend(redis_client, organism="desk"), id="counted")
    story.backend.open(story.opening())
    story.backend.published(story.id, [story.id])
    story.backend.begin("unheard-of", "x", owner="w", lease_ms=1)  # Redis knows the script now
    redis_client.config_resetstat()
    story.begin(story.id)
    counts = {
        name.removeprefix("cmdstat_"): each["calls"]
        for name, each in redis_client.info("commandstats").items()
        if not name.startswith("cmdstat_config")
    }
    assert counts == {"evalsha": 1, "time": 1, "hmget": 4, "zrem": 1, "hset": 1, "zadd": 1}
