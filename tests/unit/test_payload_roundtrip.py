"""Any instance of a class that uses every type survives XML and JSON unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Literal
from xml.sax.saxutils import escape, quoteattr  # they only write

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadloom.routing import build_envelope, parse_envelope
from threadloom.routing.envelope import NAMESPACE
from threadloom.routing.payloads import XML, canonical, parse_xml, payload, payload_type
from threadloom.routing.payloads.markup import ILLEGAL_CHARACTER


class Suit(Enum):
    HEARTS = "♥"
    EMPTY = ""
    BLANK = " "


class Size(Enum):
    SMALL = -1
    LARGE = 10**20


@payload
@dataclass
class Inner:
    name: str
    weight: float | None = None
    tags: list[str | None] = field(default_factory=list)


@payload
@dataclass
class Nothing:
    pass


@payload
@dataclass
class Whole:
    text: str
    count: int
    ratio: float
    flag: bool
    price: Decimal
    day: date
    moment: datetime
    blob: bytes
    suit: Suit
    size: Size
    mode: Literal["a", " b "] | None
    level: Literal[1, 2]
    raw: XML
    inner: Inner
    nothing: Nothing
    maybe_text: str | None
    maybe_list: list[int] | None
    maybe_inner: Inner | None
    maybe_raw: XML | None
    texts: list[str]
    lists: list[list[Decimal]]
    inners: list[Inner]
    raws: list[XML | None]
    table: dict[str, str | None]
    tables: dict[str, dict[str, bytes]]
    inner_table: dict[str, Inner | None]
    raw_table: dict[str, XML]
    days: dict[str, date]
    defaulted: str = "default"
    absent: str | None = None
    five: int | None = 5


_text = st.text(st.characters(codec="utf-8"), max_size=8).map(
    lambda t: ILLEGAL_CHARACTER.sub("", t)
)
_text = _text | st.sampled_from(["", "007", "true", " a", "\r\n", "\r", "]]>", "&amp;", "\t\n"])
_name = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)


# Few names, so that the same prefixes and namespaces are declared in many ways.
_declared = st.dictionaries(
    st.sampled_from(["", "p", "q"]), st.sampled_from(["urn:u", "urn:v", NAMESPACE]), max_size=2
)


@st.composite
def _element_texts(draw: st.DrawFn, depth: int = 1, root: bool = True) -> str:
    """XML text with attributes, namespaces, mixed content and odd characters."""
    odd = {"\r": "&#13;"}
    declared = draw(_declared)
    if root:
        declared = {"p": "urn:u", "q": "urn:u", **declared}
    prefix = draw(st.sampled_from(["", "p", "q"]))
    name = f"{prefix}:{draw(_name)}" if prefix else draw(_name)
    attributes = draw(st.dictionaries(_name | _name.map("q:{}".format), _text, max_size=2))
    attributes |= {f"xmlns:{p}" if p else "xmlns": uri for p, uri in declared.items()}
    written = "".join(f" {k}={quoteattr(v, odd)}" for k, v in attributes.items())
    inside = [escape(draw(_text), odd)]
    if depth:
        for child in draw(st.lists(_element_texts(depth - 1, False), max_size=2)):
            inside += [child, escape(draw(_text), odd)]
    return f"<{name}{written}>{''.join(inside)}</{name}>"


_xml = _element_texts().map(XML)
_nested_xml = _element_texts(2).map(XML)
_zones = st.none() | st.timedeltas(
    timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)
).map(timezone)
_moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=_zones)  # noqa: DTZ001
_decimals = st.decimals(allow_nan=False, allow_infinity=False)
_floats = st.floats(allow_nan=False)
_inner = st.builds(Inner, _text, st.none() | _floats, st.lists(st.none() | _text, max_size=3))


def _few(values: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
    return st.lists(values, max_size=2)


def _table(values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(_text, values, max_size=2)


_whole = st.builds(
    Whole,
    text=_text,
    count=st.integers(),
    ratio=_floats,
    flag=st.booleans(),
    price=_decimals,
    day=st.dates(),
    moment=_moments,
    blob=st.binary(),
    suit=st.sampled_from(Suit),
    size=st.sampled_from(Size),
    mode=st.sampled_from(["a", " b ", None]),
    level=st.sampled_from([1, 2]),
    raw=_xml,
    inner=_inner,
    nothing=st.builds(Nothing),
    maybe_text=st.none() | _text,
    maybe_list=st.none() | _few(st.integers()),
    maybe_inner=st.none() | _inner,
    maybe_raw=st.none() | _xml,
    texts=_few(_text),
    lists=_few(_few(_decimals)),
    inners=_few(_inner),
    raws=_few(st.none() | _xml),
    table=_table(st.none() | _text),
    tables=_table(_table(st.binary())),
    inner_table=_table(st.none() | _inner),
    raw_table=_table(_xml),
    days=_table(st.dates()),
    defaulted=_text,
    absent=st.none() | _text,
    five=st.none() | st.integers(),
)


@settings(deadline=None, max_examples=60)
@given(_whole)
def test_xml_round_trip(obj: Whole) -> None:
    """An object becomes an element, canonical bytes, a parsed and validated element, and again
    an equal object with the same bytes.
    """
    kind = payload_type(Whole)
    data = canonical(kind.to_element(obj))
    again = kind.from_element(parse_xml(data))
    assert again == obj
    assert canonical(kind.to_element(again)) == data


@settings(deadline=None, max_examples=60)
@given(_whole)
def test_json_round_trip(obj: Whole) -> None:
    """An object becomes JSON text without any extension, and again an equal object."""
    kind = payload_type(Whole)
    text = json.dumps(kind.to_json(obj), allow_nan=False)
    assert kind.from_json(json.loads(text)) == obj


@settings(deadline=None, max_examples=60)
@given(_whole, _text.filter(bool))
def test_envelope_round_trip(obj: Whole, name: str) -> None:
    """The envelope's own namespace changes nothing inside, and a payload can be passed on."""
    kind = payload_type(Whole)
    data = build_envelope(name, None, "t", kind.to_element(obj))
    envelope = parse_envelope(data)
    assert envelope.from_id == name
    assert kind.from_element(envelope.payload) == obj
    assert build_envelope(name, None, "t", envelope.payload) == data
    assert canonical(envelope.payload) == canonical(kind.to_element(obj))


