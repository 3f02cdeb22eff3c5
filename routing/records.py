"""What the registry holds and what changes it: frozen data, the same for every backend.

A *delivery* is one envelope for one listener. A *branch* is one index of a join (one item of
a buffer, one step of a sequence); everything an item causes carries its branch, so that the
registry knows when a branch has ended without an answer. A *join* is open until it fires, and
firing it releases its *body*: a delivery, held until then, to the listener that opened it.

`Thread`, `Delivery`, `Join` and `Wait` are also the rows of a store: msgspec writes them as JSON
with the field names below, or the shorter ones of `rename`, and omits each field that is at its
default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct, field

from threadloom.routing.states import Abandonment, ConversationStatus, LogEvent, SkipReason


class Branch(NamedTuple):
    """One index of one join."""

    join_id: str
    index: int  # type: ignore[assignment]  # nobody looks for a position in a branch


#: the branches a delivery lives in, outermost first; empty: in none
Scope = tuple[Branch, ...]


class Thread(Struct, frozen=True, gc=False, omit_defaults=True, rename={"parent_id": "parent"}):
    """One position in a conversation's call tree."""

    #: stored as the name of the row, which leaves it out
    id: str = ""
    #: who called whom on the way here, the injector first; never empty
    chain: tuple[str, ...] = ()
    #: the caller's thread; None for the injector's own
    parent_id: str | None = None
    #: the join index that a reply on this thread answers
    branch: Branch | None = None
    #: what had to be repaired in the message that opened it; replies carry it as a `huh`
    repairs: str = ""

    @property
    def caller(self) -> str | None:
        """Whoever a reply on this thread goes to."""
        return self.chain[-2] if len(self.chain) > 1 else None

    @property
    def depth(self) -> int:
        """How many listeners deep this position is; the injector's own is 0."""
        return len(self.chain) - 1


class Delivery(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "thread_id": "thread",
        "parent_id": "parent",
        "from_id": "from",
        "payload_name": "name",
        "payload_path": "path",
    },
):
    """One envelope for one listener; `id` is the Celery task id and the message id."""

    id: str
    thread_id: str
    from_id: str
    to: str
    #: root element of the payload
    payload_name: str
    #: dotted path of the payload's class, "" when it is none of ours
    payload_path: str = ""
    #: canonical XML, the whole envelope; stored beside the row, which leaves it out
    envelope: bytes = b""
    scope: Scope = ()
    #: the delivery that caused this one; None for the injected one
    parent_id: str | None = None
    #: the chain's length, for depth-first scheduling
    depth: int = 1
    #: created now, but published only when a join releases it
    held: bool = False
    #: the first delivery of its innermost branch
    opens_branch: bool = False
    #: the branch answers within this many ms of this delivery's begin, or fails; 0: no limit
    answer_within_ms: int = 0
    #: seconds its handler may take, if any worker may run it without it being queued; 0: none may
    local_s: float = 0.0
    #: an answer to a call of this listener, so that its class need not be one that it takes
    is_reply: bool = False


class Join(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"thread_id": "thread", "body_id": "body", "delivery_ids": "deliveries"},
):
    """A fan-in: it fires once, as soon as one of its thresholds is reached."""

    id: str
    #: the system listener that opened it
    kind: str
    #: its thread
    thread_id: str
    total: int
    #: fires at so many successes; 0: never for that
    need_ok: int = 0
    #: fires at so many failures; 0: never for that
    need_failed: int = 0
    #: the held delivery that firing releases; None: nobody collects
    body_id: str | None = None
    #: ids reserved for the deliveries of chained branches, in index order; empty: none are chained
    delivery_ids: tuple[str, ...] = ()
    #: a listener per branch, in index order, or one for all of them
    targets: tuple[str, ...] = ()
    #: how many branches may be unanswered at once; 0: all
    window: int = 0
    #: how many branches are released at once; each of the others follows on one that was answered
    #: (with a window) or whose first delivery was settled (without); 0: all are
    released: int = 0
    #: fires this many ms after it was opened whatever is missing; 0: no deadline
    deadline_ms: int = 0
    #: each branch answers within this many ms of its begin, or fails; 0: no limit
    item_timeout_ms: int = 0
    #: the name its user gave or got, such as `buffer_id`; unique among the open ones of its kind
    label: str = ""
    #: what the body needs to know to answer; opaque to the registry
    memo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_chained(self) -> bool:
        """Whether each branch begins with the reply of the one before."""
        return bool(self.delivery_ids)

    def target(self, index: int) -> str:
        """The listener of a branch."""
        return self.targets[index] if len(self.targets) > 1 else self.targets[0]


