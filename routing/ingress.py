"""Ingress: from what arrived to a typed object, by named steps that stop at the first error.

    parse → c14n → envelope XSD → payload extraction → thread assignment
          → payload XSD → typed object → routing

Each step adds what it found to the one `Ingress`. Two sources: "registry", an
envelope this program wrote, which is complete and believed; and "external", a payload or an
envelope as text, or JSON values, whose `from` and `thread` (and the rest of its meta) are never
believed: the caller of `from_outside` says who sends, and on which thread.

Whatever arrives, the only error is InvalidEnvelopeError with the step's name and the faults;
with the attempt itself that is what `routing.faults.Huh.of` needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lxml import etree
from msgspec import Struct

from threadloom.routing.envelope import Envelope, envelope_faults, is_envelope, read_envelope
from threadloom.routing.errors import InvalidEnvelopeError, InvalidPayloadError
from threadloom.routing.faults import Huh, SystemError
from threadloom.routing.payloads import (
    XML,
    PayloadType,
    are_fields,
    canonical,
    fields_of_list,
    is_result,
    local_name,
    parse_canonical,
    parse_xml,
    payload_type,
    repair_xml,
    show,
)

#: bytes an envelope may add to its payload
ENVELOPE_BYTES = 16_384

_NOTHING = etree.Element("nothing")
_NO_ENVELOPE = Envelope("", None, "", _NOTHING)
_FAULTS = {"huh": payload_type(Huh), "SystemError": payload_type(SystemError)}


class Gate(Struct, frozen=True):
    """What one listener lets in."""

    #: the listener's name, which an envelope's `to` must be
    listener: str
    #: the declared classes by root name
    accepts: Mapping[str, PayloadType]
    #: bytes of one payload, as it arrives and in canonical form
    max_payload_bytes: int = 1_048_576
    #: whether damaged XML from outside is repaired
    repair: bool = False
    #: finds the class that was sent; None if this process does not have it
    sent: Callable[[], PayloadType | None] | None = None
    #: whether the class that was sent counts, and a declared one of the same root name does not
    as_sent: bool = False


class Ingress(Struct):
    """Everything known so far; a field keeps its empty value until its step has run."""

    gate: Gate
    source: Literal["registry", "external"]
    #: what arrived: text, or JSON values
    raw: object
    #: given by the caller of `from_outside`, empty for the registry
    from_id: str = ""
    thread: str = ""
    root: etree._Element = _NOTHING
    #: what the parser had to repair, for the `huh` that goes with the reply
    repairs: tuple[str, ...] = ()
    #: the whole document in canonical form
    canonical: bytes = b""
    #: who, to whom, on which thread, and the payload element; `build_envelope` takes these
    envelope: Envelope = _NO_ENVELOPE
    #: None for an undeclared reply of an unknown class, whose message is then its XML
    payload_type: PayloadType | None = None
    #: the typed object
    message: Any = None


Step = Callable[[Ingress], None]


def from_registry(data: bytes, gate: Gate) -> Ingress:
    """Take in an envelope that this program wrote.

    Its payload may be a reply of a class that the listener did not declare: then it is of the
    class that `gate.sent` finds, and if there is none, `message` is the payload as `XML`.
    Raises InvalidEnvelopeError.
    """
    return run(Ingress(gate, "registry", data))


def from_outside(raw: object, gate: Gate, *, thread_id: str, from_id: str = "external") -> Ingress:
    """Take in what somebody else sent: XML text or bytes, or a mapping of JSON values.

    Or an element that a payload class has made of an object of its own.

    The mapping holds the fields of a declared class, or `type` and `payload` (and perhaps
    `thread`, as the result of another listener does), `payload` being such a mapping or XML
    text. Where `type` and `payload` are fields of a declared class, they are nothing else. A
    list, such as a chord's body gets, is the one list field of a declared class. Raises
    InvalidEnvelopeError.
    """
    return run(Ingress(gate, "external", raw, from_id, thread_id))


def run(state: Ingress) -> Ingress:
    """Run every step. Raises InvalidEnvelopeError naming the step that refused."""
    for name, step in STEPS:
        try:
            step(state)
        except InvalidPayloadError as exc:
            raise InvalidEnvelopeError(name, exc.faults) from exc
    return state


def parse(state: Ingress) -> None:
    """Read the text, or write JSON values as the element they stand for."""
    raw, limit = state.raw, state.gate.max_payload_bytes
    if state.source == "registry":
        state.root = _parse_own(state)
        return
    if isinstance(raw, list | tuple):
        raw = fields_of_list(raw, state.gate.accepts)
    if isinstance(raw, Mapping):
        raw = _as_xml(raw, state.gate)
    if isinstance(raw, etree._Element):
        state.root = raw
        return
    if not isinstance(raw, (str, bytes)):
        raise InvalidEnvelopeError("parse", [f"expected XML text or a mapping, got {show(raw)}"])
    if state.gate.repair:
        state.root, state.repairs = repair_xml(
            raw, names={*state.gate.accepts, "message"}, max_bytes=limit
        )
    else:
        state.root = parse_xml(raw, max_bytes=limit)


def _parse_own(state: Ingress) -> etree._Element:
    limit = state.gate.max_payload_bytes + ENVELOPE_BYTES
    if not isinstance(state.raw, bytes):
        raise InvalidEnvelopeError("parse", [f"expected bytes, got {show(state.raw)}"])
    if len(state.raw) > limit:
        reason = f"{len(state.raw)} bytes; an envelope may have {limit}"
        raise InvalidEnvelopeError("parse", [reason])
    return parse_canonical(state.raw)


def canonicalise(state: Ingress) -> None:
    """Bring the document into canonical form, which may be larger than what arrived."""
    if state.source == "registry" and isinstance(state.raw, bytes):
        state.canonical = state.raw  # canonical when it was built
        return
    data = canonical(state.root)
    if len(data) > state.gate.max_payload_bytes:
        reason = f"{len(data)} bytes in canonical form; at most {state.gate.max_payload_bytes}"
        raise InvalidEnvelopeError("c14n", [reason])
    state.canonical = data


def check_envelope(state: Ingress) -> None:
    """Check an envelope by envelope.xsd; from outside, a payload alone will do."""
    if state.source == "external" and not is_envelope(state.root):
        return
    faults = envelope_faults(state.root)
    if faults:
        raise InvalidEnvelopeError("envelope XSD", faults)


def extract_payload(state: Ingress) -> None:
    """Take the envelope apart."""
    root = state.root
    state.envelope = read_envelope(root) if is_envelope(root) else Envelope("", None, "", root)


def assign_thread(state: Ingress) -> None:
    """From outside, replace all that the meta claims except where it wanted to go."""
    if state.source == "external":
        claimed = state.envelope
        state.envelope = Envelope(state.from_id, claimed.to, state.thread, claimed.payload)


def check_payload(state: Ingress) -> None:
    """Find the payload's class and check it by its schema."""
    element = state.envelope.payload
    if state.source == "registry":
        kind = _kind_of_ours(state.gate, element)
        if kind is None:
            return
    else:
        kind = _declared(state.gate, element)
    if kind is None:
        raise InvalidEnvelopeError("payload XSD", [_not_accepted(element.tag, state.gate)])
    faults = kind.faults(element)
    if faults:
        raise InvalidEnvelopeError("payload XSD", faults)
    state.payload_type = kind


