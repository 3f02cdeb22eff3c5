"""What conversations leave behind in Redis once their retention is over: nothing.

    python -m benchmarks.soak [--conversations 20000] [--at-once 5000]

On a private Redis, conversations of every kind are lived through and forgotten: calls, joins
with time limits, retries, dead letters (some replayed), waits (some never answered), killed
ones with work in flight, messages that nobody began, injectors that were never told. A first
wave warms up; then keys and memory are counted before and after. Exit status 1 if there is a
key more than before, or memory differs by more than 2 %.

It drives the registry alone. What Celery and kombu leave is in tests/integration/test_retention.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.stories import DONE, KILLED, LONG_MS, SILENT, Story
from threadloom.routing.backends import RedisBackend
from threadloom.routing.records import Ending, Thread
from threadloom.routing.states import ConversationStatus
from threadloom.service import EmbeddedRedis

BROKEN = Ending(ConversationStatus.ERROR, {"code": "handler"})
#: of the memory before
TOLERANCE = 0.02
#: conversations forgotten per call, as the workers' sweep does
_SWEEP = 200
#: s that Redis gets to give back what its hash tables had grown to
_SETTLE_S = 10.0
#: s without a change after which it has: Redis shrinks its own tables when it has nothing to do
_QUIET_S = 3.0


@dataclass(frozen=True)
class Level:
    """What a Redis holds."""

    keys: int
    memory_bytes: int


@dataclass(frozen=True)
class Soak:
    """A soak's figures."""

    conversations: int
    seconds: float
    before: Level
    peak: Level
    after: Level

    @property
    def memory_growth(self) -> float:
        """As a fraction of the memory before."""
        return self.after.memory_bytes / self.before.memory_bytes - 1

    @property
    def is_clean(self) -> bool:
        """Not a key more, and no memory but what an allocator may keep."""
        return self.after.keys == self.before.keys and abs(self.memory_growth) <= TOLERANCE


# --- conversations of every kind --------------------------------------------------------------


def call(story: Story) -> None:
    """A call, its reply, an ending that is handed over."""
    frame = story.start()
    story.commit(frame, **story.call(frame))
    story.backend.published(story.id, ["d1"])
    called = story.begin("d1")
    story.commit(called, deliveries=(story.delivery(called, id="reply", thread="t1", to="clerk"),))
    story.run("reply", ending=DONE)
    story.try_begin(story.id)
    story.backend.released(story.id)


def joined(story: Story) -> None:
    """A fan-out with a window, time limits and a deadline; one item fails."""
    join = story.open_join(3, window=2, deadline_ms=LONG_MS, answer_within_ms=LONG_MS)
    story.reply(f"{join}.0")
    story.run(f"{join}.1", note="why", dead_letter=True)
    story.reply(f"{join}.2")
    story.run(f"{join}.body", ending=DONE)


def half_joined(story: Story) -> None:
    """Forgotten in the middle: a timer runs, an item waits, another is with the broker."""
    join = story.open_join(4, deadline_ms=LONG_MS, answer_within_ms=LONG_MS, label="mine")
    item = story.begin(f"{join}.0")
    story.commit(item, waits=(story.wait(item),))
    story.begin(f"{join}.1")
    story.backend.published(story.id, [f"{join}.2"])


def retried(story: Story) -> None:
    """A run that is repeated, and one that nobody lives to see."""
    frame = story.start()
    story.backend.retry(story.id, story.id, attempt=frame.attempt, delay_ms=0, reason="later")
    again = story.begin(story.id)
    story.commit(again, **story.call(again))
    called = story.begin("d1")
    story.backend.retry(story.id, "d1", attempt=called.attempt, delay_ms=1, reason="later")


def dead(story: Story) -> None:
    """An error that stays a dead letter."""
    story.commit(story.start(), note="why", dead_letter=True, ending=BROKEN)


def replayed(story: Story) -> None:
    """An error that is mended, and told again."""
    dead(story)
    story.backend.replay(story.id, story.id)
    story.run(story.id, ending=DONE)
    story.try_begin(story.id)
    story.backend.released(story.id)