class Refill(NamedTuple):
    """A held delivery that brings a join more branches, released when so many have been."""

    join_id: str
    #: released with this index
    at: int
    delivery_id: str


class BranchResult(Struct, frozen=True, gc=False):
    """The answer of one branch. The first one counts."""

    branch: Branch
    success: bool
    #: the payload, canonical XML
    payload: bytes
    payload_path: str = ""
    #: created only if this answer counts and the join has not fired: a sequence's next step
    then_delivery: Delivery | None = None
    then_thread: Thread | None = None


class Ending(Struct, frozen=True, gc=False):
    """How a conversation ends for whoever injected it; the first one counts."""

    status: ConversationStatus
    #: JSON-able: `{"type", "payload", "thread"}`, or `{"code", "message", "retry_allowed"}`
    value: Mapping[str, Any] | None


class Wait(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"thread_id": "thread", "listener": "to"},
):
    """A thread that waits for input; `id` is the delivery that the input will become."""

    id: str
    thread_id: str
    listener: str
    prompt: str
    scope: Scope = ()


class Opening(Struct, frozen=True, gc=False):
    """A conversation about to begin, with its first delivery."""

    conversation_id: str
    entry: Delivery
    #: the injector's own thread, and the entry listener's
    root: Thread
    thread: Thread
    #: Celery options under which the injector waits; JSON, opaque to the registry
    canvas: str = ""

    @property
    def children(self) -> tuple[tuple[str, str, str], ...]:
        """The two threads as children: (parent thread, name, child id)."""
        root, thread = self.root, self.thread
        return ("", root.chain[-1], root.id), (root.id, thread.chain[-1], thread.id)


class Frame(Struct, frozen=True, gc=False):
    """Everything that is decided from when a delivery runs: one round trip's worth."""

    conversation_id: str
    delivery: Delivery
    thread: Thread
    #: known child threads, by (parent thread, listener name)
    children: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: the join that a reply on this thread answers
    join: Join | None = None
    #: deliveries this conversation has had
    deliveries: int = 1
    #: how often this delivery has begun, this time included; also the fencing token: a commit
    #: with an older one is refused
    attempt: int = 1
    #: how many of the attempts count against the listener's retries: those since a replay
    tries: int = 1
    #: why the attempt before this one ended without a commit
    abandoned: Abandonment = Abandonment.NONE


class Transition(Struct, frozen=True, gc=False):
    """Everything that one attempt of a handler changes, committed at once or not at all."""

    conversation_id: str
    delivery_id: str
    #: the attempt that commits
    attempt: int
    deliveries: tuple[Delivery, ...] = ()
    threads: tuple[Thread, ...] = ()
    #: proposed child threads: (parent thread, listener, child id)
    children: tuple[tuple[str, str, str], ...] = ()
    joins: tuple[Join, ...] = ()
    results: tuple[BranchResult, ...] = ()
    waits: tuple[Wait, ...] = ()
    refills: tuple[Refill, ...] = ()
    ending: Ending | None = None
    #: what becomes of a branch that ends without an answer: the payload of its failure
    silent_branch: bytes = b""
    #: refuse the commit past so many deliveries; 0: it may pass (replies always may)
    max_deliveries: int = 0
    #: for the conversation's log, e.g. what a fault hides from its caller
    note: str = ""
    #: keep the delivery among the dead letters, with the note as its reason
    dead_letter: bool = False


class Turn(Struct, frozen=True, gc=False):
    """All that a worker does for one message: its delivery, and those that it goes on with.

    A commit in a turn takes one of the deliveries that it has made ready, and begins it as `begin`
    does instead of having it published: the first one whose `local_s` is above 0 and at most
    `within_s`, if it overtakes nothing. A commit that ends the conversation takes nothing.
    """

    #: the delivery that the turn began with; its lease goes by this name, whichever it has come to
    id: str
    owner: str
    lease_ms: int
    #: seconds that the handler of what is taken may have; 0: nothing is taken
    within_s: float = 0.0
    #: how many lanes a join without a window should have by now; 0: as many as it has
    lanes: int = 0


# --- answers of a backend -------------------------------------------------------------------


class Begun(Struct, frozen=True, gc=False):
    """Run it: this caller holds the lease."""

    frame: Frame


