"""Ingress: what comes in, who counts as its sender, and which step refuses what."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from lxml import etree

from threadloom.routing.envelope import CORE_NAMESPACE, NAMESPACE, build_envelope
from threadloom.routing.errors import InvalidEnvelopeError
from threadloom.routing.faults import Huh, SystemError, routing_fault
from threadloom.routing.ingress import ENVELOPE_BYTES, STEPS, Gate, from_outside, from_registry
from threadloom.routing.payloads import XML, PayloadType, payload, payload_type


@payload
@dataclass
class Add:
    a: int
    b: int = 0


@payload
@dataclass
class Say:
    text: str


@payload
@dataclass
class Sum:
    value: int


@payload
@dataclass
class Form:
    type: str
    payload: str


def accepts(*classes: type) -> Mapping[str, PayloadType]:
    return {payload_type(cls).name: payload_type(cls) for cls in classes}


GATE = Gate("desk.add", accepts(Add))
BOTH = Gate("desk.both", accepts(Add, Say))
ADD = "<Add><a>2</a><b>3</b></Add>"


def envelope(element: object, to: str | None = "desk.add") -> bytes:
    if not isinstance(element, etree._Element):
        element = payload_type(type(element)).to_element(element)
    return build_envelope("clerk", to, "thread-1", element)


def refused(step: str, raw: Any, gate: Gate = GATE) -> str:
    """Return the one fault with which `step` refuses a message from outside."""
    with pytest.raises(InvalidEnvelopeError) as caught:
        from_outside(raw, gate, thread_id="t")
    assert caught.value.step == step
    assert caught.value.faults
    return str(caught.value)


def test_the_steps_are_those_of_the_design() -> None:
    """Errors and operators use the names of the steps."""
    assert [name for name, _ in STEPS] == [
        "parse", "c14n", "envelope XSD", "payload extraction", "thread assignment",
        "payload XSD", "typed object", "routing",
    ]  # fmt: skip


def test_an_envelope_of_our_own_is_believed() -> None:
    """Sender, thread and receiver are taken from the envelope's meta."""
    data = envelope(Add(2, 3))
    state = from_registry(data, GATE)
    assert state.message == Add(2, 3)
    assert state.payload_type is payload_type(Add)
    assert (state.envelope.from_id, state.envelope.to, state.envelope.thread) == (
        "clerk", "desk.add", "thread-1",
    )  # fmt: skip
    assert state.canonical == data


@pytest.mark.parametrize(
    "raw",
    [
        ADD,
        ADD.encode(),
        f"<?xml version='1.0'?>\n<!-- c -->{ADD}\n",
        envelope(Add(2, 3)),
        envelope(Add(2, 3), to=None).decode(),
        {"a": 2, "b": 3},
        {"type": "Add", "payload": {"a": 2, "b": 3}},
        {"type": "Add", "payload": {"a": 2, "b": 3}, "thread": "theirs"},
        {"type": "Add", "payload": ADD, "thread": "theirs"},
    ],
)
def test_from_outside_nothing_but_the_payload_is_believed(raw: Any) -> None:
    """Sender and thread are those that the caller gives, whatever the envelope claims."""
    state = from_outside(raw, GATE, thread_id="ours", from_id="alice")
    assert state.message == Add(2, 3)
    assert (state.envelope.from_id, state.envelope.to, state.envelope.thread) == (
        "alice", "desk.add", "ours",
    )  # fmt: skip
    assert state.envelope.extra_meta == ()
    again = build_envelope("alice", "desk.add", "ours", state.envelope.payload)
    assert from_registry(again, GATE).message == Add(2, 3)


def test_without_a_name_it_is_external() -> None:
    """The default sender is `external`."""
    assert from_outside(ADD, GATE, thread_id="t").envelope.from_id == "external"


