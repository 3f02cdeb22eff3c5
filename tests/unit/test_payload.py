"""Payload classes: what may be one, how each type is written, and which faults are reported."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from typing import Any, Literal, Optional

import pytest
from lxml import etree

from threadloom.routing import InvalidPayloadError, PayloadDefinitionError
from threadloom.routing.payloads import XML, canonical, parse_xml, payload, payload_type


class Colour(Enum):
    RED = "red"
    BLUE = " dark blue "


class Level(IntEnum):
    LOW = 1
    HIGH = 10


class Mood(StrEnum):
    FINE = "fine"


class Bits(Flag):
    A = 1
    B = 2


class Mixed(Enum):
    A = 1
    B = "b"


@payload
@dataclass
class Add:
    """Adds two integers."""

    a: int
    b: int = 0


@payload
@dataclass(frozen=True, slots=True)
class Address:
    street: str
    number: int | None = None


@payload
@dataclass
class Everything:
    text: str
    count: int
    ratio: float
    flag: bool
    price: Decimal
    day: date
    moment: datetime
    blob: bytes
    colour: Colour
    level: Level
    mode: Literal["fast", "slow"]
    maybe: str | None
    home: Address
    raw: XML
    steps: list[str] = field(default_factory=list)
    table: dict[str, list[int | None]] = field(default_factory=dict)
    raws: list[XML] = field(default_factory=list)
    homes: dict[str, Address] = field(default_factory=dict)
    other: Optional[Address] = None  # noqa: UP045 - both spellings are accepted


def wire(obj: object) -> str:
    return canonical(payload_type(type(obj)).to_element(obj)).decode()


def read(cls: type, text: str) -> Any:
    return payload_type(cls).from_element(parse_xml(text))


def everything(**changes: Any) -> Everything:
    values: dict[str, Any] = {
        "text": "t",
        "count": 1,
        "ratio": 0.5,
        "flag": True,
        "price": Decimal("1.50"),
        "day": date(2024, 2, 29),
        "moment": datetime(2024, 2, 29, 1, 2, 3, 4),  # noqa: DTZ001 - naive ones travel too
        "blob": b"\x00\xff",
        "colour": Colour.BLUE,
        "level": Level.HIGH,
        "mode": "slow",
        "maybe": None,
        "home": Address("Main"),
        "raw": XML("<x/>"),
    }
    return Everything(**{**values, **changes})


def test_wire_form_is_class_name_and_fields_in_order() -> None:
    """The form is the design's, and a field with a default may be absent."""
    assert wire(Add(2, 3)) == "<Add><a>2</a><b>3</b></Add>"
    assert read(Add, "<Add>\n  <a>2</a>\n</Add>") == Add(2, 0)


def test_every_type_has_its_text() -> None:
    """One instance with a field of every type is written out and read back, as XML and as JSON."""
    obj = everything(
        steps=["a", ""],
        table={" k\n": [1, None]},
        raws=[XML("<a/>"), XML("<b xmlns='urn:b'/>")],
        homes={"h": Address("S", 2)},
        other=Address("O"),
    )
    text = wire(obj)
    assert text == (
        "<Everything><text>t</text><count>1</count><ratio>0.5</ratio><flag>true</flag>"
        "<price>1.50</price><day>2024-02-29</day><moment>2024-02-29T01:02:03.000004</moment>"
        "<blob>AP8=</blob><colour> dark blue </colour><level>10</level><mode>slow</mode>"
        '<maybe xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"></maybe>'
        "<home><street>Main</street></home><raw><x></x></raw>"
        "<steps><item>a</item><item></item></steps>"
        '<table><entry key=" k&#xA;"><item>1</item>'
        '<item xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"></item>'
        '</entry></table><raws><item><a></a></item><item><b xmlns="urn:b"></b></item></raws>'
        '<homes><entry key="h"><street>S</street><number>2</number></entry></homes>'
        "<other><street>O</street></other></Everything>"
    )
    assert read(Everything, text) == obj
    kind = payload_type(Everything)
    values = kind.to_json(obj)
    assert values["price"] == "1.50"
    assert values["moment"] == "2024-02-29T01:02:03.000004"
    assert values["raws"] == ["<a></a>", '<b xmlns="urn:b"></b>']
    assert kind.from_json(values) == obj