class Release(Struct, frozen=True, gc=False):
    """The conversation has ended; this caller hands its value to whoever injected it."""

    ending: Ending
    #: how often this has been tried, this time included
    attempt: int = 1


class Skip(Struct, frozen=True, gc=False):
    """Nothing to run here."""

    reason: SkipReason


class Publication(NamedTuple):
    """One message to publish: enough to address it, nothing of its content."""

    conversation_id: str
    id: str
    to: str
    from_id: str
    payload_name: str
    depth: int
    #: the branch it opens, which shows as a Celery group index or chain position
    branch: Branch | None
    parent_id: str | None
    #: its branch answers within this many ms of its begin; 0: no limit
    answer_within_ms: int = 0
    #: not a delivery but the resumption of the injector's canvas: these are its Celery options
    canvas: str | None = None

    @classmethod
    def of(cls, conversation_id: str, delivery: Delivery, canvas: str | None = None) -> Publication:
        """The message that carries a delivery."""
        return cls(
            conversation_id=conversation_id,
            id=delivery.id,
            to=delivery.to,
            from_id=delivery.from_id,
            payload_name=delivery.payload_name,
            depth=delivery.depth,
            branch=delivery.scope[-1] if delivery.opens_branch else None,
            parent_id=delivery.parent_id,
            answer_within_ms=delivery.answer_within_ms,
            canvas=canvas,
        )


class Committed(Struct, frozen=True, gc=False):
    """The delivery is settled by this commit (`adopted`: by an earlier one)."""

    publications: tuple[Publication, ...] = ()
    #: the conversation has ended by this commit, and how: the injector is to be told …
    release: Ending | None = None
    #: … by this message, unless the injected task itself is what just ran
    resume: Publication | None = None
    adopted: bool = False
    #: what the turn goes on with, if it asked for something and there was something to take
    begun: Begun | None = None


class Fenced(Struct, frozen=True, gc=False):
    """Refused: another attempt has taken the delivery over."""


class Replan(Struct, frozen=True, gc=False):
    """Refused because the frame is stale: plan again. The handler need not run again."""

    #: deliveries the conversation has had by now
    deliveries: int
    #: child threads that exist under other ids than proposed, by (parent thread, listener)
    children: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: the delivery limit was reached
    over_limit: bool = False
    #: a label of a join that is still open was used again
    label_taken: bool = False


# --- what can be read -----------------------------------------------------------------------


class Conversation(Struct, frozen=True, gc=False):
    """One conversation as a list shows it. Times are ms since 1970 on the registry's clock."""

    id: str
    status: ConversationStatus
    entry: str
    from_id: str
    created_ms: int
    updated_ms: int
    deliveries: int
    #: created and not settled, waits included; what a join holds back is not counted
    in_flight: int
    waiting: int
    value: Mapping[str, Any] | None = None


class LogEntry(Struct, frozen=True, gc=False):
    """One line of a conversation's log."""

    at_ms: int
    event: LogEvent
    #: message and late: `delivery` (a Delivery); note, abandoned and retry: `id`, `text`;
    #: dead_letter and replayed: `id`; join and ended: `text`; waiting: `id`, `thread`, `to`,
    #: `prompt`, `scope`
    detail: Mapping[str, Any]


class JoinState(Struct, frozen=True, gc=False):
    """An open or fired join, with its counts."""

    join: Join
    ok: int
    failed: int
    fired: bool


class StoredResult(Struct, frozen=True, gc=False):
    """One index of a join as it was answered."""

    index: int
    success: bool
    payload: bytes
    payload_path: str


class DeadLetter(Struct, frozen=True, gc=False):
    """A delivery whose handler failed for good."""

    conversation_id: str
    delivery: Delivery
    #: when it failed, ms since 1970 on the registry's clock
    at_ms: int
    #: how often it was begun
    attempts: int
    #: what the handler raised, or how its worker was lost
    reason: str
    #: where it stands in the list, opaque; pages continue behind it
    position: str


class Due(Struct, frozen=True, gc=False):
    """Something whose time has come: an unpublished delivery, an expired lease, a timer."""

    conversation_id: str
    member: str


class Expired(Struct, frozen=True, gc=False):
    """What one look at the retention has done."""

    #: conversations that are gone
    gone: int = 0
    #: those that owed an answer for too long, and were ended
    too_old: tuple[str, ...] = ()
    #: whether there may be more to do at once
    more: bool = False


Beginning = Begun | Release | Skip
CommitResult = Committed | Fenced | Replan
