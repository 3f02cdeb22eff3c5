"""XML text in and out: the one hardened parser, the one canonical form, and the `XML` wrapper.

Everything that reads XML text goes through `parse_xml` (text from anywhere), `mending.repair_xml`
(the same for the answer in a damaged text) or `parse_canonical` (text this
program wrote itself). All three resolve no entity, touch no network, and refuse what XML 1.0
in UTF-8 does not need here: DOCTYPE, processing instructions, other encodings.

Bounds: size as the caller says, `MAX_DEPTH` levels, `MAX_ATTRIBUTES` attributes per element and
`MAX_NAMESPACES` declarations in scope (canonicalisation is quadratic in both). libxml2 itself
stops at 256 levels; the lower limit for text from outside leaves room to wrap it in envelopes,
sequences and buffers afterwards. Comments are dropped. Nothing here recurses over the document.

Canonical form: Exclusive XML Canonicalization 1.0 without comments, W3C, 2002.
"""

from __future__ import annotations

import re
import threading
from itertools import islice
from typing import Any, cast

from lxml import etree

from threadloom.routing.errors import InvalidEnvelopeError, InvalidPayloadError

#: levels of nesting accepted from outside; an element without children is one level
MAX_DEPTH = 200
#: attributes of one element accepted from outside
MAX_ATTRIBUTES = 256
#: namespace declarations in scope at one element accepted from outside
MAX_NAMESPACES = 256
#: faults reported for one document; a million broken items need no million messages
MAX_FAULTS = 50
#: characters of one fault; libxml2 quotes the whole value it refuses
MAX_FAULT_CHARS = 500