def answered(story: Story) -> None:
    """A wait that gets its input."""
    frame = story.start()
    wait = story.wait(frame)
    story.commit(frame, waits=(wait,))
    story.backend.answer(story.id, wait.id, story.input_for(wait))
    story.run(wait.id, ending=DONE)


def killed(story: Story) -> None:
    """With a lease, a message in the outbox and one in the broker."""
    frame = story.start()
    story.commit(frame, deliveries=tuple(story.delivery(frame) for _ in range(3)))
    story.begin("d1")
    story.backend.published(story.id, ["d2"])
    story.backend.kill(story.id, KILLED)


def threads_alone(story: Story) -> None:
    """Never opened."""
    story.backend.put_thread(story.id, Thread("t", ("console",)))
    story.backend.child_thread(story.id, "t", "clerk", "t2")


KINDS: Sequence[Callable[[Story], None]] = (
    call, joined, half_joined, retried, dead, replayed, answered, killed, threads_alone,
)  # fmt: skip


# --- the soak -------------------------------------------------------------------------------


def level(client: redis.Redis) -> Level:
    """What the server holds now, this client's own buffers aside."""
    client.slowlog_reset()
    client.execute_command("MEMORY PURGE")
    return Level(client.dbsize(), client.info("memory")["used_memory"])


def wave(backend: RedisBackend, first: int, count: int) -> None:
    """Live through so many conversations, and let a sweep take some late things in hand."""
    for n in range(first, first + count):
        KINDS[n % len(KINDS)](Story(backend, id=f"conversation-{n}"))
    for due in backend.due(limit=_SWEEP):
        backend.reclaim(due, retry_in_ms=LONG_MS, silent_branch=SILENT)


def forget(backend: RedisBackend) -> int:
    """Remove all whose retention is over; returns how many."""
    removed = 0
    while (found := backend.expire(limit=_SWEEP)).gone or found.too_old or found.more:
        removed += found.gone
    return removed


def soak(client: redis.Redis, conversations: int, *, at_once: int) -> Soak:
    """Run a soak on a Redis that nobody else uses. Raises RuntimeError if any is not forgotten."""
    backend = RedisBackend(client, organism="soak", ttl_s=0, max_age_s=0)
    wave(backend, 0, at_once)
    forget(backend)
    before = _settled(client, None)
    peak, started = before, time.perf_counter()
    for first in range(at_once, at_once + conversations, at_once):
        count = min(at_once, at_once + conversations - first)
        wave(backend, first, count)
        peak = max(peak, level(client), key=lambda each: each.memory_bytes)
        time.sleep(0.002)  # a retry's delay, which is kept as long
        removed = forget(backend)
        if removed != count:
            raise RuntimeError(f"{removed} of {count} conversations were forgotten")
    seconds = time.perf_counter() - started
    return Soak(conversations, seconds, before, peak, _settled(client, before))


def _settled(client: redis.Redis, wanted: Level | None) -> Level:
    """The level once it falls no more, or is where it was."""
    give_up, lowest, since = time.monotonic() + _SETTLE_S, level(client), time.monotonic()
    while time.monotonic() < give_up and time.monotonic() - since < _QUIET_S:
        now = level(client)
        if now.memory_bytes < lowest.memory_bytes:
            lowest, since = now, time.monotonic()
        if wanted and lowest.keys == wanted.keys and lowest.memory_bytes <= wanted.memory_bytes:
            break
        time.sleep(0.05)
    return lowest


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=5_000)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis(Path(directory), persistent=False) as server,
        redis.Redis.from_url(server.url()) as client,
    ):
        found = soak(client, given.conversations, at_once=given.at_once)
    print(f"{found.conversations} conversations in {found.seconds:.0f} s")
    for name in ("before", "peak", "after"):
        held: Level = getattr(found, name)
        print(f"{name:>8}  {held.keys:>8} keys  {held.memory_bytes / 1024:>10.0f} KiB")
    print(f"memory {found.memory_growth:+.2%}: {'clean' if found.is_clean else 'NOT CLEAN'}")
    sys.exit(not found.is_clean)


if __name__ == "__main__":
    main()