@settings(deadline=None, max_examples=60)
@given(_nested_xml.filter(lambda raw: not raw.element.tag.startswith(f"{{{NAMESPACE}}}")))
def test_any_raw_element_is_carried_exactly(raw: XML) -> None:
    """A raw payload is the same inside an envelope as outside, whatever its namespaces."""
    envelope = parse_envelope(build_envelope("a", "b", "t", raw.element))
    assert XML(canonical(envelope.payload)) == raw == XML(envelope.payload)


@pytest.mark.parametrize(
    "text",
    [
        '<p:a xmlns:p="urn:u"><a xmlns="urn:u"></a></p:a>',
        '<a xmlns="urn:u"><p:a xmlns:p="urn:u" p:k="v"></p:a></a>',
        '<p:a xmlns:p="urn:u"><b><q:c xmlns:q="urn:u"></q:c></b></p:a>',
        f'<a><e:m xmlns:e="{NAMESPACE}"><e:b xmlns:f="x:f" f:k="?&gt;"></e:b></e:m></a>',
        f'<p:a xmlns:p="urn:u"><e:b xmlns:e="{NAMESPACE}"><c></c></e:b></p:a>',
    ],
)
def test_prefixes_are_not_rewritten(text: str) -> None:
    """lxml merges declarations of one namespace when it moves elements, which changes the
    canonical form. It would also change a signature, and `results` promises its items exactly.
    """
    raw = XML(text)
    assert raw.text == text.replace("?&gt;", "?>")
    kind = payload_type(Holder)
    holder = Holder(raw, [raw, raw])
    envelope = parse_envelope(build_envelope("a", "b", "t", kind.to_element(holder)))
    assert kind.from_element(envelope.payload) == holder
    passed_on = parse_envelope(build_envelope("a", "b", "t", envelope.payload))
    assert kind.from_element(passed_on.payload) == holder
    alone = parse_envelope(build_envelope("a", "b", "t", raw.element))
    assert XML(canonical(alone.payload)) == raw


@payload
@dataclass
class Holder:
    raw: XML
    raws: list[XML]


def test_nan_travels() -> None:
    """NaN is not equal to itself, so it needs its own test."""
    inner = Inner("x", float("nan"))
    kind = payload_type(Inner)
    for again in (kind.from_element(kind.to_element(inner)), kind.from_json(kind.to_json(inner))):
        assert again.weight != again.weight
