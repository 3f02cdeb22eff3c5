"""A listener's gate: ingress as its contract in the organism asks for it."""

from __future__ import annotations

from typing import Any

from lxml import etree
from msgspec import Struct

from threadloom.routing.errors import InvalidEnvelopeError
from threadloom.routing.ingress import Gate, from_outside, from_registry
from threadloom.routing.organism import Listener, Organism
from threadloom.routing.outgoing import Content
from threadloom.routing.payloads import PayloadType, canonical, local_name
from threadloom.routing.records import Delivery


class Admitted(Struct, frozen=True, gc=False):
    """A payload on its way to a listener that takes it; text alone, for there may be many."""

    #: its root element
    name: str
    #: dotted path of its class; "" for a raw element
    path: str
    #: the element in canonical form
    payload: bytes
    #: what the parser had to repair, for the `huh` that goes with the reply; empty: nothing
    repairs: str = ""

    @classmethod
    def of(cls, content: Content) -> Admitted:
        """What a listener is told by this program itself."""
        return cls(content.name, content.path, canonical(content.element))


def receive(delivery: Delivery, listener: Listener, organism: Organism) -> Any:
    """The typed object of a delivery. Raises InvalidEnvelopeError.

    A reply may be of a class that the listener did not declare; what opens a branch of a join
    is no reply, and the planner has seen to the calls.
    """

    def resolve(_name: str) -> PayloadType | None:
        return organism.payload_type_at(delivery.payload_path)

    gate = Gate(
        listener.name,
        listener.accepts,
        organism.max_payload_bytes,
        resolve=resolve,
    )
    state = from_registry(delivery.envelope, gate)
    reason = undeclared(state.envelope.payload, listener) if delivery.opens_branch else ""
    if reason:
        raise InvalidEnvelopeError("payload XSD", [reason])
    return state.message


def undeclared(element: etree._Element, listener: Listener) -> str:
    """Why a payload is none of those that a listener takes; empty if it is one."""
    kind = listener.accepts.get(local_name(element))
    if kind is not None and kind.tag == element.tag:
        return ""
    return f"{element.tag} is not accepted here; accepted: {', '.join(sorted(listener.accepts))}"


def admit(raw: Any, listener: Listener, organism: Organism) -> Admitted:
    """The payload of something from outside. Raises InvalidEnvelopeError."""
    gate = Gate(listener.name, listener.accepts, organism.max_payload_bytes, repair=listener.repair)
    state = from_outside(raw, gate, thread_id="")
    kind, element = state.payload_type, state.envelope.payload
    assert kind is not None  # from outside, only what was declared gets this far
    payload = state.canonical if element is state.root else canonical(element)
    return Admitted(kind.name, kind.path, payload, "; ".join(state.repairs))
