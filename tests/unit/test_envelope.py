"""Envelopes and the parser: exact bytes go out, and dangerous input is refused."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from threadloom.routing import InvalidEnvelopeError, build_envelope, parse_envelope
from threadloom.routing import envelope as envelope_module
from threadloom.routing.envelope import CORE_NAMESPACE, NAMESPACE
from threadloom.routing.payloads import canonical, parse_xml
from threadloom.routing.payloads.markup import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_NAMESPACES,
    parse_canonical,
)
from threadloom.routing.payloads.mending import repair_xml

THREAD = "550e8400-e29b-41d4-a716-446655440000"
LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;</a>'
)


def test_the_bytes_are_those_of_the_design() -> None:
    """The envelope has the wire form of DESIGN §4, on one line."""
    data = build_envelope(
        "clerk", "calculator.add", THREAD, etree.fromstring("<Add><a>2</a><b>3</b></Add>")
    )
    assert data.decode() == (
        f'<message xmlns="{NAMESPACE}"><meta><from>clerk</from><to>calculator.add</to>'
        f'<thread>{THREAD}</thread></meta><Add xmlns=""><a>2</a><b>3</b></Add></message>'
    )


@pytest.mark.parametrize(
    "payload",
    [
        "<a/>",
        f"<huh xmlns='{CORE_NAMESPACE}'><error/></huh>",
        "<p:a xmlns:p='urn:p'><b/></p:a>",
        "<p:a xmlns:p='urn:p' p:k='v' k='&#10;'>text<b xmlns='urn:b'><c xmlns=''/></b>tail</p:a>",
    ],
)
def test_a_payload_keeps_its_namespaces(payload: str) -> None:
    """Elements without a namespace do not take the envelope's, at any level, however often they
    are sent.
    """
    element = etree.fromstring(payload)
    before = canonical(element)
    data = build_envelope("a", None, "t", element)
    envelope = parse_envelope(data)
    assert canonical(envelope.payload) == before
    assert canonical(element) == before  # the caller's element still belongs to its own tree
    assert build_envelope("a", None, "t", envelope.payload) == data


_TEXTS = st.text("ab<&>\"'\n\r\t é", max_size=6)


@st.composite
def documents(draw: st.DrawFn, prefixes: frozenset[str] = frozenset(), depth: int = 0) -> str:
    """Text with namespaces in every place: prefixed, default, none, and the envelope's own."""
    uris = st.sampled_from(["urn:x", "urn:y", NAMESPACE])
    declared = {p: draw(uris) for p in draw(st.sets(st.sampled_from(["p", "q"])))}
    default = draw(st.none() | st.just("") | uris)
    known = prefixes | declared.keys()
    name = ":".join(
        (*draw(st.sets(st.sampled_from(sorted(known)), max_size=1)), "a") if known else "a"
    )
    attributes = [f'xmlns:{prefix}="{uri}"' for prefix, uri in declared.items()]
    attributes += [] if default is None else [f'xmlns="{default}"']
    attributes += [f"k={quoteattr(draw(_TEXTS))}"] if draw(st.booleans()) else []
    attributes += [f"{p}:k={quoteattr(draw(_TEXTS))}" for p in sorted(known)[:1]]
    content = escape(draw(_TEXTS))
    if depth < 2:
        inner = documents(known, depth + 1)
        content += "".join(
            child + escape(draw(_TEXTS)) for child in draw(st.lists(inner, max_size=2))
        )
    return f"<{' '.join((name, *attributes))}>{content}</{name}>"


@given(document=documents(), to=st.none() | st.sampled_from(["clerk", "a.b", "a&b", "é"]))
def test_what_is_joined_from_texts_is_what_a_tree_would_be(document: str, to: str | None) -> None:
    """The bytes are equal for a payload given as an element and as its canonical form."""
    payload = parse_xml(document)
    written = canonical(payload)
    as_tree = envelope_module._build_as_tree("desk", to, THREAD, parse_canonical(written), ())
    assert build_envelope("desk", to, THREAD, written) == as_tree
    assert build_envelope("desk", to, THREAD, payload) == as_tree


def test_meta_is_read_back() -> None:
    """Names may hold any character, `to` may be absent, and foreign elements are kept."""
    extra = etree.fromstring("<trace xmlns='urn:trace'>1</trace>")
    data = build_envelope("a & <b>", None, "t\n", etree.Element("x"), extra_meta=[extra])
    envelope = parse_envelope(data)
    assert (envelope.from_id, envelope.to, envelope.thread) == ("a & <b>", None, "t\n")
    assert [canonical(e) for e in envelope.extra_meta] == [canonical(extra)]
    with pytest.raises(InvalidEnvelopeError, match="build"):
        build_envelope("a\0", None, "t", etree.Element("x"))