@pytest.mark.parametrize(
    ("step", "raw", "fault"),
    [
        ("parse", "<Add>", "Premature end"),
        ("parse", 5, "expected XML text or a mapping, got int 5"),
        ("parse", [ADD], "a list, as the results of a group"),
        ("parse", None, "got None"),
        ("parse", {}, "a: missing"),
        ("parse", {"a": "1", "c": 1}, "there is no field str 'c'; a: expected int, got str '1'"),
        ("parse", {"type": "Sum", "payload": {}}, "'Sum' is not accepted here; accepted: Add"),
        ("parse", {"type": "Add", "payload": {"x": 1}}, "there is no field str 'x'"),
        ("parse", {"type": "Add", "payload": "<Add>"}, "Premature end"),
        ("parse", {"type": "Add", "payload": None}, "payload: expected the fields of Add"),
        ("c14n", "<Add xmlns:x='relative'><a>1</a></Add>", "no canonical form"),
        ("envelope XSD", f"<message xmlns='{NAMESPACE}'>{ADD}</message>", "meta"),
        ("payload XSD", "<Add><a>x</a></Add>", "'x' is not a valid value"),
        ("payload XSD", "<Sum><value>1</value></Sum>", "'Sum' is not accepted here; accepted: Add"),
        ("payload XSD", "<Add xmlns='urn:x'><a>1</a></Add>", "'{urn:x}Add' is not accepted here"),
        ("payload XSD", {"type": "Add", "payload": "<Sum/>"}, "'Sum' is not accepted here"),
        ("typed object", "<Add><a>" + "9" * 5000 + "</a></Add>", "a: "),
        ("routing", envelope(Add(1), to="somebody.else"), "not addressed to this listener"),
    ],
)  # fmt: skip
def test_the_first_step_that_finds_something_refuses(step: str, raw: Any, fault: str) -> None:
    """The step's name and its reasons are all that the caller needs for a `huh`."""
    assert fault in refused(step, raw)


def test_size_counts_as_it_arrives_and_in_canonical_form() -> None:
    """A payload that is let in always fits into the envelope that carries it further."""
    gate = Gate("desk.say", accepts(Say), max_payload_bytes=1000)
    assert "at most 1000" in refused("parse", f"<Say><text>{'x' * 1000}</text></Say>", gate)
    assert "at most 1000" in refused("c14n", f"<Say><text>{'>' * 500}</text></Say>", gate)
    assert "at most 1000" in refused("c14n", {"text": "x" * 1000}, gate)
    fits = f"<Say><text>{'x' * 974}</text></Say>"
    state = from_outside(fits, gate, thread_id="t")
    from_registry(build_envelope("a" * 9000, "desk.say", "t", state.envelope.payload), gate)
    with pytest.raises(InvalidEnvelopeError, match="an envelope may have"):
        from_registry(b"x" * (1001 + ENVELOPE_BYTES), gate)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"a": 1}, Add(1)),
        ({"text": "x"}, Say("x")),
        ({"type": "Say", "payload": {"text": "x"}}, Say("x")),
        ("<Say><text>x</text></Say>", Say("x")),
    ],
)
def test_json_goes_to_the_class_it_fits(raw: Any, message: object) -> None:
    """With several declared classes, the fields decide, or the type that the JSON names."""
    assert from_outside(raw, BOTH, thread_id="t").message == message


def test_json_that_fits_none_or_several_must_name_its_type() -> None:
    """Ingress does not guess between classes."""
    assert "accepted: Add, Say" in refused("parse", {"z": 1}, BOTH)
    twins = Gate("x", {"Say": payload_type(Say), "Echo": payload_type(Say)})
    assert "the fields fit Say and Say; send" in refused("parse", {"text": "x"}, twins)
    assert "accepted: nothing" in refused("parse", {}, Gate("x", {}))


