"""What the registry keeps in Redis: its keys, the fields of its hashes, and the words in them.

This is the catalogue, and the only place where these names are written. Python takes them from
here, and `scripts.py` writes them into the Lua that uses them: a thing's field is `ROW_OF` there,
a field of the conversation `FIELD_STATUS`, a delivery's state `STATE_HELD`, and so on
(`lua_constants`). No code means two things.

All keys of one conversation, and the lists of its shard, share the shard's hash tag.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from threadloom.routing.states import (
    Abandonment,
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
    SkipReason,
)
from threadloom.routing.store import DEAD_LETTERS, MARGIN_MS, REFUSED

SHARDS = 16


class Keys(NamedTuple):
    """The keys of one conversation and of its shard, in the order of a script's KEYS."""

    #: hash of `ConversationField`: the conversation's own row
    conversation: str
    #: hash of the deliveries: `Field` ROW to SLOT
    deliveries: str
    #: hash of the threads: `Field` THREAD and CHILDREN
    threads: str
    #: hash of the joins, their branches, and stored lists: `Field` JOIN to TIMED_OUT
    joins: str
    #: list of the log's lines: `<ms>|<event>|<detail>`
    log: str
    #: hash of the open waits: id -> row (JSON); gone once the conversation is killed
    waits: str
    #: sorted set of the shard, by due ms, of `<kind>|<n>|<conversation>|<id>`; n: how many bytes
    #: the conversation has
    due: str
    #: sorted set of the shard, all scores 0: `<created ms>:<conversation>`
    created: str
    #: sorted set of the shard, by the ms at which retention is over, or at which what owes an
    #: answer has grown too old: the members of `created`, and `:<conversation>` for threads of a
    #: conversation that was never opened
    retention: str
    #: sorted set of the shard, all scores 0: `<failed ms>:x|<n>|<conversation>|<id>`
    dead: str
    #: sorted set of the shard, by the ms of publishing: what the broker has and nobody has begun;
    #: members as in `due`
    sent: str


#: the first so many keys are the conversation's own and expire with it
OWN_KEYS = 6
#: a conversation with more deliveries is forgotten in pieces; its keys do not expire by themselves
LARGE = 1_000


class Field(StrEnum):
    """What the field of a thing begins with; the thing's id follows."""

    # --- in `deliveries`, by delivery unless it says otherwise
    ROW = "r:"  #: the delivery, or the wait that will be one (JSON)
    ENVELOPE = "e:"
    STATE = "s:"  #: `<DeliveryState>|<attempt>|<Abandonment>|<owner>`
    DEAD_MEMBER = "x:"  #: of a dead letter: its name in `dead`
    DEAD_REASON = "y:"  #: of a dead letter: what its handler raised
    REPLAYED_AFTER = "z:"  #: of a replayed one: the attempts before
    TURN = "g:"  #: the delivery that the turn which this one began has come to, if it is another
    SLOT_COUNT = "n:"  #: by thread: how many slots its context has
    SLOT = "m:"  #: by `<thread>:<slot>`: the delivery in it

    # --- in `threads`, by thread
    THREAD = "t:"  #: the thread but for its id (JSON)
    CHILDREN = "k:"  #: its children (JSON: listener -> thread); of "": the injectors' own

    # --- in `joins`, by join
    JOIN = "j:"  #: the join (JSON)
    OK_COUNT = "ok:"
    FAILED_COUNT = "ko:"
    FIRED = "fired:"  #: the ms at which it fired
    NEXT_INDEX = "next:"  #: the first index that is not released yet
    LANES = "lanes:"  #: how many are released at a time, where a lane is free without an answer
    IDLE_LANES = "idle:"  #: free lanes for which nothing was held
    REFILL = "more:"  #: the held delivery that brings more branches …
    REFILL_AT = "low:"  #: … and the index with which it is released
    HAS_WAITED = "waited:"  #: set if anything inside it ever waited
    LABEL = "label:"  #: by `<kind>:<label>`: the open join of that name
    ITEM = "i:"  #: by `<list>:<index>`: an item of a stored list
    # --- in `joins`, by branch: `<join>:<index>`
    HELD = "h:"  #: its held delivery
    BRANCH_IN_FLIGHT = "c:"  #: its deliveries in flight, less one
    BRANCH_WAITS = "w:"  #: its waits (JSON)
    ANSWER = "v:"  #: its answer: `1|<path>|<payload>`, or 0 for a failure
    TIMED_OUT = "late:"  #: set once its time limit has passed

    def of(self, name: str) -> str:
        """The field of one thing."""
        return self + name


class ConversationField(StrEnum):
    """The fields of a conversation's own row."""

    ENTRY = "entry"  #: its first delivery
    FROM = "from"
    MEMBER = "member"  #: its name in `created` and `retention`
    STATUS = "status"
    VALUE = "value"  #: JSON
    IN_FLIGHT = "in_flight"
    WAITING = "waiting"
    COUNT = "count"  #: deliveries it has had
    TTL = "ttl"  #: ms
    CREATED = "created"  #: ms
    UPDATED = "updated"  #: ms
    TOUCHED = "touched"  #: the ms at which its retention was last moved on; absent while it owes
    AGED = "aged"  #: set once it has grown too old
    CANVAS = "canvas"  #: Celery options under which the injector waits
    RELEASE = "release"  #: a `ReleaseState`
    TELLER = "teller"  #: who is handing its ending over
    HANDED = "handed"  #: how often its ending was handed over
    DEAD = "dead"  #: set if a delivery of it ever was a dead letter
    TIMED = "timed"  #: set if a join of it ever had a timer


class DueKind(StrEnum):
    """What a member of `due`, `sent` and `dead` begins with."""

    DELIVERY = "d"
    JOIN = "j"
    BRANCH = "b"
    RELEASE = "r"
    DEAD_LETTER = "x"


#: enums by what their names begin with in Lua; a `Field`'s end in `_OF`
_ENUMS: tuple[tuple[str, type[StrEnum]], ...] = (
    ("FIELD", ConversationField),
    ("KIND", DueKind),
    ("STATE", DeliveryState),
    ("STATUS", ConversationStatus),
    ("SKIP", SkipReason),
    ("ABANDONED", Abandonment),
    ("EVENT", LogEvent),
    ("RELEASE", ReleaseState),
)


def lua_keys() -> dict[str, str]:
    """The names of a script's keys, each as a Lua expression."""
    return {name.upper(): f"KEYS[{n}]" for n, name in enumerate(Keys._fields, 1)}


def lua_constants() -> dict[str, str]:
    """Every other name that Lua shares with Python, as a Lua literal."""
    names = {f"{field.name}_OF": _quoted(field) for field in Field}
    for prefix, enum in _ENUMS:
        names |= {f"{prefix}_{member.name}": _quoted(member) for member in enum}
    limits = {
        "OWN_KEYS": OWN_KEYS,
        "SHARED_KEYS": len(Keys._fields) - OWN_KEYS,
        "LARGE": LARGE,
        "RETENTION_MARGIN_MS": MARGIN_MS,
        "MOST_DEAD_LETTERS": DEAD_LETTERS,
        "MOST_REFUSED": REFUSED,
    }
    return names | {name: str(value) for name, value in limits.items()}


def _quoted(text: str) -> str:
    return f"'{text}'"
