"""Conversations that were injected together, and share a message.

What a message costs the broker, and Celery's main process, is several times what a short
conversation takes. So `inject_many` has one message for many conversations: whoever gets it begins
them one after another, as if each had come by itself, until its slice is over. What is left then
goes back into the queue in two halves: conversations that take long soon have many workers at them,
and others who wait in the queue get their turn.

Each conversation is still a task of its own for whoever looks: its result under its own id, its
events, its lease. One that takes long keeps back those behind it in its message until it is done,
or until the sweep finds that nobody has begun them (three seconds) and publishes each by itself.
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

#: conversations that share a message at most, which keeps it under 8 kB where ids are UUIDs
MOST = 100


def per_message(count: int, listener: Listener, organism: Organism, lanes: int) -> int:
    """How many of `count` conversations share a message, while `lanes` of them keep all busy.

    One, where a message stands for a turn: a queue of its own, a rate limit, `local: false`.
    """
    if not listener.local_s or not organism.local_slice_ms:
        return 1
    return max(1, min(MOST, count // lanes))


def carry_out(task: ListenerTask, conversations: Sequence[str]) -> str:
    """Begin conversations in turn while the slice lasts, and put the rest back; says so in a line.

    One that was begun before, by whoever had the message then, is left.
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
    """Publish what was not begun once more, in two halves.

    Never raises for a broker or registry that does not answer: the sweep finds them then.
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