@pytest.mark.parametrize("kind", ["a", "Form", "XML", "Add"])
@pytest.mark.parametrize("text", ["b", "<Form><type>c</type><payload>d</payload></Form>", "<Add/>"])
@pytest.mark.parametrize("classes", [(Form,), (Form, Add)])
def test_fields_called_type_and_payload_are_still_fields(
    kind: str, text: str, classes: tuple[type, ...]
) -> None:
    """A class may have exactly the fields that a result has; no value makes them anything else."""
    gate = Gate("form", accepts(*classes))
    values = {"type": kind, "payload": text}
    assert from_outside(values, gate, thread_id="t").message == Form(kind, text)
    result = {"type": "Form", "payload": values, "thread": "t1"}
    assert from_outside(result, gate, thread_id="t").message == Form(kind, text)


@payload
@dataclass
class Bill:
    lines: list[Sum]
    currency: str = "EUR"


@payload
@dataclass
class Album:
    pictures: list[XML] | None


@payload
@dataclass
class Scores:
    points: list[int]


RESULT = {"type": "Sum", "payload": {"value": 5}, "thread": "t1"}
REPAIRED = {**RESULT, "huh": "the parser's word"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([RESULT, REPAIRED, {"value": 6}], Bill([Sum(5), Sum(5), Sum(6)])),
        ([], Bill([])),
        (
            [{"type": "p", "payload": "<p/>", "thread": "t1"}, "<q/>"],
            Album([XML("<p/>"), XML("<q/>")]),
        ),
        ([1, 2], Scores([1, 2])),
        ((1,), Scores([1])),
    ],
)
def test_a_list_is_the_list_field_of_the_only_class_that_takes_one(
    given: Any, message: object
) -> None:
    """As a chord's body a listener gets what its members answered, be they listeners or tasks."""
    gate = Gate("body", accepts(Add, Say, type(message)))
    assert from_outside(given, gate, thread_id="t").message == message


@pytest.mark.parametrize(
    ("given", "classes", "fault"),
    [
        ([1], (Add,), "a class with one list field"),
        ([1], (Scores, Bill), "several are like that"),
        ([{**RESULT, "type": "Say"}], (Bill,), "lines[0]: expected a Sum, got a result of type"),
        ([RESULT], (Album,), "pictures[0]: a str 'Sum' is no XML text"),
        ([RESULT, 5], (Bill,), "lines[1]: expected a mapping of its fields, got int 5"),
        ([RESULT], (Scores,), "points[0]: expected int"),
    ],
)
def test_a_list_that_nothing_takes_is_refused(
    given: Any, classes: tuple[type, ...], fault: str
) -> None:
    """Nothing is guessed and nothing is left out."""
    assert fault in refused("parse", given, Gate("body", accepts(*classes)))


@pytest.mark.parametrize("repair", [False, True])
def test_repair_is_refused_unless_allowed(repair: bool) -> None:
    """With repair, the state has the parser's messages; for well-formed text it has none."""
    gate = Gate("desk.add", accepts(Add), repair=repair)
    damaged = "Here you are: <Add><a>1</a><b>2</b>"
    if not repair:
        assert "Start tag expected" in refused("parse", damaged, gate)
    else:
        state = from_outside(damaged, gate, thread_id="t")
        assert state.message == Add(1, 2)
        assert state.repairs[0] == "text before the answer was passed over"
        assert state.repairs[1] == "<Add> had no end and was closed"
    assert from_outside(ADD, gate, thread_id="t").repairs == ()


def test_replies_of_undeclared_classes() -> None:
    """`sent` supplies the class; without one the message is XML, and nothing is lost."""
    gate = Gate("desk.add", accepts(Add), sent=lambda: payload_type(Sum))
    assert from_registry(envelope(Sum(5)), gate).message == Sum(5)
    for unknown in (Gate("desk.add", accepts(Add), sent=lambda: None), gate):
        stranger = etree.fromstring("<q xmlns='urn:q'><r>1</r></q>")
        state = from_registry(envelope(stranger), unknown)
        assert (state.message, state.payload_type) == (XML(stranger), None)
    namesake = etree.fromstring("<Sum xmlns='urn:q'>of another namespace</Sum>")
    assert from_registry(envelope(namesake), gate).message == XML(namesake)