@pytest.mark.parametrize(
    "text",
    ["", "007", "true", "1.50", "  leading", "trailing \n", "two\nlines\ttab", "\r\n", "\r",
     "<&>\"']]>", "é😀\x85\u2028", "\x7f", " "],
)  # fmt: skip
def test_text_is_exact(text: str) -> None:
    """A str, and a dict's key, comes back unchanged, whatever it looks like."""
    obj = everything(text=text, maybe=text, steps=[text], table={text: []})
    assert read(Everything, wire(obj)) == obj


def test_text_from_elsewhere() -> None:
    """CDATA and comments do not change the content; an absent field and an empty one differ."""
    text = "<Address><street><![CDATA[a <b> ]]>c<!-- no -->d</street></Address>"
    assert read(Address, text) == Address("a <b> cd", None)
    by_hand = etree.fromstring("<Address><!-- x --><street>a<!-- y -->b</street></Address>")
    assert payload_type(Address).from_element(by_hand) == Address("ab")


MOMENT = datetime(2024, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field_name", "written", "value"),
    [
        ("flag", "1", True),
        ("flag", " false ", False),
        ("count", " +07 ", 7),
        ("count", "9" * 100, int("9" * 100)),
        ("ratio", "-INF", float("-inf")),
        ("ratio", "INF", float("inf")),
        ("ratio", "0.0e-999", 0.0),
        ("moment", "2024-01-31T12:00:00.1234560000Z", MOMENT),
        ("price", "-.5", Decimal("-0.5")),
        ("day", " 2024-01-31\n", date(2024, 1, 31)),
        ("moment", "2024-01-31T12:00:00Z", datetime(2024, 1, 31, 12, tzinfo=UTC)),
        ("blob", " A P\n8 = ", b"\x00\xff"),
        ("level", "010", Level.HIGH),
    ],
)
def test_other_spellings_of_a_value(field_name: str, written: str, value: object) -> None:
    """Each of these spellings is valid in XSD, and is read as the value that it stands for."""
    root = parse_xml(wire(everything()))
    [element] = root.iterchildren(field_name)
    element.text = written
    assert getattr(payload_type(Everything).from_element(root), field_name) == value


@pytest.mark.parametrize(
    ("field_name", "value", "back"),
    [
        ("price", Decimal("1E+3"), Decimal(1000)),
        ("price", Decimal("0E-99999"), Decimal(0)),
        ("ratio", 3, 3.0),
        ("count", Level.HIGH, 10),
        ("text", Mood.FINE, "fine"),
        ("moment", datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=15))), None),
        ("moment", datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=90))), None),
    ],
)
def test_values_equal_to_their_type(field_name: str, value: Any, back: Any) -> None:
    """A value of a related type is accepted if it equals one of the field's type; unusual UTC
    offsets keep the instant.
    """
    obj = read(Everything, wire(everything(**{field_name: value})))
    assert getattr(obj, field_name) == (value if back is None else back)


@pytest.mark.parametrize(
    ("field_name", "value", "fault"),
    [
        ("text", 7, "text: expected str, got int 7"),
        ("text", "a\0", "text: character 1 is U+0000, which XML cannot carry"),
        ("text", "\ud800", "text: character 0 is U+D800, which XML cannot carry"),
        ("text", "\ufffe", "text: character 0 is U+FFFE, which XML cannot carry"),
        ("count", "7", "count: expected int, got str '7'"),
        ("count", True, "count: expected int, got bool True"),
        ("count", float("inf"), "count: expected int, got float inf"),
        pytest.param("count", 10**5000, "count: an int may have", id="endless int"),
        ("ratio", False, "ratio: expected float, got bool False"),
        pytest.param("ratio", 10**400, "ratio: the number is too large", id="endless float"),
        ("flag", 1, "flag: expected bool, got int 1"),
        ("price", 1.5, "price: expected Decimal, got float 1.5"),
        ("price", Decimal("NaN"), "price: a Decimal must be finite, got NaN"),
        ("price", Decimal("1E+9999"), "price: a Decimal may have"),
        ("day", datetime(2024, 1, 1, tzinfo=UTC), "day: expected date, got datetime"),
        ("moment", date(2024, 1, 1), "moment: expected datetime, got date"),
        ("moment", datetime.min.replace(tzinfo=timezone(timedelta(hours=20))), "moment: 0001-01"),
        ("blob", bytearray(b"x"), "blob: expected bytes, got bytearray"),
        ("colour", "red", "colour: expected a Colour, got str 'red'"),
        ("mode", "medium", "mode: expected one of 'fast', 'slow', got str 'medium'"),
        ("home", None, "home: expected Address, got None"),
        ("home", Add(1), "home: expected Address, got Add"),
        ("raw", "<x/>", "raw: expected XML, got str '<x/>'"),
        ("steps", ("a",), "steps: expected list, got tuple"),
        ("steps", ["a", 2], "steps[1]: expected str, got int 2"),
        ("table", [], "table: expected dict, got list"),
        ("table", {1: []}, "table[int 1]: as a key: expected str, got int 1"),
        ("table", {"k": [1, "x"]}, "table[str 'k'][1]: expected int, got str 'x'"),
        ("homes", {"h": Address(3)}, "homes[str 'h'].street: expected str"),  # type: ignore[arg-type]
    ],
)
def test_wrong_values_are_told_with_their_path(field_name: str, value: Any, fault: str) -> None:
    """An object that breaks its annotations is written neither as XML nor as JSON."""
    kind, obj = payload_type(Everything), everything(**{field_name: value})
    for write in (kind.to_element, kind.to_json):
        with pytest.raises(InvalidPayloadError) as caught:
            write(obj)
        [told] = caught.value.faults
        assert told.startswith(fault)


