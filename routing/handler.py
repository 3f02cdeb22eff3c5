"""What a handler receives beside its payload, and what it may return.

Handler authors need these and `payload`, and import them from `threadloom`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from threadloom.routing.context import ContextSlot
from threadloom.routing.payloads import XML
from threadloom.routing.results import BufferItem, StoredResults, items_of


@dataclass(frozen=True, slots=True)
class HandlerMetadata:
    """What a handler is told about the delivery it runs for."""

    #: the listener's position in this conversation's call tree; the same for every message of it
    thread_id: str
    #: who sent this message: the previous hop only, never the chain behind it
    from_id: str
    #: the listener's own name, for agents; None for everybody else
    own_name: str | None
    #: whether this message is one the listener sent to itself
    is_self_call: bool
    #: for agents: how to call each of its peers, as text for a language model; else empty
    usage_instructions: str
    #: the delivery's id, the same in every run of it: the idempotency key for effects outside
    message_id: str
    #: the messages of this thread so far, oldest first, this one last; loaded when first looked at
    context: Sequence[ContextSlot] = field(default=(), repr=False)
    #: where items and results that go by reference lie
    stored: StoredResults | None = field(default=None, repr=False)

    def items(self, items: Iterable[Any]) -> list[XML]:
        """What stands in `BufferStart.items` for a list of any length.

        `items` is any iterable of payload objects or `XML`, a generator say, which is written to
        the registry a page at a time: neither this process nor a message ever holds all of them.
        Raises InvalidPayloadError for an item that breaks its contract. A run that is repeated
        stores its own list; one that nobody refers to goes with the conversation.
        """
        if self.stored is None:
            raise RuntimeError("items are stored by a running handler, in its conversation")
        return [self.stored.put(items).reference]

    def results(self, complete: Any) -> Iterator[BufferItem]:
        """What a buffer collected, item by item in index order.

        `complete` is a `BufferComplete` or its `results`. Whether the items stand in it or it
        only refers to them makes no difference, except that those are loaded page by page
        while you iterate. Raises UnknownResultsError for another conversation's reference,
        ValueError for what is no result of a buffer.
        """
        return items_of(complete, self.stored)


@dataclass(frozen=True, slots=True)
class HandlerResponse:
    """One thing a handler wants to happen next.

    `HandlerResponse(payload, to="peer")` calls a peer; its reply comes back to this listener
    on this thread. Use `respond` to answer the caller and `await_input` to wait for a person.
    """

    #: the message to send; None only for `await_input`
    payload: Any
    #: the listener to call; an empty name is nobody's, so the call fails like any unknown one
    to: str = ""
    #: what to ask the person who is waited for
    prompt: str | None = None
    #: whether it answers the caller; only `respond` says so, never an empty `to`
    is_reply: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.prompt is None and self.payload is None:
            raise TypeError("a HandlerResponse needs a payload; return None to end without a reply")

    @property
    def is_call(self) -> bool:
        """Whether it calls a peer, or nobody by an empty name."""
        return self.prompt is None and not self.is_reply

    @classmethod
    def respond(cls, payload: Any) -> HandlerResponse:
        """Answer whoever called this listener, on the caller's own thread."""
        return cls(payload, is_reply=True)

    @classmethod
    def await_input(cls, prompt: str) -> HandlerResponse:
        """Let the thread wait, holding no worker, until input for it arrives."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise TypeError("await_input needs the text to ask, got " + repr(prompt))
        return cls(None, prompt=prompt)


HandlerReturn = HandlerResponse | Sequence[HandlerResponse] | None
#: a `def` or `async def` over (payload, HandlerMetadata)
Handler = Callable[[Any, HandlerMetadata], HandlerReturn | Awaitable[HandlerReturn]]
