"""Dramatiq's side of the contests, on the same Redis: pipelines, groups, messages.

What it is: `dramatiq benchmarks.dramatiq_side`. Its workers acknowledge late too; a pipeline's next
message is sent by a middleware after the actor, and a group's counter decides when its callback is
sent: like Celery's chain and chord, effects between which a crash can fall.
"""

from __future__ import annotations

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import GroupCallbacks
from dramatiq.rate_limits.backends import RedisBackend as Barriers
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as ResultStore

_client = redis.Redis.from_url(os.environ["DRAMATIQ_URL"])
_broker = RedisBroker(client=_client)
_broker.add_middleware(Results(backend=ResultStore(client=_client)))
_broker.add_middleware(GroupCallbacks(Barriers(client=_client)))
dramatiq.set_broker(_broker)

DONE = "dramatiq-done"


@dramatiq.actor(max_retries=0, store_results=True)
def step(left: int) -> int:
    """One hop of a pipeline."""
    return left - 1


@dramatiq.actor(max_retries=0)
def item(left: int) -> None:
    """One item of a group."""


@dramatiq.actor(max_retries=0)
def done() -> None:
    """A group's completion."""
    _client.rpush(DONE, 1)


def run_pipeline(hops: int) -> None:
    """A pipeline of so many messages, until its result is here."""
    first, *rest = (step.message(hops) if not n else step.message() for n in range(hops))
    dramatiq.pipeline([first, *rest]).run().get_result(block=True, timeout=120_000)


def run_group(items: int) -> None:
    """A group of so many messages, until its callback has run."""
    group = dramatiq.group([item.message(n) for n in range(items)])
    group.add_completion_callback(done.message())
    group.run()
    while not _client.blpop([DONE], timeout=2):  # less than redis-py's own patience
        continue


def send(messages: int) -> None:
    """So many messages, one after another."""
    for n in range(messages):
        item.send(n)


def drained() -> bool:
    """Whether no message is left."""
    return not _client.llen("dramatiq:default")