def test_every_fault_at_once() -> None:
    """All faults are reported together, so that the sender can repair them in one go."""
    obj = everything(text=1, steps=[2, "x", 3], home=Address(4))  # type: ignore[arg-type]
    with pytest.raises(InvalidPayloadError) as caught:
        payload_type(Everything).to_element(obj)
    paths = [fault.partition(":")[0] for fault in caught.value.faults]
    assert paths == ["text", "home.street", "steps[0]", "steps[2]"]
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults


def test_foreign_objects_and_subclasses_are_refused() -> None:
    """A subclass is refused because it would lose its own fields on the wire."""

    class More(Add):
        pass

    for obj in (Address("x"), None, More(1), Add):
        with pytest.raises(InvalidPayloadError, match="expected Add"):
            payload_type(Add).to_element(obj)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<Add/>", "Missing child element"),
        ("<Add><b>1</b><a>1</a></Add>", "not expected"),
        ("<Add><a>1</a><a>1</a></Add>", "not expected"),
        ("<Add><a>x</a></Add>", "'x' is not a valid value of the atomic type 'xs:integer'"),
        ("<Add><a>1</a><c/></Add>", "not expected"),
        ("<Add>text<a>1</a></Add>", "not allowed"),
        ("<Add a='1'><a>1</a></Add>", "attribute 'a' is not allowed"),
        ("<Add xmlns='urn:x'><a>1</a></Add>", "No matching global declaration"),
        ("<Sub><a>1</a></Sub>", "No matching global declaration"),
        ("<Add><a>" + "9" * 5000 + "</a></Add>", "a: Exceeds the limit"),
    ],
)
def test_elements_that_break_the_schema(text: str, fault: str) -> None:
    """The faults are the schema's own messages, cut to a readable length."""
    with pytest.raises(InvalidPayloadError, match=fault) as caught:
        read(Add, text)
    assert all(len(told) < 600 for told in caught.value.faults)


@pytest.mark.parametrize(
    ("field_name", "written"),
    [
        ("day", "2024-01-31Z"),
        ("day", "12024-01-31"),
        ("moment", "2024-01-31T24:00:00"),
        ("moment", "-0001-01-31T00:00:00"),
        ("moment", "2024-01-31T12:00:00.1234567"),
        ("ratio", "1e400"),
        ("ratio", "-1.5e400"),
        ("ratio", "1e-400"),
        ("mode", " slow"),
        ("colour", "dark blue"),
        ("blob", "A"),
    ],
)
def test_what_python_cannot_hold_is_a_fault(field_name: str, written: str) -> None:
    """The value is valid for XSD's built-in type, but no Python value of the field's type
    exists.
    """
    root = parse_xml(wire(everything()))
    [element] = root.iterchildren(field_name)
    element.text = written
    with pytest.raises(InvalidPayloadError):
        payload_type(Everything).from_element(root)


def test_a_key_twice_is_a_fault() -> None:
    """A dict would keep one of the two values and lose the other silently."""
    text = wire(everything(table={"k": [], "l": []})).replace('"l"', '"k"')
    with pytest.raises(InvalidPayloadError, match="stands there twice"):
        read(Everything, text)


def test_json_faults() -> None:
    """Unknown keys, missing fields and wrong types are reported together, and nothing is
    guessed.
    """
    with pytest.raises(InvalidPayloadError) as caught:
        payload_type(Add).from_json({"b": "1", "c": 2, 3: 4})  # type: ignore[dict-item]
    assert caught.value.faults == (
        "there is no field str 'c'",
        "there is no field int 3",
        "a: missing",
        "b: expected int, got str '1'",
    )


