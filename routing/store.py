"""The promise every registry backend makes: atomic operations, never get-then-set.

An operation happens wholly or not at all, and each may be repeated after a lost answer: that
is said beside each. Times are the registry's own clock. One suite, `tests/integration/
test_backend_*.py`, holds every implementation to this page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from threadloom.routing.gate import Refused
from threadloom.routing.records import (
    Beginning,
    CommitResult,
    Conversation,
    DeadLetter,
    Delivery,
    Due,
    Ending,
    Expired,
    JoinState,
    LogEntry,
    Opening,
    Publication,
    StoredResult,
    Thread,
    Transition,
    Turn,
    Wait,
)
from threadloom.routing.states import ConversationStatus

#: ms after which a message that nobody confirmed as published is published again
PUBLISH_GRACE_MS = 3_000
#: ms after which a published release that nobody handed over is published again
BEGIN_GRACE_MS = 10_000
#: dead letters kept in one shard (of 16), or in a process
DEAD_LETTERS = 1_000
#: messages that were put aside and are kept
REFUSED = 1_000
#: ms after its retention in which a conversation that nobody swept can still be read
MARGIN_MS = 600_000
#: s for which a conversation may owe an answer
MAX_AGE_S = 30 * 86_400
#: how one ends that has owed an answer for too long
TOO_OLD = Ending(
    ConversationStatus.KILLED,
    {
        "code": "limit",
        "message": "The conversation had no answer within max_age.",
        "retry_allowed": False,
    },
)
#: counts up with every change of what a registry holds that an older version cannot read: keys,
#: fields, rows, and what its scripts take and answer
FORMAT = 2
#: what the broker has taken: deliveries by conversation
Published = Mapping[str, Sequence[str]]
NOTHING: Published = {}
#: stands for a conversation itself where a parent thread is asked for
ROOTS = ""


class DeliveryStore(Protocol):
    """Deliveries: opened, begun, committed, given up, answered, killed."""

    def open(self, opening: Opening) -> Publication | None:
        """Create a conversation, once. Returns its first message to publish.

        A known id changes nothing; its first message comes back while it was never published,
        else None.
        """

    def open_many(self, openings: Iterable[Opening]) -> Sequence[str]:
        """Create conversations, each once, in as few round trips as there may be.

        Their first messages count as published from now on. What then is not published after
        all is found and published by the sweep, as what a broker has lost. Returns the ids
        that were known before, in no order. Repeating is safe. An error leaves some open,
        maybe: each wholly, or not at all.
        """

    def open_and_begin(
        self, opening: Opening, *, owner: str, lease_ms: int, published: Published = NOTHING
    ) -> Beginning:
        """As `open`, and take the first delivery as `begin` does, in one operation."""

    def begin(
        self,
        conversation_id: str,
        delivery_id: str,
        *,
        owner: str,
        lease_ms: int,
        published: Published = NOTHING,
    ) -> Beginning:
        """Take a delivery to run it, for `lease_ms`.

        Nobody gets one while a lease on it lives. Each grant raises the attempt, which fences
        the ones before. `owner` names one turn: the same one that asks again, because an answer
        was lost, gets the same grant. `published` says on the way what `published` below would,
        for a round trip less; it is said although the delivery may be refused.
        """

    def commit(
        self, transition: Transition, *, turn: Turn | None = None, published: Published = NOTHING
    ) -> CommitResult:
        """Settle a delivery and create all that follows from it.

        `turn` may go on with one of those, begun in the same operation: see `Turn` and
        `Committed.begun`.

        Fenced when the token is not the newest. Replan when a proposed child thread exists
        already under another id, when `max_deliveries` would be passed, or when a join's label
        is in use. Committed(adopted=True) when it was settled before: repeating is safe, and
        what the first commit created and nobody has published is handed out again, and so is
        what it took. The last
        delivery of a branch to settle without an answer fails the branch with
        `silent_branch`; the last of a conversation completes it without a value.
        """

    def published(self, conversation_id: str, deliveries: Sequence[str]) -> None:
        """Clear deliveries from the outbox: the broker has them. Repeating is safe."""

    def retry(
        self, conversation_id: str, delivery_id: str, *, attempt: int, delay_ms: int, reason: str
    ) -> tuple[Publication, ...] | None:
        """End an attempt that is to be repeated: the delivery falls due in `delay_ms`.

        Until then nobody gets it. Returns the messages to publish:
        of branches that need not wait for it. None, and nothing changes, when `attempt` is not
        the newest or not running; so repeating is safe.
        """

    def released(self, conversation_id: str) -> None:
        """The injector has been told how its conversation ended. Repeating is safe."""

    def renew(self, leases: Sequence[tuple[str, str]], *, owner: str, lease_ms: int) -> None:
        """Extend the leases (conversation, turn) that `owner` holds; others are left.

        An owner holds what its parts hold: `w/1` what was begun by `w/1/a`, and `w` that, too.
        Nothing of a conversation that is gone is made again.

        A turn is named by the delivery that it began with; its lease is on the one it has come to.
        """

    def abandon(
        self, conversation_id: str, delivery_id: str, *, owner: str, reason: str
    ) -> Publication | None:
        """Give up `owner`'s lease because its turn is over without a commit.

        `delivery_id` is the one that the turn began with. Returns the message to publish for the
        next attempt, or None if it was not leased to `owner` (or a part of it, as for `renew`) any
        more. Repeated before the message was published, it returns it again. `reason` (`timeout`,
        `lost`) is shown to the next attempt.
        """

    def answer(self, conversation_id: str, wait_id: str, delivery: Delivery) -> Publication | None:
        """Turn a wait into a delivery of its input; None if it was answered before.

        Where an answer was lost, the sweep publishes the message. `delivery.id` equals
        `wait_id`. Raises UnknownConversationError.
        """

    def kill(self, conversation_id: str, ending: Ending) -> Publication | None:
        """End a conversation now: nothing of it runs any more. None if it had ended.

        `ending.status` is KILLED: any other lets what is in flight go on. Returns the message
        that tells whoever injected it. Where an answer was lost, the sweep publishes it.
        """


class RecoveryStore(Protocol):
    """What a sweep asks for: what is late, lost or over."""

    def due(self, *, limit: int) -> Sequence[Due]:
        """Unpublished deliveries, expired leases, passed deadlines: what waits longest first."""

    def reclaim(
        self, due: Due, *, retry_in_ms: int, silent_branch: bytes
    ) -> tuple[Publication, ...]:
        """Take one late thing in hand, if it still is; one caller gets it.

        What comes back is to be published; it may be empty.

        A delivery comes back to be published again, and falls due again in `retry_in_ms`.
        An item's time limit fails its branch with `silent_branch`; a deadline fires its join:
        the body comes back. A release that nobody handed over comes back as the entry.
        """

    def unbegun(self, *, older_than_ms: int, limit: int) -> Sequence[Due]:
        """Messages published so long ago and not begun, the oldest first: waiting, or lost."""

    def addressed(self, unbegun: Sequence[Due]) -> Sequence[str | None]:
        """The listener that each of these messages is for; None for one that is not there."""

    def republish(self, unbegun: Due, *, older_than_ms: int) -> Publication | None:
        """The message of an unbegun delivery, if it still is one; one caller gets it.

        Counts as published anew: nobody else gets it within `older_than_ms`. One that need not
        be run any more is cancelled instead.
        """

    def requeued(self, deliveries: Sequence[tuple[str, str]]) -> None:
        """These unbegun ones (conversation, delivery) wait in the broker again, published anew.

        What is not unbegun is left. Repeating is safe.
        """

    def expire(self, *, limit: int) -> Expired:
        """Remove up to `limit` conversations whose retention is over.

        Nothing of them is left, in no list either; a large one goes in pieces, one in each call.
        What owes an answer is not removed: it has not ended, its injector was not told, or a part
        of it is still under way. Once it has grown too old it is killed with `TOO_OLD`, and
        has as long again for that to be told.
        """


class WorkerStore(Protocol):
    """Which workers are there."""

    def now_ms(self) -> int:
        """The store's clock, by which everything in it is timed: ms since 1970."""

    def announce(self, worker: str, processes: int, *, ttl_ms: int) -> None:
        """Say that a worker with so many pool processes is there, for `ttl_ms`."""

    def processes(self) -> int:
        """How many pool processes the workers have that are there now."""

    def eviction_policy(self) -> str | None:
        """By which policy the store drops rows when it is full; None if it drops none."""