def _message(meta: str, payloads: str) -> bytes:
    return f'<message xmlns="{NAMESPACE}">{meta}{payloads}</message>'.encode()


_META = "<meta><from>a</from><thread>t</thread></meta>"


@pytest.mark.parametrize(
    "data",
    [
        _message(_META, ""),
        _message(_META, "<a xmlns=''/><b xmlns=''/>"),
        _message(_META, "text<a xmlns=''/>"),
        _message(_META, _message(_META, "<a xmlns=''/>").decode()),
        _message("", "<a xmlns=''/>"),
        _message("<meta><from>a</from></meta>", "<a xmlns=''/>"),
        _message("<meta><from/><thread>t</thread></meta>", "<a xmlns=''/>"),
        _message("<meta><thread>t</thread><from>a</from></meta>", "<a xmlns=''/>"),
        _message("<meta><from>a</from><thread>t</thread><own/></meta>", "<a xmlns=''/>"),
        b"<message/>",
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    """An envelope is meta and then exactly one payload that is not itself an envelope."""
    with pytest.raises(InvalidEnvelopeError) as caught:
        parse_envelope(data)
    assert caught.value.step == "envelope XSD"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("no xml", "Start tag expected"),
        ("<a>", "Premature end"),
        ("<a></b>", "mismatch"),
        ("<a>&nope;</a>", "Entity 'nope' not defined"),
        ("<p:a/>", "prefix p"),
        ("<a/><b/>", "Extra content"),
        ("<a>\x01</a>", "invalid"),
        ("<a>&#0;</a>", "invalid xmlChar"),
        ("<a>\0</a>", "NUL"),
        ("<a>\ud800</a>", "surrogate"),
        (b"<a>\xff</a>", "not UTF-8"),
        ("<a/>".encode("utf-16"), "NUL|UTF-8"),
        ('<?xml version="1.0" encoding="latin-1"?><a/>', "only UTF-8"),
        (b"\xef\xbb\xbf<?xml version='1.0' encoding='UTF-16'?><a/>", "only UTF-8"),
        ("<!DOCTYPE a><a/>", "DOCTYPE"),
        (LAUGHS, "DOCTYPE"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "DOCTYPE"),
        ("<?xml version='1.0'?>\n<!-- a --><!-- <b> -->\n<?p i?><!DOCTYPE a><a/>", "DOCTYPE"),
        ("<a><?php echo ?></a>", "processing instruction"),
        ("<?style sheet?><a/>", "processing instruction"),
        ("<a/><?style sheet?>", "processing instruction"),
        ("<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1), "nested deeper|depth"),
        ("<a>" * 257 + "</a>" * 257, "depth"),
        ("<a>" * 100_000 + "</a>" * 100_000, "depth"),
        ("<a " + " ".join(f"b{i}=''" for i in range(100_000)) + "/>", "attributes"),
        ("<a " + " ".join(f"xmlns:b{i}='u'" for i in range(100_000)) + "/>", "namespaces"),
        ("<a>" + "x" * 100 + "</a>" * 3, "mismatch|Extra content"),
    ],
)  # fmt: skip
def test_the_parser_refuses(text: str | bytes, fault: str) -> None:
    """Each document is refused with a reason, and the dangerous ones also when repair is
    allowed.
    """
    with pytest.raises(InvalidEnvelopeError, match=fault) as caught:
        parse_xml(text)
    assert caught.value.step == "parse"


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH,
        "<a " + " ".join(f"b{i}=''" for i in range(MAX_ATTRIBUTES)) + "/>",
        "<a " + " ".join(f"xmlns:b{i}='u'" for i in range(MAX_NAMESPACES - 1)) + "/>",
        "\ufeff<?xml version='1.0' encoding='utf-8'?><!-- c --><a/><!-- c -->",
        "<a><![CDATA[<!DOCTYPE a><?php ?>]]></a>",
        "<a><!-- <!DOCTYPE a><?php ?> --></a>",
        "<r>" + "<a b=''/>" * 50_000 + "</r>",
    ],
)
def test_the_parser_accepts(text: str) -> None:
    """The parser accepts documents exactly at the limits and harmless text that looks dangerous."""
    assert parse_xml(text) is not None
    assert parse_xml(text.encode()) is not None
    assert repair_xml(text).repairs == ()


def test_size_is_checked_before_anything_is_parsed() -> None:
    """The size is counted in bytes, not characters."""
    assert parse_xml("<a>é</a>", max_bytes=9) is not None
    with pytest.raises(InvalidEnvelopeError, match="9 bytes; at most 8"):
        parse_xml("<a>é</a>", max_bytes=8)
    with pytest.raises(InvalidEnvelopeError, match="at most 8"):
        parse_xml("not even XML", max_bytes=8)