#: any character that XML 1.0 cannot carry, not even escaped
ILLEGAL_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_DECLARED_ENCODING = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([^"']*)["']""")
_DOCTYPE_IN_PROLOG = re.compile(rb"(?:\s++|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARSE = "parse"


_SMALL_ELEMENTS = 1000
_HARDENED: dict[str, Any] = {
    "encoding": "utf-8",  # whatever the document declares; checked before
    "resolve_entities": False,
    "load_dtd": False,
    "no_network": True,
    "huge_tree": False,
    "remove_comments": True,
}


class _Parsers(threading.local):
    """One parser per thread: a shared one would be locked, and its lock could be held at a fork."""

    def __init__(self) -> None:
        self.strict = etree.XMLParser(**_HARDENED)


_parsers = _Parsers()


def parse_xml(text: str | bytes, *, max_bytes: int | None = None) -> etree._Element:
    """Return the root of a document from anywhere.

    Raises InvalidEnvelopeError (step "parse"): too large, not UTF-8, not well-formed, nested
    deeper than `MAX_DEPTH`, or with a DOCTYPE, an entity or a processing instruction.
    """
    data = checked_bytes(text, max_bytes)
    _refuse_doctype(data)
    root = _parse_strictly(data)
    _check_shape(root, data)
    return root


def parse_canonical(data: bytes) -> etree._Element:
    """Return the root of a document that `canonical` wrote in this program; as hardened, but
    without the limits that were checked when its content came in.

    Raises InvalidEnvelopeError (step "parse").
    """
    _refuse_doctype(data)
    return _parse_strictly(data)


def canonical(element: etree._Element) -> bytes:
    """Return the exclusive canonical form of `element`, UTF-8, without comments.

    It does not depend on where the element stands. Never call it on a tree of unknown depth:
    libxml2 recurses. Raises InvalidEnvelopeError (step "c14n") for what has no canonical form,
    such as a relative namespace URI.
    """
    try:
        data: bytes = etree.tostring(element, method="c14n", exclusive=True, with_comments=False)
    except etree.C14NError as exc:
        reason = "it has no canonical form (a relative namespace URI, or an entity)"
        raise InvalidEnvelopeError("c14n", [reason]) from exc
    return data


def schema_faults(schema: etree.XMLSchema, element: etree._Element) -> tuple[str, ...]:
    """Return why `element` breaks the schema, at most `MAX_FAULTS` messages; empty if it does not.

    A small tree is validated as it stands. A large one, and one that failed, is validated while
    its text is parsed again: messages about a tree each count their node's siblings, which takes
    minutes for a megabyte of wrong items, and they are kept on the schema, where another thread
    would clear them.
    """
    is_small = next(islice(element.iter(), _SMALL_ELEMENTS, None), None) is None
    if is_small and schema(element):
        return ()
    parser = etree.XMLParser(**_HARDENED, schema=schema)
    try:
        etree.fromstring(etree.tostring(element, encoding="utf-8", with_tail=False), parser)
    except etree.XMLSyntaxError as exc:
        entries = islice(cast(Any, parser.error_log), MAX_FAULTS + 1)
        return limited([str(entry.message) for entry in entries] or [str(exc)])
    return ("it breaks its schema",) if is_small else ()


def limited(faults: list[str]) -> tuple[str, ...]:
    """Return the faults, each cut to `MAX_FAULT_CHARS`, and after `MAX_FAULTS` one that says so."""
    cut = tuple(_short(fault) for fault in faults[:MAX_FAULTS])
    return (*cut, "and more") if len(faults) > MAX_FAULTS else cut


def new_element(tag: str, namespaces: dict[str | None, str]) -> etree._Element:
    """Return an empty element that declares `namespaces`; an empty one is `xmlns=""`."""
    return etree.Element(tag, nsmap=cast(dict[str, str], namespaces))  # the stubs know no None


def local_name(element: etree._Element) -> str:
    """Return the element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


class XML:
    """One raw XML element, kept as its exclusive canonical form; equal and hashable by it.

    Made from text or from an lxml element, which is copied. A namespace that only content
    mentions (`xsi:type="x:y"`) is not part of the exclusive canonical form and is lost.
    Raises InvalidPayloadError for anything `parse_xml` would refuse.
    """

    __slots__ = ("_text",)

    def __init__(self, source: str | bytes | etree._Element | XML) -> None:
        if isinstance(source, XML):
            self._text: str = source._text
            return
        try:
            self._text = canonical(_raw_root(source)).decode()
        except InvalidEnvelopeError as exc:
            raise InvalidPayloadError("XML", exc.faults) from exc

    @classmethod
    def of_parsed(cls, element: etree._Element) -> XML:
        """Wrap an element of a tree that this module's parser built; nothing is checked again."""
        wrapped = cls.__new__(cls)
        wrapped._text = canonical(element).decode()
        return wrapped

    @property
    def text(self) -> str:
        """The exclusive canonical form."""
        return self._text

    @property
    def element(self) -> etree._Element:
        """A fresh copy of the element, the caller's to change."""
        return parse_canonical(self._text.encode())

    def __reduce__(self) -> tuple[type[XML], tuple[str]]:
        return XML, (self._text,)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, XML) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"XML({self._text!r})"


def _raw_root(source: str | bytes | etree._Element) -> etree._Element:
    if isinstance(source, (str, bytes)):
        return parse_xml(source)
    if not etree.iselement(source):
        kind = type(source).__name__
        raise InvalidEnvelopeError(_PARSE, [f"expected XML text or an lxml element, got {kind}"])
    _check_levels(source, count_names=True)  # before anything that recurses in C
    return parse_xml(etree.tostring(source, encoding="utf-8", with_tail=False))


def checked_bytes(text: str | bytes, max_bytes: int | None) -> bytes:
    """Return the text as UTF-8 bytes, refusing what needs no parser to be refused."""
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as exc:
        reason = f"character {exc.start} is half of a surrogate pair"
        raise InvalidEnvelopeError(_PARSE, [reason]) from exc
    if max_bytes is not None and len(data) > max_bytes:
        raise InvalidEnvelopeError(_PARSE, [f"{len(data)} bytes; at most {max_bytes} are accepted"])
    if b"\0" in data:
        raise InvalidEnvelopeError(_PARSE, ["it contains a NUL character"])
    if not isinstance(text, str):
        try:
            data.decode()
        except UnicodeDecodeError as exc:
            reason = f"not UTF-8: {exc.reason} at byte {exc.start}"
            raise InvalidEnvelopeError(_PARSE, [reason]) from exc
    return data


def _refuse_doctype(data: bytes) -> None:
    """Refuse a declared encoding other than UTF-8, and a DOCTYPE, before a parser sees them."""
    body = data.removeprefix(_BYTE_ORDER_MARK)
    if body.startswith(b"<?xml"):
        declared = _DECLARED_ENCODING.match(body)
        if declared and declared[1].lower() not in (b"utf-8", b"utf8"):
            name = declared[1].decode(errors="replace")
            raise InvalidEnvelopeError(
                _PARSE, [_short(f"encoding {name!r} is declared; only UTF-8 is accepted")]
            )
    if b"<!DOCTYPE" in body and _DOCTYPE_IN_PROLOG.match(
        body
    ):  # else it is text in a CDATA section
        raise InvalidEnvelopeError(_PARSE, ["a DOCTYPE is not accepted"])


def _parse_strictly(data: bytes) -> etree._Element:
    try:
        root: etree._Element = etree.fromstring(data, _parsers.strict)
    except etree.XMLSyntaxError as exc:
        raise InvalidEnvelopeError(_PARSE, [_short(exc.msg or str(exc))]) from exc
    if b"<?" in data:
        _refuse_instructions(root)
    return root


def _refuse_instructions(root: etree._Element) -> None:
    """A processing instruction would vanish from a typed payload without a word."""
    inside = root.iter(etree.PI)
    around = (*root.itersiblings(etree.PI, preceding=True), *root.itersiblings(etree.PI))
    if around or next(inside, None) is not None:
        raise InvalidEnvelopeError(_PARSE, ["a processing instruction is not accepted"])


def _check_shape(root: etree._Element, data: bytes) -> None:
    """Refuse extreme shapes; a look at the bytes spares small documents the walk."""
    count_names = data.count(b"=") > min(MAX_ATTRIBUTES, MAX_NAMESPACES)
    if count_names or data.count(b"<") > MAX_DEPTH:
        _check_levels(root, count_names=count_names)


def _check_levels(root: etree._Element, *, count_names: bool) -> None:
    """Walk level by level, so that no depth is too deep for the walk itself."""
    depth, level = 0, [root]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidEnvelopeError(_PARSE, [f"nested deeper than {MAX_DEPTH} levels"])
        if count_names:
            for element in level:
                _check_names(element)
        level = [child for element in level for child in element]


def _check_names(element: etree._Element) -> None:
    if not isinstance(element.tag, str):  # a comment
        return
    if len(element.attrib) > MAX_ATTRIBUTES:
        raise InvalidEnvelopeError(
            _PARSE, [f"an element has more than {MAX_ATTRIBUTES} attributes"]
        )
    if len(element.nsmap) > MAX_NAMESPACES:
        raise InvalidEnvelopeError(_PARSE, [f"more than {MAX_NAMESPACES} namespaces in scope"])


def _short(message: str) -> str:
    return message if len(message) <= MAX_FAULT_CHARS else f"{message[:MAX_FAULT_CHARS]}…"