class DeadLetterStore(Protocol):
    """Deliveries that failed for good."""

    def dead_letters(self, *, limit: int, before: str | None = None) -> Sequence[DeadLetter]:
        """Deliveries that failed for good, newest first, behind the position `before`.

        At most 1 000 are kept per shard, and none longer than its conversation.
        """

    def drop(self, conversation_id: str, delivery_id: str) -> bool:
        """Forget a dead letter; False if it is none."""

    def refuse(self, message: Refused) -> None:
        """Keep a message that was put aside; the newest thousand are kept, for the retention."""

    def refused(self) -> Sequence[Refused]:
        """The messages that were put aside, newest first."""

    def drop_refused(self, refused_id: str) -> bool:
        """Forget a message that was put aside; False if there is none of this id."""

    def replay(self, conversation_id: str, delivery_id: str) -> Publication | None:
        """Run a dead letter again, with all its retries; None if it is none.

        A conversation that ended with an error goes on, until it ends again; whoever injected
        it is told again. Where an answer was lost, the sweep publishes the message. But not for
        a delivery in a branch that was answered since: its own answer is late. None also if
        nothing of it can count: its conversation was killed, a join around it has fired without
        it, or its thread was forgotten.
        """


class JoinStore(Protocol):
    """Joins, their answers, and stored lists."""

    def join(self, conversation_id: str, join_id: str) -> JoinState | None:
        """One join with its counts."""

    def results(
        self, conversation_id: str, join_id: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        """The answers of indexes `start` to `stop - 1` that are there, in index order."""

    def put_items(
        self, conversation_id: str, name: str, start: int, items: Sequence[bytes]
    ) -> None:
        """Store items from index `start` of a list; the same ones again change nothing.

        Raises UnknownConversationError.
        """

    def items(self, conversation_id: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        """The items `start` to `stop - 1` of a stored list that are there, in order."""


class ThreadStore(Protocol):
    """Threads, both ways."""

    def put_thread(self, conversation_id: str, thread: Thread) -> bool:
        """Store a thread; False if its id is known already (nothing changes)."""

    def child_thread(
        self, conversation_id: str, parent_id: str, name: str, proposed: str
    ) -> Thread:
        """The one child of `parent_id` for `name`, created as `proposed` if there is none.

        The children of `ROOTS` are the injectors' own threads. Raises UnknownThreadError for
        an unknown parent.
        """

    def thread(self, conversation_id: str, thread_id: str) -> Thread | None:
        """One thread."""

    def threads(self, conversation_id: str) -> Mapping[str, Thread]:
        """All threads of a conversation, by id."""

    def drop_threads(self, conversation_id: str, threads: Sequence[str]) -> int:
        """Forget threads; returns how many were known.

        A delivery that comes on a forgotten thread is cancelled and logged as late.
        """


class ReadingStore(Protocol):
    """What people and programs read; changes nothing."""

    def conversation(self, conversation_id: str) -> Conversation | None:
        """One conversation."""

    def conversations(
        self, *, limit: int, before: tuple[int, str] | None = None
    ) -> Sequence[Conversation]:
        """Conversations newest first: at most `limit`, older than `before` (created_ms, id)."""

    def log(self, conversation_id: str, *, start: int = 0, limit: int = 1000) -> Sequence[LogEntry]:
        """The log of a conversation, oldest first, from position `start`."""

    def context(
        self, conversation_id: str, thread_id: str, *, limit: int
    ) -> Sequence[tuple[int, Delivery]]:
        """The newest `limit` messages of a thread, oldest first: (slot number from 0, delivery)."""

    def waits(self, conversation_id: str) -> Sequence[Wait]:
        """What the conversation waits for, in no order: every wait that `answer` would take."""

    def stats(self) -> Mapping[str, int]:
        """Counts: `conversations`; `due`: what is late or has a time at which it will be; `sent`:
        what the broker has and nobody has begun; `dead_letters`.
        """


class SharedBackend(
    DeliveryStore,
    RecoveryStore,
    WorkerStore,
    DeadLetterStore,
    JoinStore,
    ThreadStore,
    ReadingStore,
    Protocol,
):
    """Where conversations live. Every method may raise RegistryUnavailableError.

    Code that needs one part of it asks for that part.
    """

    def check_format(self) -> None:
        """Return if this version can work with the registry; a new one gets this version's format.

        Every start calls it first. Raises RegistryFormatError, and has changed nothing then.
        """

    def clear(self) -> None:
        """Remove everything of this organism, and nothing else."""

    def close(self) -> None:
        """Let go of connections."""
