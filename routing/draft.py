"""A transition in the making: what one run of a listener makes of its conversation.

A `Draft` collects deliveries, threads, joins and the rest, and knows how each is built. It
decides nothing: whether something may be asked for is `planner`'s, what a fan-out consists of is
`joins`'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from threadloom.routing.envelope import build_envelope
from threadloom.routing.errors import InvalidPayloadError
from threadloom.routing.faults import silent_fault
from threadloom.routing.organism import Organism
from threadloom.routing.outgoing import Content, content_of
from threadloom.routing.payloads import canonical
from threadloom.routing.records import (
    BranchResult,
    Delivery,
    Ending,
    Frame,
    Join,
    Refill,
    Scope,
    Thread,
    Transition,
    Wait,
)

_NOTE_LIMIT = 4096


@dataclass(slots=True)
class Draft:
    """What has been decided so far for the run of `frame`."""

    frame: Frame
    organism: Organism
    new_id: Callable[[], str]
    deliveries: list[Delivery] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    children: dict[tuple[str, str], str] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    results: list[BranchResult] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    refills: list[Refill] = field(default_factory=list)
    ending: Ending | None = None
    notes: list[str] = field(default_factory=list)
    #: whether anything was called, so that the registry has to check the delivery limit
    calls: bool = False
    dead_letter: bool = False

    @property
    def own_name(self) -> str:
        """The listener whose run this is."""
        return self.frame.delivery.to

    def transition(self) -> Transition:
        """Everything together, for a backend to commit."""
        frame = self.frame
        silent = b""
        if frame.delivery.scope:
            silent = canonical(content_of(silent_fault()).element)
        return Transition(
            conversation_id=frame.conversation_id,
            delivery_id=frame.delivery.id,
            attempt=frame.attempt,
            deliveries=tuple(self.deliveries),
            threads=tuple(self.threads),
            children=tuple((p, n, c) for (p, n), c in self.children.items()),
            joins=tuple(self.joins),
            results=tuple(self.results),
            waits=tuple(self.waits),
            refills=tuple(self.refills),
            ending=self.ending,
            silent_branch=silent,
            max_deliveries=self.organism.max_deliveries if self.calls else 0,
            note="\n".join(self.notes)[:_NOTE_LIMIT],
            dead_letter=self.dead_letter,
        )

    def content(self, payload: Any) -> Content:
        """A payload as it is sent. Raises InvalidPayloadError if it is too large or faulty."""
        content = content_of(payload)
        size = len(canonical(content.element))
        if size > self.organism.max_payload_bytes:
            raise InvalidPayloadError(
                content.name,
                [f"{size} bytes, more than max_payload_bytes {self.organism.max_payload_bytes}"],
            )
        return content

    def child_thread(self, parent_id: str, chain: tuple[str, ...], name: str) -> str:
        """The child thread of `parent_id` for `name`: known, proposed before, or proposed now."""
        known = self.frame.children.get((parent_id, name)) or self.children.get((parent_id, name))
        if known is not None:
            return known
        proposed = self.new_id()
        self.children[parent_id, name] = proposed
        self.threads.append(Thread(proposed, chain, parent_id))
        return proposed

    def deliver(
        self, to: str, thread_id: str, from_id: str, content: Content, depth: int, *, is_reply: bool
    ) -> None:
        """Add a delivery within this run's own branch."""
        scope = self.frame.delivery.scope
        self.deliveries.append(
            self.new_delivery(
                to, thread_id, from_id, content, scope, depth=depth, is_reply=is_reply
            )
        )

    def hold_for_itself(self, payload: Any) -> Delivery:
        """Add a delivery to this listener on this thread, held until a join releases it."""
        delivery = self.new_delivery(
            self.own_name, self.frame.thread.id, self.own_name, content_of(payload),
            self.frame.delivery.scope, depth=self.frame.thread.depth, held=True,
        )  # fmt: skip
        self.deliveries.append(delivery)
        return delivery

    def new_delivery(
        self, to: str, thread_id: str, from_id: str, content: Content, scope: Scope, *,
        depth: int, delivery_id: str = "", held: bool = False, answer_within_ms: int = 0,
        is_reply: bool = False,
    ) -> Delivery:  # fmt: skip
        """A delivery that this run causes; it is not added yet."""
        listener = self.organism.listeners.get(to)
        return Delivery(
            id=delivery_id or self.new_id(),
            thread_id=thread_id,
            from_id=from_id,
            to=to,
            payload_name=content.name,
            payload_path=content.path,
            envelope=build_envelope(from_id, to, thread_id, content.element),
            scope=scope,
            parent_id=self.frame.delivery.id,
            depth=depth,
            held=held,
            opens_branch=bool(scope) and scope != self.frame.delivery.scope,
            answer_within_ms=answer_within_ms,
            local_s=listener.local_s if listener is not None else 0.0,
            is_reply=is_reply,
        )