def make_object(state: Ingress) -> None:
    """Make the typed object."""
    kind, element = state.payload_type, state.envelope.payload
    state.message = XML.of_parsed(element) if kind is None else kind.from_valid_element(element)


def check_routing(state: Ingress) -> None:
    """Refuse an envelope for somebody else; from outside it may leave the receiver open."""
    envelope, listener = state.envelope, state.gate.listener
    if envelope.to == listener:
        return
    if envelope.to is None and state.source == "external":
        state.envelope = Envelope(envelope.from_id, listener, envelope.thread, envelope.payload)
        return
    raise InvalidEnvelopeError("routing", ["the envelope is not addressed to this listener"])


#: the steps in their order, by the names that errors carry
STEPS: tuple[tuple[str, Step], ...] = (
    ("parse", parse),
    ("c14n", canonicalise),
    ("envelope XSD", check_envelope),
    ("payload extraction", extract_payload),
    ("thread assignment", assign_thread),
    ("payload XSD", check_payload),
    ("typed object", make_object),
    ("routing", check_routing),
)


def _declared(gate: Gate, element: etree._Element) -> PayloadType | None:
    kind = gate.accepts.get(local_name(element))
    return kind if kind is not None and kind.tag == element.tag else None


def _kind_of_ours(gate: Gate, element: etree._Element) -> PayloadType | None:
    """Return the class of a payload that this program wrote, None for a reply of an unknown one."""
    kind = None if gate.as_sent else _declared(gate, element)
    if kind is None and gate.sent is not None:
        kind = gate.sent()
    if kind is None:
        kind = _FAULTS.get(local_name(element))
    return kind if kind is not None and kind.tag == element.tag else None


def _not_accepted(what: object, gate: Gate) -> str:
    names = ", ".join(sorted(gate.accepts)) or "nothing"
    return f"{show(what).removeprefix('str ')} is not accepted here; accepted: {names}"


def _as_xml(values: Mapping[Any, Any], gate: Gate) -> etree._Element | str | bytes:
    """Return the element that JSON values stand for, or the XML text a result carried."""
    if not is_result(values) or any(are_fields(values, k.record) for k in gate.accepts.values()):
        return _as_only_fit(values, gate)
    name, content = values["type"], values["payload"]
    if isinstance(content, (str, bytes)) and name in (*gate.accepts, "XML"):
        return content
    if isinstance(content, Mapping) and isinstance(name, str) and name in gate.accepts:
        kind = gate.accepts[name]
        return kind.to_element(kind.from_json(content))
    if isinstance(name, str) and name in gate.accepts:
        reason = f"payload: expected the fields of {name}, or XML text, got {show(content)}"
        raise InvalidPayloadError("payload", [reason])
    raise InvalidPayloadError("payload", [_not_accepted(name, gate)])


def _as_only_fit(values: Mapping[str, object], gate: Gate) -> etree._Element:
    """Return the element of the one declared class that the values fit."""
    if len(gate.accepts) == 1:
        (kind,) = gate.accepts.values()
        return kind.to_element(kind.from_json(values))
    fitting = _fitting(values, gate)
    if len(fitting) != 1:
        found = " and ".join(kind.name for kind, _ in fitting) or "none of the accepted classes"
        names = ", ".join(sorted(gate.accepts)) or "nothing"
        reason = f'the fields fit {found}; send {{"type": …, "payload": …}}; accepted: {names}'
        raise InvalidPayloadError("payload", [reason])
    ((kind, message),) = fitting
    return kind.to_element(message)


def _fitting(values: Mapping[str, object], gate: Gate) -> list[tuple[PayloadType, Any]]:
    fitting = []
    for kind in gate.accepts.values():
        try:
            fitting.append((kind, kind.from_json(values)))
        except InvalidPayloadError:  # an answer to "does it fit?", not an error
            continue
    return fitting
