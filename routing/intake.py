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

    A reply is of the class that was sent, which the listener need not have declared, whatever
    other class has the same root element. A reply that was sent as XML, and every call, is of the
    class that the listener declares for its root element.
    """

    def sent() -> PayloadType | None:
        return _class_at(delivery.payload_path, listener, organism)

    gate = Gate(
        listener.name,
        listener.accepts,
        organism.max_payload_bytes,
        sent=sent,
        as_sent=delivery.is_reply and bool(delivery.payload_path),
    )
    state = from_registry(delivery.envelope, gate)
    reason = undeclared(state.envelope.payload, listener) if delivery.opens_branch else ""
    if reason:
        raise InvalidEnvelopeError("payload XSD", [reason])
    return state.message


def _class_at(path: str, listener: Listener, organism: Organism) -> PayloadType | None:
    declared = (kind for kind in listener.accepts.values() if kind.path == path)
    return next(declared, None) or organism.payload_type_at(path)


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