@pytest.mark.parametrize(
    ("field_name", "given", "value"),
    [
        ("price", 2, Decimal(2)),
        ("price", 0.1, Decimal("0.1")),
        ("price", Decimal("0.3"), Decimal("0.3")),
        ("ratio", "INF", float("inf")),
        ("price", "-.5", Decimal("-0.5")),
        ("moment", "2024-01-31T12:00:00.123456Z", MOMENT),
        ("day", date(2024, 1, 1), date(2024, 1, 1)),
        ("blob", b"x", b"x"),
        ("colour", "red", Colour.RED),
        ("colour", Colour.RED, Colour.RED),
        ("raw", XML("<y/>"), XML("<y/>")),
        ("home", Address("S"), Address("S")),
        ("home", {"street": "S"}, Address("S")),
    ],
)
def test_json_takes_python_values_of_the_type(field_name: str, given: Any, value: Any) -> None:
    """Celery's JSON decodes dates and decimals to Python values, so these values are accepted."""
    kind = payload_type(Everything)
    values = {**kind.to_json(everything()), field_name: given}
    assert getattr(kind.from_json(values), field_name) == value


@pytest.mark.parametrize(
    ("field_name", "given"),
    [
        ("price", "abc"), ("price", "Infinity"), ("price", True), ("price", float("nan")),
        ("ratio", "1.5"), ("day", "31.1.2024"), ("moment", 5), ("blob", "é"), ("blob", "A"),
        ("colour", "RED"), ("level", True), ("level", 2), ("mode", None), ("raw", "<x>"),
        ("raw", 1), ("home", "Main"), ("home", {}), ("steps", {"a": 1}), ("table", {"k": 1}),
        ("price", "1_000"), ("price", "\u0661\u0662"), ("price", "1e3"), ("price", " 1"),
        ("day", "2024-W05-3"), ("day", "20240131"), ("day", "\u0662024-01-31"),
        ("moment", "2024-W05-3T12:00:00"), ("moment", "2024-01-31"), ("moment", "20240131T120000"),
        ("moment", "2024-01-31 12:00:00"), ("moment", "2024-01-31T12:00:00.1234567"),
        ("moment", "2024-01-31T12:00:00+0100"), ("count", "1_000"), ("ratio", "1_0.5"),
        ("text", "\x01"), ("table", {"\x01": []}), ("text", [[[]]]), ("count", 1.0),
    ],
)  # fmt: skip
def test_json_of_the_wrong_kind(field_name: str, given: Any) -> None:
    """Each value gives one fault that begins with its field."""
    kind = payload_type(Everything)
    with pytest.raises(InvalidPayloadError) as caught:
        kind.from_json({**kind.to_json(everything()), field_name: given})
    assert all(fault.startswith(field_name) for fault in caught.value.faults)


@payload
@dataclass
class Positive:
    value: int = field(metadata={"example": 5})

    def __post_init__(self) -> None:
        if self.value < 3:
            raise ValueError("too small")


def test_the_class_has_the_last_word() -> None:
    """A `__post_init__` that raises gives a fault of the message, and a class may give its
    example.
    """
    assert payload_type(Positive).example() == Positive(5)
    for make in (
        lambda: read(Positive, "<Positive><value>1</value></Positive>"),
        lambda: payload_type(Positive).from_json({"value": 1}),
    ):
        with pytest.raises(InvalidPayloadError, match="Positive refuses these values: too small"):
            make()


# --- what may be a payload class ------------------------------------------------------------


@payload
@dataclass
class Tree:
    children: list[Branch]


@payload
@dataclass
class Branch:
    tree: Tree | None


@dataclass
class Unmarked:
    a: int


@payload
@dataclass
class Child(Add):
    c: str = "c"


def make(annotation: Any, **options: Any) -> type:
    return payload(dataclass(type("Made", (), {"__annotations__": {"x": annotation}, **options})))


