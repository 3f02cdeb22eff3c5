"""Whatever arrives, ingress answers with a typed object or with its one declared error."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from threadloom.routing import Huh, InvalidEnvelopeError, build_envelope
from threadloom.routing.envelope import NAMESPACE
from threadloom.routing.ingress import Gate, from_outside, from_registry
from threadloom.routing.payloads import XML, canonical, payload, payload_type


@payload
@dataclass
class Task:
    name: str
    count: int = 0
    price: Decimal | None = None
    due: datetime | None = None
    blob: bytes = b""
    steps: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    raw: XML | None = None


KIND = payload_type(Task)
VALID = KIND.example_xml()
GATES = [
    Gate("desk", {"Task": KIND}, max_payload_bytes=5000, repair=repair) for repair in (False, True)
]
PIECES = [
    "<Task>", "</Task>", "<name>", "</name>", "<name/>", "<count>", "</count>", "<raw>", "</raw>",
    "<table>", "</table>", "<entry key='k'>", "</entry>", "<p:x xmlns:p='u'>", "</p:x>", "<item/>",
    "<!DOCTYPE a>", "<![CDATA[", "]]>", "<!--", "-->", "<?pi", "?>", "&amp;", "&x;", "&#0;", "&",
    "<?xml version='1.0' encoding='x'?>", f"<message xmlns='{NAMESPACE}'>", "</message>",
    "<meta><from>a</from><thread>t</thread></meta>", "xmlns='r'", "\0", "\ud800", "\ufffe", "1",
    " ", "\r", '<due xsi:nil="true" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/>',
]  # fmt: skip


def _told(error: InvalidEnvelopeError) -> str:
    assert error.faults
    return str(error)


def answered(raw: object) -> None:
    """Pass a message through every entry; each refusal can be put into a `huh`."""
    for gate in GATES:
        try:
            state = from_outside(raw, gate, thread_id="t")
        except InvalidEnvelopeError as exc:
            payload_type(Huh).to_element(Huh.of(_told(exc), raw))
        else:
            assert isinstance(state.message, Task)
            passed_on = build_envelope("a", "desk", "t", state.envelope.payload)
            assert from_registry(passed_on, gate).envelope.from_id == "a"


@settings(deadline=None, max_examples=300)
@given(st.binary() | st.text() | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("<Task><name>x</name><raw><p:x xmlns:p='u' p:x='1' x='&#1;'/></raw>")
@example("<Task xmlns:p='r'><name>x</name></Task>")
def test_any_text(raw: str | bytes) -> None:
    """The text is noise, or noise made of pieces of valid documents."""
    answered(raw)
    if isinstance(raw, bytes):
        with pytest.raises(InvalidEnvelopeError):
            from_registry(raw, GATES[0])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_documents(data: st.DataObject) -> None:
    """A valid document has a piece inserted, or a stretch removed or moved."""
    text = VALID
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        piece = data.draw(st.sampled_from(["", *PIECES, text[start:end] * 2]))
        text = text[:start] + piece + text[end:]
    answered(text)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_keys = st.sampled_from(["type", "thread", "payload", *KIND.record.by_name])
_near = st.dictionaries(_keys, _json, max_size=5)


@settings(deadline=None, max_examples=300)
@given(_json | _near | st.fixed_dictionaries({"type": st.just("Task"), "payload": _near | _json}))
def test_any_json(raw: Any) -> None:
    """The JSON has values of any type in any field, and mappings that look like results."""
    answered(raw)


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "raw",
    [
        {"name": _nested(100_000)},
        {"name": "x", "steps": _nested(100_000)},
        {"name": "x", "raw": "<a>" * 100_000},
        {"name": "x", "count": 10**100_000},
        {"name": "x", "price": "1e999999999"},
        {"name": "x" * 10_000_000},
        {("name",): 1},
        "<a>" * 100_000 + "</a>" * 100_000,
        "<a " * 100_000,
        "<Task><name>" + "&#x10FFFF;" * 400,
    ],
)
def test_extremes(raw: Any) -> None:
    """A document that is too deep, too long or too large gives a fault like any other."""
    answered(raw)


def test_the_valid_document_is_valid() -> None:
    """Without a valid start, the damaged documents would prove nothing."""
    assert canonical(KIND.to_element(from_outside(VALID, GATES[0], thread_id="t").message))
