"""Shared messages: conversations that were injected together and travel in one message.

A message costs the broker and Celery's main process several times as much as a short conversation.
So `inject_many` publishes one message for many conversations. The worker that gets it begins them
one after another, as if each had its own message, until its slice ends. The rest goes back into
the queue in two halves: so long conversations soon occupy many workers, and other messages in the
queue are served in between.

Each conversation still has its own result, events and lease, and shows as a task of its own. A
long conversation delays those behind it in its message until it is done, or until the sweep finds
(after three seconds) that they were not begun, and publishes each by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from threadloom.config import RegistryUnavailableError
from threadloom.routing import Listener, Organism
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.releases import hand_over

if TYPE_CHECKING:
    from threadloom.tasks.listener import ListenerTask

logger = logging.getLogger(__name__)

#: most conversations in a message, which keeps it below 8 kB if the ids are UUIDs
MOST = 100


def per_message(count: int, listener: Listener, organism: Organism, lanes: int) -> int:
    """Return how many of `count` conversations share a message; `lanes` messages busy all workers.

    1 if each delivery needs its own message: own queue, rate limit, `local: false`, or no slice.
    """
    if not listener.local_s or not organism.local_slice_ms:
        return 1
    return max(1, min(MOST, count // lanes))


def carry_out(task: ListenerTask, conversations: Sequence[str]) -> str:
    """Begin conversations one by one within the slice and requeue the rest; return a summary line.

    A conversation that an earlier delivery of the message has begun is skipped.
    """
    until = time.monotonic() + task.runtime.organism.local_slice_ms / 1000
    for position, conversation in enumerate(conversations):
        if position and time.monotonic() >= until:
            put_back(task, conversations[position:])
            return f"{position} conversations, {len(conversations) - position} put back"
        outcome = task.begin_and_run(conversation, until=until)
        if outcome.release is not None:
            hand_over(task, conversation, outcome.release, task.runtime)
    return f"{len(conversations)} conversations"


def put_back(task: ListenerTask, conversations: Sequence[str]) -> None:
    """Publish the conversations that were not begun again, in two halves.

    Never raises for a broker or registry that does not answer: the sweep then publishes them.
    """
    half = (len(conversations) + 1) // 2
    try:
        task.runtime.backend.requeued([(each, each) for each in conversations])
    except RegistryUnavailableError as exc:
        logger.warning("together.not_requeued count=%d reason=%s", len(conversations), exc)
    publisher = Publisher(task.app, task.runtime)
    publisher.send_together(
        task.name, [part for part in (conversations[:half], conversations[half:]) if part]
    )