class Elsewhere:
    @payload
    @dataclass
    class Sum:
        value: int
        note: str = "the sender's own"


def test_a_reply_is_of_the_class_that_was_sent() -> None:
    """Not of another class with the same root element, declared or not; a call is as declared."""
    theirs, ours = payload_type(Elsewhere.Sum), payload_type(Sum)
    for sent, declared, reply in ((theirs, ours, Elsewhere.Sum(5)), (ours, theirs, Sum(5))):
        gate = Gate("desk.add", {"Sum": declared}, sent=lambda sent=sent: sent, as_sent=True)
        assert from_registry(envelope(reply), gate).message == reply
    lost = Gate("desk.add", {"Sum": ours}, sent=lambda: None, as_sent=True)
    text = payload_type(Elsewhere.Sum).to_element(Elsewhere.Sum(5))
    assert from_registry(envelope(Elsewhere.Sum(5)), lost).message == XML(text)
    called = Gate("desk.add", {"Sum": ours}, sent=lambda: theirs)
    assert from_registry(envelope(Sum(5)), called).message == Sum(5)


def test_error_payloads_are_known_to_everybody() -> None:
    """A listener that declares neither `huh` nor SystemError still receives them, but not from
    outside.
    """
    for fault in (Huh("why", b"<Add>"), routing_fault()):
        state = from_registry(envelope(fault), GATE)
        assert state.message == fault
        text = payload_type(type(fault)).example_xml()
        assert "not accepted here" in refused("payload XSD", text)


@pytest.mark.parametrize(
    ("step", "data"),
    [
        ("parse", ADD),
        ("parse", b"<message"),
        ("parse", b"<!DOCTYPE a><a/>"),
        ("envelope XSD", ADD.encode()),
        ("payload XSD", envelope(etree.fromstring("<Add><a>x</a></Add>"))),
        ("payload XSD", envelope(etree.fromstring(f"<huh xmlns='{CORE_NAMESPACE}'/>"))),
        ("routing", envelope(Add(1), to="other")),
        ("routing", envelope(Add(1), to=None)),
    ],
)
def test_the_registry_is_checked_as_well(step: str, data: Any) -> None:
    """A stored message is validated although its sender is trusted."""
    with pytest.raises(InvalidEnvelopeError) as caught:
        from_registry(data, GATE)
    assert caught.value.step == step


def _both_ways(number: int) -> bool:
    """Check that a valid message comes through and an invalid one gets its own fault and no
    other.
    """
    assert from_registry(envelope(Add(number)), GATE).message == Add(number)
    wrong = f"<Add><a>wrong{number}</a></Add>"
    return f"'wrong{number}' is not a valid value" in refused("payload XSD", wrong)


def test_threads_share_schemas_and_no_messages() -> None:
    """Eight threads validate at once with the one compiled schema of the class."""
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(_both_ways, range(400)))


def test_schemas_and_parsers_survive_a_fork() -> None:
    """Celery's prefork workers inherit both after their parent has used them."""
    assert _both_ways(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(_both_ways, range(20)))


def test_fault_payload_has_the_wire_form_of_the_design() -> None:
    """The fault has exactly the form of DESIGN §4."""
    data = envelope(SystemError("limit", "m", retry_allowed=False))
    assert data.decode().partition("</meta>")[2] == (
        '<SystemError xmlns=""><code>limit</code><message>m</message>'
        "<retry-allowed>false</retry-allowed></SystemError></message>"
    )
    data = envelope(Huh("e", b"attempt"))
    assert data.decode().partition("</meta>")[2] == (
        f'<huh xmlns="{CORE_NAMESPACE}"><error>e</error>'
        "<original-attempt>YXR0ZW1wdA==</original-attempt></huh></message>"
    )
