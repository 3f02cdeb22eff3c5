"""What a payload class provides for others: its schema, its example and its usage text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from lxml import etree

from threadloom.routing import PayloadDefinitionError
from threadloom.routing.payloads import XML, parse_xml, payload, payload_type
from threadloom.routing.payloads.markup import schema_faults


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@payload
@dataclass
class Point:
    x: int
    y: int = 0


def _same_name() -> type:
    @payload
    @dataclass
    class Point:
        z: str

    return Point


OtherPoint = _same_name()


@payload
@dataclass
class Drawing:
    """Asks for a drawing.

    The second paragraph."""

    title: str
    colour: Colour
    mode: Literal["draft", "final"]
    start: Point
    points: list[Point]
    named: dict[str, OtherPoint]  # type: ignore[valid-type]
    colours: dict[str, Colour]
    note: str | None
    picture: XML
    scale: float = 1.0
    fill: Colour = Colour.BLUE
    parent: str | None = None
    extra: list[bytes] = field(default_factory=list)


@payload
@dataclass
class Ping:
    pass


@payload
@dataclass
class Impossible:
    a: int

    def __post_init__(self) -> None:
        raise ValueError("never")


def test_the_schema_accepts_the_example_and_names_each_type_once() -> None:
    """Two classes and two restricted types are named once even if used twice; equal names stay
    apart.
    """
    kind = payload_type(Drawing)
    xsd = etree.fromstring(kind.xsd)
    schema = etree.XMLSchema(xsd)
    schema.assertValid(etree.fromstring(kind.example_xml()))
    tag = "{http://www.w3.org/2001/XMLSchema}"
    assert [e.get("name") for e in xsd.iterchildren(f"{tag}group")] == ["Point", "Point.2"]
    assert [e.get("name") for e in xsd.iterchildren(f"{tag}simpleType")] == ["Colour", "choice"]


@pytest.mark.parametrize("cls", [Point, OtherPoint, Drawing, Ping])
def test_the_example_is_a_valid_instance(cls: type) -> None:
    """The example passes through every form of its class."""
    kind = payload_type(cls)
    example = kind.example()
    assert kind.from_element(parse_xml(kind.example_xml())) == example
    assert kind.from_json(kind.to_json(example)) == example


def test_usage_says_what_to_write() -> None:
    """The usage has the purpose, the fields in order with types and defaults, and then the
    example.
    """
    kind = payload_type(Drawing)
    assert kind.usage.splitlines()[:-1] == [
        "<Drawing>",
        "Asks for a drawing.",
        "",
        "The second paragraph.",
        "Child elements, in this order:",
        "- title: str",
        "- colour: Colour: one of 'red', 'blue'",
        "- mode: one of 'draft', 'final'",
        "- start: with child elements, in this order:",
        "  - x: int",
        "  - y: int; may be absent, then 0",
        "- points: any number of <item>, each with child elements, in this order:",
        "  - x: int",
        "  - y: int; may be absent, then 0",
        '- named: any number of <entry key="…">, each with child elements, in this order:',
        "  - z: str",
        "- colours: any number of <entry key=\"…\">, each Colour: one of 'red', 'blue'",
        '- note: str, or empty with xsi:nil="true"',
        "- picture: exactly one XML element of any kind",
        "- scale: float; may be absent, then 1.0",
        "- fill: Colour: one of 'red', 'blue'; may be absent, then 'blue'",
        '- parent: str, or empty with xsi:nil="true"; may be absent, then none',
        "- extra: any number of <item>, each bytes in base64; may be absent",
        "Example:",
    ]
    assert kind.usage.splitlines()[-1] == kind.example_xml()


def test_a_class_without_fields_and_without_docstring() -> None:
    """The docstring that `dataclass` generates says nothing new and is left out."""
    assert payload_type(Ping).usage == (
        "<Ping>\nIt has no child elements.\nExample:\n<Ping></Ping>"
    )


def test_an_impossible_example_says_what_to_do() -> None:
    """The class still works as a payload; only its example and its usage raise."""
    kind = payload_type(Impossible)
    for ask in (kind.example, kind.example_xml, lambda: kind.usage):
        with pytest.raises(PayloadDefinitionError, match=r"never; give fields metadata="):
            ask()


@pytest.mark.parametrize(
    "broken",
    [
        "<Point><x>1</x><x>1</x></Point>",
        "<Point><y>1</y></Point>",
        "<Point/>",
        "<Drawing/>",
        "<Point><x xmlns='urn:x'>1</x></Point>",
        "<Point><x xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:nil='true'/></Point>",
    ],
)
def test_the_schema_refuses(broken: str) -> None:
    """Every refusal has a reason."""
    assert payload_type(Point).faults(parse_xml(broken))


def test_faults_are_bounded() -> None:
    """A document with a thousand broken items gets a bounded number of messages."""
    items = "".join(f"<item><x>{'q' * 2000}</x></item>" for _ in range(200))
    root: Any = parse_xml(f"<Drawing><points>{items}</points></Drawing>")
    kind = payload_type(_Points)
    root.tag = "_Points"
    faults = kind.faults(root)
    assert len(faults) == 51
    assert faults[-1] == "and more"
    assert all(len(fault) <= 501 for fault in faults)


@pytest.mark.parametrize("written", ["<x>q</x>", "<x>1</x><x/>", "<x>1</x>"])
def test_a_large_document_is_not_checked_as_a_tree(written: str) -> None:
    """In a tree with thirty thousand wrong items libxml2 counts the siblings of each one, for
    minutes.
    """

    class Unasked(etree.XMLSchema):
        def __call__(self, tree: object) -> bool:
            raise AssertionError("the tree was checked")

    schema = Unasked(etree.fromstring(payload_type(_Points).xsd))
    items = f"<item>{written}</item>"
    root = parse_xml(f"<_Points><points>{items * 30_000}</points></_Points>")
    assert bool(schema_faults(schema, root)) is (written != "<x>1</x>")
    with pytest.raises(AssertionError, match="the tree was checked"):
        schema_faults(schema, parse_xml(f"<_Points><points>{items}</points></_Points>"))


@payload
@dataclass
class _Points:
    points: list[Point]
