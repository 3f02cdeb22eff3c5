"""What a run of a listener asks for, before anything is decided.

Handlers return `HandlerResponse`; the other actions are how the system listeners and the
delivery shell speak to the planner, and no other handler may return them. All of them are data.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from threadloom.routing.faults import handler_fault
from threadloom.routing.handler import HandlerResponse
from threadloom.routing.payloads import payload
from threadloom.routing.records import Join


@dataclass(frozen=True, slots=True)
class Fault:
    """The run failed: tell the caller `payload`, and the operators `note`.

    Whatever its class, for a join it is a failure of the branch that it answers.
    """

    payload: Any
    note: str
    #: keep the delivery among the dead letters, where it can be inspected and replayed
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """The run failed in a way that another may mend."""

    note: str
    #: seconds until the next run; None: by the listener's backoff
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class FanOut:
    """Open a join and start its branches."""

    #: the user's name for it; must not be in use by another open join of the same listener in the
    #: conversation
    label: str
    #: a listener per branch, or one for all of them
    targets: tuple[str, ...]
    #: the branches' inputs as raw elements; of chained branches only the first one's
    inputs: tuple[Any, ...]
    total: int
    need_ok: int
    need_failed: int
    #: each branch begins with the reply of the one before as its input
    chained: bool = False
    window: int = 0
    collect: bool = True
    deadline_ms: int = 0
    item_timeout_ms: int = 0
    memo: Mapping[str, Any] = field(default_factory=dict)
    #: answered to the caller at once, beside the fan-out
    reply: Any = None
    #: answered instead when the label is in use
    label_refusal: Any = None
    #: answered instead when the conversation has no room for so many deliveries
    limit_refusal: Any = None
    #: how many branches are released at first; 0: all
    released: int = 0
    #: the stored list that the inputs are the beginning of; empty: there are no more
    more_from: str = ""


@dataclass(frozen=True, slots=True)
class Supply:
    """Give an open join its next branches, from index `start` on."""

    join: Join
    start: int
    inputs: tuple[Any, ...]
    #: as in `FanOut`
    more_from: str


@payload
@dataclass(frozen=True)
class MoreItems:
    """Sent by the planner to the listener that opened a join: its next branches are wanted."""

    join: str
    #: the stored list they come from
    items: str
    start: int


@payload
@dataclass(frozen=True)
class JoinSettled:
    """Sent by the registry to the listener that opened a join: it has fired."""

    join: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Answer in the caller's stead by calling `to` from the caller's own position.

    Its reply then goes where a reply of this listener would have gone (a tail call).
    """

    payload: Any
    to: str


#: no stranger: None may be one, in a list
_NONE = object()

Action = HandlerResponse | Fault | FanOut | Forward | Supply
Actions = tuple[Action, ...]


def read_return(returned: object, *, system: bool = False) -> Actions:
    """The actions a handler's return value stands for; one Fault for anything else.

    `system`: the handler is a system listener's, which may ask for more than a `HandlerResponse`.
    """
    if returned is None:
        return ()
    if isinstance(returned, HandlerResponse):
        return (returned,)
    is_list = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
    several: Sequence[Any] = returned if is_list else (returned,)  # type: ignore[assignment]
    allowed = Action if system else HandlerResponse
    stranger = next((each for each in several if not isinstance(each, allowed)), _NONE)
    if stranger is _NONE:
        return tuple(several)
    note = (
        f"the handler returned {_described(stranger)}; "
        "return a HandlerResponse, a list of them, or None"
    )
    return (Fault(handler_fault(), note, dead_letter=True),)


def _described(stranger: object) -> str:
    if inspect.isawaitable(stranger):
        return "an awaitable that nobody awaited"
    if isinstance(stranger, Action | Retry):
        return f"a {type(stranger).__name__}, which is for system listeners only"
    return f"a {type(stranger).__name__}"
