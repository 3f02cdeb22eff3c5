"""A listener's gate: ingress as its contract in the organism asks for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from routing.ingress import Gate, from_outside, from_registry
from routing.organism import Listener, Organism
from routing.outgoing import Content
from routing.payload import PayloadType
from routing.records import Delivery


class Admitted(NamedTuple):
    """A payload from outside that a listener takes."""

    content: Content
    #: what the parser had to repair, for the `huh` that goes with the reply; empty: nothing
    repairs: str


def receive(delivery: Delivery, listener: Listener, organism: Organism) -> Any:
    """The typed object of a delivery. Raises InvalidEnvelopeError."""

    def resolve(_name: str) -> PayloadType | None:
        return organism.payload_type_at(delivery.payload_path)

    gate = Gate(
        listener.name,
        listener.accepts,
        organism.max_payload_bytes,
        resolve=resolve,
    )
    return from_registry(delivery.envelope, gate).message


def admit(raw: Any, listener: Listener, organism: Organism) -> Admitted:
    """The payload of something from outside. Raises InvalidEnvelopeError."""
    gate = Gate(listener.name, listener.accepts, organism.max_payload_bytes, repair=listener.repair)
    state = from_outside(raw, gate, thread="")
    kind = state.payload_type
    path = kind.path if kind is not None else ""
    payload = state.envelope.payload
    name = kind.name if kind is not None else ""
    return Admitted(Content(payload, name, path, None, is_fault=False), "; ".join(state.repairs))
