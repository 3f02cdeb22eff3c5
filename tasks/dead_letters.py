"""Dead letters: deliveries whose handlers failed for good, to be listed, replayed or dropped.

A delivery becomes a dead letter when its handler raised a permanent error or exceeded its time
limit, or when its attempts, after transient errors and lost workers, exceed `max_retries`. Its
caller has got the error by then. The registry keeps the delivery with the error as long as its
conversation, at most a thousand per shard. Source: Dead Letter Channel, in Hohpe & Woolf,
"Enterprise Integration Patterns" (2003).
"""

from __future__ import annotations

from collections.abc import Iterator

from celery import Celery

from threadloom.config import PermanentError
from threadloom.routing.records import DeadLetter
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import runtime_of

#: dead letters read in one round trip
_PAGE = 200


class ReplayRefusedError(PermanentError):
    """The dead letter cannot run again; `reason` says why."""

    def __init__(self, delivery_id: str, reason: str) -> None:
        super().__init__(delivery_id, reason)
        self.delivery_id, self.reason = delivery_id, reason

    def __str__(self) -> str:
        return f"{self.delivery_id} is not replayed: {self.reason}"


def dead_letters(app: Celery, *, limit: int = 100, before: str | None = None) -> list[DeadLetter]:
    """Return one page of the dead letters, newest first.

    To get the next page, pass the `position` of this page's last dead letter as `before`.
    """
    return list(runtime_of(app).backend.dead_letters(limit=limit, before=before))


def find_dead_letter(app: Celery, delivery_id: str) -> DeadLetter | None:
    """Return a delivery's dead letter; None if it is not, or no longer, a dead letter.

    A dead letter ends when it is replayed, dropped or removed with its conversation. This reads
    through all dead letters, newest first.
    """
    return next((letter for letter in _all(app) if letter.delivery.id == delivery_id), None)


def _all(app: Celery) -> Iterator[DeadLetter]:
    before = None
    while page := dead_letters(app, limit=_PAGE, before=before):
        yield from page
        before = page[-1].position


def replay_dead_letter(app: Celery, conversation_id: str, delivery_id: str) -> bool:
    """Run a dead letter again, under its own message id and with all its retries.

    A conversation that had ended with an error continues, and its injector reads the value under
    the same id. The caller gets the reply in addition to the earlier error; what it did because
    of the error is not undone. An answer that can no longer count (of a buffer's item that has
    failed, or at the first hop of a completed conversation) is logged as late.

    Returns False if the delivery is no dead letter, so two concurrent calls replay it once. Raises
    ReplayRefusedError if its conversation was killed, or if a join or a time limit was already
    decided without it. After a RegistryUnavailableError call it again: False then means that the
    replay has been started.
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
    """Delete a dead letter, not its conversation or log; False if it is no dead letter."""
    return runtime_of(app).backend.drop(conversation_id, delivery_id)
