"""Dead letters: deliveries whose handlers failed for good, to be looked at, replayed or dropped.

A delivery is one when its handler raised, ran out of its time, or took its worker along or asked
for another run once more often than `max_retries` allows. Its caller has had the error by then.
The registry keeps it, with what the handler raised, as long as its conversation and at most a
thousand per shard. Source: Dead Letter Channel, in Hohpe & Woolf, "Enterprise Integration
Patterns" (2003).
"""

from __future__ import annotations

from collections.abc import Iterator

from celery import Celery

from threadloom.config import PermanentError
from threadloom.routing.records import DeadLetter
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import runtime_of

#: dead letters that one round of looking brings
_PAGE = 200


class ReplayRefusedError(PermanentError):
    """A dead letter that cannot run again; `reason` says why."""

    def __init__(self, delivery_id: str, reason: str) -> None:
        super().__init__(delivery_id, reason)
        self.delivery_id, self.reason = delivery_id, reason

    def __str__(self) -> str:
        return f"{self.delivery_id} is not replayed: {self.reason}"


def dead_letters(app: Celery, *, limit: int = 100, before: str | None = None) -> list[DeadLetter]:
    """Deliveries that failed for good, newest first.

    The next page begins behind the `position` of this one's last: pass it as `before`.
    """
    return list(runtime_of(app).backend.dead_letters(limit=limit, before=before))


def find_dead_letter(app: Celery, delivery_id: str) -> DeadLetter | None:
    """The dead letter of a delivery; None if it is none: it never was, or was replayed, dropped
    or forgotten with its conversation.

    Looks through all of them, the newest first.
    """
    return next((letter for letter in _all(app) if letter.delivery.id == delivery_id), None)


def _all(app: Celery) -> Iterator[DeadLetter]:
    before = None
    while page := dead_letters(app, limit=_PAGE, before=before):
        yield from page
        before = page[-1].position


def replay_dead_letter(app: Celery, conversation_id: str, delivery_id: str) -> bool:
    """Run a dead letter again, under its own message id and with all its retries.

    A conversation that had ended with an error goes on, and whoever injected it reads the value
    under the same id. What the caller has made of the error meanwhile stays made: it gets the
    reply as well. An answer that cannot count any more (of a buffer's item that has failed, or
    at the first hop of a conversation that is completed) is logged as late.

    Returns False if it is no dead letter, so two at once replay it once. Raises
    ReplayRefusedError: nothing of a killed conversation runs again, nor what a join or a time
    limit has decided without. After a RegistryUnavailableError call it again: False then means
    that it runs.
    """
    runtime = runtime_of(app)
    publication = runtime.backend.replay(conversation_id, delivery_id)
    if publication is not None:
        Publisher(app, runtime).publish([publication])
        return True
    if find_dead_letter(app, delivery_id) is None:
        return False
    found = runtime.backend.conversation(conversation_id)
    if found is not None and found.status is ConversationStatus.KILLED:
        reason = f"its conversation {conversation_id} was killed"
    else:
        reason = "nothing waits for its answer any more"
    raise ReplayRefusedError(delivery_id, reason)


def drop_dead_letter(app: Celery, conversation_id: str, delivery_id: str) -> bool:
    """Forget a dead letter; False if it is none. Its conversation and its log stay as they are."""
    return runtime_of(app).backend.drop(conversation_id, delivery_id)