@pytest.mark.parametrize(
    ("text", "root", "said"),
    [
        ("<a><b>1</a>", "<a><b>1</b></a>", "<b> had no end"),
        ("<a><b>1", "<a><b>1</b></a>", "<a> had no end"),
        ("Sure:\n```xml\n<a>1</a>\n```\nDone.", "<a>1</a>", "text before the answer"),
        (
            "<a>AT&T; & &x;<b/>&y;</a>",
            "<a>AT&amp;T; &amp; &amp;x;<b></b>&amp;y;</a>",
            "ampersand that begins no entity",
        ),
        (
            "<a k='&'><![CDATA[&&]]><!-- & -->&lt;&#65;",
            '<a k="&amp;">&amp;&amp;&lt;A</a>',
            "<a> had no end",
        ),
        ("<a/><b/>", "<a></a>", "text after the answer"),
        ("<a>1</a>\nThat was it.", "<a>1</a>", "text after the answer"),
        ("<a>x < y <z & 3</a>", "<a>x &lt; y &lt;z &amp; 3</a>", 'a "<" that begins no tag'),
        ("<a k=v l='w'>]]></a><b>", '<a k="v" l="w">]]&gt;</a>', "attributes got their quotes"),
    ],
)
def test_repair_says_what_it_did(text: str, root: str, said: str) -> None:
    """The parser reads as much as it can of a language model's text, and reports each repair."""
    repaired = repair_xml(text)
    assert canonical(repaired.root).decode() == root
    assert any(said in repair for repair in repaired.repairs)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<p>Hello <Say>1</Say>, <https://x.y> <me@x.y>", "<Say>1</Say>"),
        ("<think><Say>a draft</Say></think>\n<Say>final</Say>\n<br>Bye", "<Say>final</Say>"),
        ("<reply><Say>a < b</Say></reply>", "<Say>a &lt; b</Say>"),
        ("<reply><Say>whole</Say></reply>", "<Say>whole</Say>"),
        ("Into a <Say> element: <Say>1</Say>", "<Say>1</Say>"),
        ("<Say>1</Say> or <Say>1</Say>", "<Say>1</Say>"),
        ("<Say>if (a<b && c>d)</Say>", "<Say>if (a&lt;b &amp;&amp; c&gt;d)</Say>"),
        ("<Say><![CDATA[a</Say>", "<Say>&lt;![CDATA[a</Say>"),
        ("<Say><?php 1 ?></Say>", "<Say>&lt;?php 1 ?&gt;</Say>"),
        ("<Say><!-- a -- b -->1</Say>", "<Say>1</Say>"),
        ("<other/>", "<other></other>"),
    ],
)
def test_the_answer_is_found_and_says_what_it_said(text: str, answer: str) -> None:
    """Prose and foreign elements around it are passed over, and nothing in it is lost."""
    repaired = repair_xml(text, names={"Say"})
    assert canonical(repaired.root).decode().replace("&amp;lt;", "&lt;") == answer
    assert bool(repaired.repairs) == (text != "<other/>")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<Say>1</Say> or <Say>2</Say>", "several different answers"),
        ("<Say>1</b></Say>", "mismatch"),
        ("<Say>x\x01y</Say>", "invalid Char"),
        ("There is <b>none</b>", "Start tag expected"),
        ("<Say><b>" * 50_000, "nested deeper"),
        ("<Say>" + "<a>" * 50_000 + "</b>" * 50_000 + "</a>" * 50_000 + "&", "nested deeper"),
        ("<Say><b>1</b></Say>" * 20_000 + "<Say/>", "several different answers"),
        ("<!--" * 100_000 + "<![CDATA[" * 50_000, "comment"),
    ],
)
def test_what_was_meant_is_not_guessed(text: str, fault: str) -> None:
    """Two answers, an end without a start; and no text keeps the repair busy for long."""
    with pytest.raises(InvalidEnvelopeError, match=fault):
        repair_xml(text, names={"Say"})


@pytest.mark.parametrize(
    "text",
    ["", "prose", "<", "<>", LAUGHS, f"Here: {LAUGHS}", "<a>" * 300, "<a>" * 201, "<a>" * 100_000,
     b"<a>\xff</a>", "<a>\0</a>", "<a><?php ?></b>", "<!DOCTYPE a><a>"],
)  # fmt: skip
def test_repair_never_lets_in_what_is_dangerous(text: str | bytes) -> None:
    """Repair does not cut a document down to fit a limit, and does not skip a DOCTYPE."""
    with pytest.raises(InvalidEnvelopeError):
        repair_xml(text)
