"""Envelopes: `<message>` with its meta and one payload, between an object and bytes.

The bytes are exclusive canonical XML, so equal envelopes are equal bytes. What the payload must
look like is not known here; `routing.ingress` checks it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lxml import etree
from msgspec import Struct

from threadloom.routing.errors import InvalidEnvelopeError
from threadloom.routing.payloads import (
    append_exactly,
    canonical,
    declaring_default,
    new_element,
    parse_canonical,
    saying_default,
    schema_faults,
    without_stand_ins,
)

#: the namespace of `message` and what stands in `meta`
NAMESPACE = "https://xml-pipeline.org/ns/envelope/v1"
#: the namespace of payloads that belong to the format itself: `huh`
CORE_NAMESPACE = "https://xml-pipeline.org/ns/core/v1"

_MESSAGE, _META, _FROM, _TO, _THREAD = (
    f"{{{NAMESPACE}}}{name}" for name in ("message", "meta", "from", "to", "thread")
)
_NAMESPACE = NAMESPACE.encode()
_HEAD = f'<message xmlns="{NAMESPACE}"><meta>'
#: a name in which canonical XML escapes nothing
_PLAIN = re.compile(r"[A-Za-z0-9._:@/+-]*")
#: such a root does not use the default namespace: its descendants say theirs, each by itself
_PREFIXED_ROOT = re.compile(rb"<[^ >]*:")


class Envelope(Struct, frozen=True):
    """One message. Its elements belong to the tree they were read from: copy, do not move."""

    from_id: str
    to: str | None
    #: an opaque id
    thread: str
    payload: etree._Element
    #: elements of other namespaces that stood in `meta`
    extra_meta: tuple[etree._Element, ...] = ()


def build_envelope(
    from_id: str,
    to: str | None,
    thread_id: str,
    payload: etree._Element | bytes,
    *,
    extra_meta: Sequence[etree._Element] = (),
) -> bytes:
    """Return the canonical bytes of an envelope around `payload`, an element or its canonical form.

    An element that is part of no tree and declares its default namespace may be moved into the
    envelope's; any other is left as it is.

    Raises InvalidEnvelopeError (step "build") for a name that XML cannot carry.
    """
    body = payload if isinstance(payload, bytes) else canonical(payload)
    names = (from_id, thread_id) if to is None else (from_id, to, thread_id)
    is_plain = not _PREFIXED_ROOT.match(body) and _NAMESPACE not in body
    if extra_meta or not is_plain or not all(map(_PLAIN.fullmatch, names)):
        element = parse_canonical(payload) if isinstance(payload, bytes) else payload
        return _build_as_tree(from_id, to, thread_id, element, extra_meta)
    # What libxml2 would write, at a fifth of the time: each hop builds one or two of these.
    addressee = "" if to is None else f"<to>{to}</to>"
    head = f"{_HEAD}<from>{from_id}</from>{addressee}<thread>{thread_id}</thread></meta>"
    return b"".join((head.encode(), saying_default(body), b"</message>"))


def _build_as_tree(
    from_id: str,
    to: str | None,
    thread_id: str,
    payload: etree._Element,
    extra_meta: Sequence[etree._Element],
) -> bytes:
    message = new_element(_MESSAGE, {None: NAMESPACE})
    meta = etree.SubElement(message, _META)
    try:
        etree.SubElement(meta, _FROM).text = from_id
        if to is not None:
            etree.SubElement(meta, _TO).text = to
        etree.SubElement(meta, _THREAD).text = thread_id
    except ValueError as exc:
        raise InvalidEnvelopeError("build", [str(exc)]) from exc
    for element in extra_meta:
        append_exactly(meta, _standing_alone(element))
    is_alone = payload.getparent() is None and payload.tail is None and None in payload.nsmap
    append_exactly(message, payload if is_alone else _standing_alone(payload))
    return canonical(without_stand_ins(message))


def parse_envelope(data: bytes) -> Envelope:
    """Return the envelope that `build_envelope` made.

    Raises InvalidEnvelopeError with the step that failed, "parse" or "envelope XSD".
    """
    root = parse_canonical(data)
    faults = envelope_faults(root)
    if faults:
        raise InvalidEnvelopeError("envelope XSD", faults)
    return read_envelope(root)


def is_envelope(root: etree._Element) -> bool:
    """Whether the root is a `message` of our namespace, valid or not."""
    return bool(root.tag == _MESSAGE)


def envelope_faults(root: etree._Element) -> tuple[str, ...]:
    """Return why a document breaks envelope.xsd; empty if it does not."""
    schema = _schema()  # it skips the payload, so there is never more than a handful of faults
    return () if schema(root) else schema_faults(schema, root)


def read_envelope(root: etree._Element) -> Envelope:
    """Return the envelope of a root for which `envelope_faults` was empty."""
    meta, payload = root.iterchildren("*")
    texts: dict[str, str] = {}
    extra: list[etree._Element] = []
    for child in meta.iterchildren("*"):
        if child.tag in (_FROM, _TO, _THREAD):
            texts[child.tag] = child.text or ""
        else:
            extra.append(child)
    return Envelope(texts[_FROM], texts.get(_TO), texts[_THREAD], payload, tuple(extra))


def _standing_alone(element: etree._Element) -> etree._Element:
    """Return a copy that says its default namespace itself, be it none.

    Inside `message` an element that says nothing would join the envelope's namespace: libxml2
    serialises the tree as it is and adds no `xmlns=""`.
    """
    alone = copy.deepcopy(element)
    alone.tail = None
    return alone if None in alone.nsmap else declaring_default(alone)


@cache
def _schema() -> etree.XMLSchema:
    return etree.XMLSchema(etree.fromstring(Path(__file__).with_name("envelope.xsd").read_bytes()))
