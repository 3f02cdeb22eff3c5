"""What scripts answer, by name.

A reply is a Redis array: its kind, and then the fields of the class below in their order. For Lua,
`scripts.py` makes a function of each class, `reply_begun({attempt = 1, …})`; a field that it is
not given is nil on this side. `read` is the only place that knows the order.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class BegunReply(NamedTuple):
    """A lease was granted; `row` and `envelope` are None for a caller who has them."""

    delivery_id: bytes
    attempt: int
    tries: int
    reason: bytes
    row: bytes | None
    envelope: bytes | None
    thread: bytes
    children: bytes
    #: empty: the delivery's thread answers no join
    join: bytes
    deliveries: int


class SkipReply(NamedTuple):
    """There is nothing to run."""

    reason: bytes


class ReleaseReply(NamedTuple):
    """The conversation has ended; the caller tells its injector."""

    status: bytes
    value: bytes
    attempt: int


class ReadyReply(NamedTuple):
    """Done; these are the rows of the messages to publish."""

    rows: list[bytes]


class ResumeReply(NamedTuple):
    """A message that tells the injector of the ending is to be published."""

    canvas: bytes
    entry: bytes


class EndingReply(NamedTuple):
    """How the conversation has ended by this commit, and where its injector waits."""

    status: bytes
    value: bytes
    canvas: bytes
    entry: bytes


class CommittedReply(NamedTuple):
    """The commit was carried out."""

    rows: list[bytes]
    #: an `EndingReply`
    ending: list[Any] | None
    #: a `BegunReply`
    begun: list[Any] | None


class AdoptedReply(NamedTuple):
    """An earlier copy of the commit was carried out."""

    rows: list[bytes]
    begun: list[Any] | None


class FencedReply(NamedTuple):
    """Refused: the caller does not hold the lease any more."""


class ReplanReply(NamedTuple):
    """Refused: the frame is stale."""

    deliveries: int
    #: JSON: [parent, listener, child] of each clash
    children: bytes | None
    over_limit: int | None
    label_taken: int | None
    too_large: int | None


class LateReply(NamedTuple):
    """Refused: it was done before, or cannot be done any more."""


class UnknownReply(NamedTuple):
    """There is no such conversation, or thread."""


class ThreadReply(NamedTuple):
    """A thread's id, and its row."""

    thread_id: bytes
    row: bytes


Reply = (
    BegunReply
    | SkipReply
    | ReleaseReply
    | ReadyReply
    | ResumeReply
    | EndingReply
    | CommittedReply
    | AdoptedReply
    | FencedReply
    | ReplanReply
    | LateReply
    | UnknownReply
    | ThreadReply
)
_KINDS: dict[str, type[Any]] = {
    kind.__name__.removesuffix("Reply").lower(): kind for kind in Reply.__args__
}
_BY_BYTES = {name.encode(): kind for name, kind in _KINDS.items()}


def read(reply: list[Any]) -> Any:
    """The reply as one of the classes above."""
    return _BY_BYTES[reply[0]](*reply[1:])


def lua_functions() -> dict[str, str]:
    """A Lua function for each kind of reply, by its name."""
    return {
        f"reply_{name}": "local function reply_{}(f) return {{{}}} end".format(
            name, ", ".join([f"'{name}'", *(f"f.{field} or false" for field in kind._fields)])
        )
        for name, kind in _KINDS.items()
    }