@pytest.mark.parametrize(
    ("define", "reason"),
    [
        (lambda: payload(int), "not a dataclass"),
        (lambda: payload(type("Sub", (Add,), {})), "not a dataclass"),
        (lambda: payload(lambda: 1), "not a dataclass"),  # type: ignore[arg-type]
        (lambda: payload(dataclass(type("SystemError", (), {}))), "that of an error's element"),
        (lambda: Unmarked, "not marked with @payload"),
        (lambda: "Add", "not a class"),
        (lambda: make(Any), "field x: Any has no wire form"),
        (lambda: make(object), "field x: object has no wire form"),
        (lambda: make(tuple[int, ...]), "has no wire form"),
        (lambda: make(list), "say what is in it"),
        (lambda: make(typing.List), "say what is in it"),  # noqa: UP006
        (lambda: make(typing.Dict), "say what is in it"),  # noqa: UP006
        (lambda: make(list[typing.List]), "say what is in it"),  # noqa: UP006
        (lambda: make(list[int, str]), "say what is in it"),  # type: ignore[misc]
        (lambda: make(dict[str]), "say what is in it"),  # type: ignore[misc]
        (lambda: make(dict[int, str]), "keys of a dict must be str"),
        (lambda: make(int | str), "ambiguous"),
        (lambda: make(int | str | None), "ambiguous"),
        (lambda: make(Literal["a", 1]), "all str or all int"),
        (lambda: make(Literal[True]), "all str or all int"),
        (lambda: make(Mixed), "all str or all int"),
        (lambda: make(Bits), "a Flag has values that are no members"),
        (lambda: make(Unmarked), "Unmarked needs @payload as well"),
        (lambda: make("Nowhere"), "cannot be resolved"),
        (lambda: make(int, x=None), "default of x: expected int, got None"),
        (lambda: make(InitVar[int]), "x is no field"),
        (lambda: make(int, x=field(init=False)), "field x is no constructor argument"),
        (lambda: Tree, "it contains itself: Tree → Branch → Tree"),
    ],
)
def test_what_cannot_be_a_payload(define: Callable[[], Any], reason: str) -> None:
    """The error names the class and the reason."""
    with pytest.raises(PayloadDefinitionError) as caught:
        payload_type(define())
    assert reason in str(caught.value)


def test_a_payload_type_is_built_once_and_not_inherited() -> None:
    """Each class has its own payload type, and its element is named after the class."""
    assert payload_type(Child) is payload_type(Child)
    assert payload_type(Child) is not payload_type(Add)
    assert wire(Child(1)) == "<Child><a>1</a><b>0</b><c>c</c></Child>"
    assert pickle.loads(pickle.dumps(payload_type(Child))) is payload_type(Child)
    kind = payload_type(Address)
    assert (kind.name, kind.namespace, kind.path) == ("Address", None, f"{__name__}.Address")


# --- XML ------------------------------------------------------------------------------------


def test_xml_is_equal_by_canonical_form() -> None:
    """Attribute order, quotes, comments, unused prefixes and empty tags do not matter."""
    one = XML("<a y='2' x=\"1\" xmlns:u='urn:u'><!-- c --><b/></a>")
    two = XML(etree.fromstring('<a x="1" y="2"><b></b></a>'))
    assert one == two
    assert hash(one) == hash(two)
    assert one.text == str(one) == '<a x="1" y="2"><b></b></a>'
    assert one != XML("<a/>")
    assert one != one.text
    assert pickle.loads(pickle.dumps(one)) == one


def test_xml_cannot_be_changed_from_outside() -> None:
    """Every `.element` is a copy."""
    raw = XML("<a/>")
    raw.element.text = "changed"
    assert raw == XML("<a></a>")


def test_xml_keeps_its_content_inside_a_payload() -> None:
    """Namespaces, blanks and line ends of a raw element survive inside another element."""
    raw = XML(
        "<p:a xmlns:p='urn:p' p:k='&#10;'> <b>&#13;\n</b><c xmlns='urn:c'><d xmlns=''/></c></p:a>"
    )
    obj = everything(raw=raw, raws=[raw, raw])
    assert read(Everything, wire(obj)) == obj


def _deep() -> etree._Element:
    """Make an element of 131 072 levels by appending a copy to the innermost element seventeen
    times.
    """
    root = etree.Element("a")
    for _ in range(17):
        *_, innermost = root.iter()
        innermost.append(copy.deepcopy(root))
    return root


@pytest.mark.parametrize(
    "make_source",
    [
        lambda: "no xml",
        lambda: "<a>",
        lambda: "<!DOCTYPE a><a/>",
        lambda: "<a><?pi x?></a>",
        lambda: "<a xmlns='relative'/>",
        lambda: etree.fromstring("<a><?pi x?></a>"),
        lambda: 5,
        _deep,
    ],
)
def test_xml_refuses(make_source: Callable[[], Any]) -> None:
    """XML refuses what ingress refuses, and a hundred thousand levels crash nothing."""
    with pytest.raises(InvalidPayloadError):
        XML(make_source())
