"""Damaged XML, as language models write it: find the answer in a text and make it well-formed.

What was said is never changed. A `<` or `&` that begins nothing is text and becomes `&lt;` or
`&amp;`; an element without an end is closed where the one around it ends; attributes get their
quotes. Prose and foreign elements around the answer are passed over. All of it is told in
`repairs`. The strict parser reads what comes out, and whatever else is wrong stays an error.

Every step takes time proportional to the text, whatever stands in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from lxml import etree

from threadloom.routing.errors import InvalidEnvelopeError
from threadloom.routing.payloads.markup import MAX_DEPTH, checked_bytes, local_name, parse_xml

_NAME = r"[^\W\d][\w.\-]*+(?::[^\W\d][\w.\-]*+)?+"
_VALUE = r"""(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>=/`]++)"""
_TAG = re.compile(rf"<(/?)({_NAME})((?:\s++{_NAME}\s*+=\s*+{_VALUE})*+)\s*+(/?)>")
_BARE_VALUE = re.compile(r"""(=\s*+)([^\s"'<>=/`]++)|"[^"]*+"|'[^']*+'""")
_LOOSE_AMPERSAND = re.compile("&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)")
_DECLARATION = re.compile(r"\ufeff?\s*(?:<\?xml\s[^<>]*\?>)?\s*")
_SECTIONS = (("<![CDATA[", "]]>"), ("<!--", "-->"))

_BEFORE = "text before the answer was passed over"
_AFTER = "text after the answer was passed over"
_TEXT = 'a "<" that begins no tag became text'
_AMPERSAND = "an ampersand that begins no entity became text"
_BRACKETS = 'a "]]>" became text'
_COMMENTS = "comments were left out"
_QUOTES = "attributes got their quotes"


class Repaired(NamedTuple):
    """A document read with repair allowed."""

    root: etree._Element
    #: what was done to it; empty when the text was well-formed as it stood
    repairs: tuple[str, ...]


def repair_xml(
    text: str | bytes, *, names: Collection[str] = (), max_bytes: int | None = None
) -> Repaired:
    """Return the root of the answer in a text that may be damaged, and what had to be repaired.

    `names` are the local names that an answer's root may have; none: that of the first element.
    Limits hold as in `parse_xml`: nothing too large or too deep is cut down to fit. Raises
    InvalidEnvelopeError (step "parse") for a text with no answer, with several different ones, or
    with damage that leaves open what was meant.
    """
    data = checked_bytes(text, max_bytes)
    try:
        whole = parse_xml(data)
    except InvalidEnvelopeError:
        found = _Text(data.decode(), names).answer()
        if found is None:
            raise
        return Repaired(parse_xml(found[0]), found[1])
    if names and local_name(whole) not in names:
        found = _Text(data.decode(), names).answer()
        if found is not None:
            return Repaired(parse_xml(found[0]), found[1])
    return Repaired(whole, ())  # without an answer in it, its receiver says what it would take


class _Piece(NamedTuple):
    """A tag, a comment or a CDATA section."""

    start: int
    stop: int
    #: the name of a tag; empty for the others
    name: str = ""
    attributes: str = ""
    is_end: bool = False
    is_empty: bool = False

    @property
    def opens(self) -> bool:
        """Whether it is a tag that has an end of its own."""
        return bool(self.name) and not self.is_end and not self.is_empty


def _pieces(text: str) -> Iterator[_Piece]:
    """Yield what in a text is markup; a `<` that belongs to none of it is text."""
    position, unended = 0, set()
    while (start := text.find("<", position)) >= 0:
        position = start + 1
        section = next((s for s in _SECTIONS if text.startswith(s[0], start)), None)
        if section is not None and section not in unended:
            stop = text.find(section[1], start + len(section[0]))
            if stop < 0:
                unended.add(section)  # no need to look again
                continue
            position = stop + len(section[1])
            yield _Piece(start, position)
        elif tag := _TAG.match(text, start):
            position = tag.end()
            yield _Piece(start, position, tag[2], tag[3], bool(tag[1]), bool(tag[4]))


class _Text:
    """A text, its markup, and which tags belong together."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self._text = text
        self._pieces = list(_pieces(text))
        first = next((_local(p.name) for p in self._pieces if p.name and not p.is_end), "")
        self._names = frozenset(names or [first])
        #: the index of the end of each element that has one
        self._ends = self._matched()
        self._starts = {end: start for start, end in self._ends.items()}

    def answer(self) -> tuple[str, tuple[str, ...]] | None:
        """Return the answer, made well-formed, and what was done; None if there is none."""
        spans = self._complete() or self._incomplete()
        if not spans:
            return None
        first, last = spans[0]
        mended, repairs = self._mended(first, last)
        if any(self._mended(*span)[0] != mended for span in spans[1:]):
            reason = "there are several different answers in this text; send only one"
            raise InvalidEnvelopeError("parse", [reason])
        before = self._text[: self._pieces[first].start]
        if "<!DOCTYPE" in before:
            raise InvalidEnvelopeError("parse", ["a DOCTYPE is not accepted"])
        if before[_end_of_declaration(before) :].strip():
            repairs = (_BEFORE, *repairs)
        if last is not None and self._text[self._pieces[last].stop :].strip():
            repairs = (*repairs, _AFTER)
        return mended, repairs

    def _is_answer(self, piece: _Piece) -> bool:
        return bool(piece.name) and not piece.is_end and _local(piece.name) in self._names

    def _matched(self) -> dict[int, int]:
        """Map each start tag to its end tag: the nearest open one of that name gets it.

        An end tag does not reach beyond the start of an answer that is still open, so that it
        cannot close what only surrounds the answer.
        """
        ends: dict[int, int] = {}
        # One level for each open answer: the tags that are open in it, and how many of each name.
        levels: list[tuple[list[int], Counter[str]]] = [([], Counter())]
        for index, piece in enumerate(self._pieces):
            if piece.opens:
                if self._is_answer(piece):
                    levels.append(([], Counter()))
                opened, counts = levels[-1]
                opened.append(index)
                counts[piece.name] += 1
            elif piece.is_end and levels[-1][1][piece.name]:
                opened, counts = levels[-1]
                while True:
                    start = opened.pop()
                    counts[self._pieces[start].name] -= 1
                    if self._pieces[start].name == piece.name:
                        break
                ends[start] = index
                if not opened and len(levels) > 1:
                    levels.pop()
        return ends

    def _complete(self) -> list[tuple[int, int | None]]:
        """Return the answers that have an end: those outside of foreign elements, if there are any.

        Otherwise those one level further inside, and so on: a model's thoughts may quote an
        answer, and the answer itself may be wrapped.
        """
        regions = [(0, len(self._pieces))]
        while regions:
            found: list[tuple[int, int | None]] = []
            inside: list[tuple[int, int]] = []
            for start, stop in regions:
                index = start
                while index < stop:
                    piece, end = self._pieces[index], self._ends.get(index, -1)
                    if self._is_answer(piece) and (piece.is_empty or end >= 0):
                        found.append((index, max(index, end)))
                    elif end >= 0:
                        inside.append((index + 1, end))
                    index = max(index, end) + 1
            if found:
                return found
            regions = inside
        return []

    def _incomplete(self) -> list[tuple[int, int | None]]:
        """Return the first answer without an end: the text ends before it does."""
        starts = (i for i, piece in enumerate(self._pieces) if self._is_answer(piece))
        return [(first, None) for first in [next(starts, None)] if first is not None]

    def _mended(self, first: int, last: int | None) -> tuple[str, tuple[str, ...]]:
        """Return an answer with what is missing, and what was done to it."""
        parts: list[str] = []
        repairs: dict[str, None] = {}
        opened: list[int] = []

        def close(until: int | None) -> None:
            while opened and opened[-1] != until:
                name = self._pieces[opened.pop()].name
                repairs[f"<{name}> had no end and was closed"] = None
                parts.append(f"</{name}>")

        stop = len(self._pieces) - 1 if last is None else last
        position = self._pieces[first].start
        for index in range(first, stop + 1):
            piece = self._pieces[index]
            parts.append(_as_text(self._text[position : piece.start], repairs))
            position = piece.stop
            if piece.is_end and self._starts.get(index) in opened:
                close(self._starts[index])
                opened.pop()
            elif piece.opens:
                opened.append(index)
                if len(opened) > MAX_DEPTH:
                    reason = f"nested deeper than {MAX_DEPTH} levels"
                    raise InvalidEnvelopeError("parse", [reason])
            parts.append(_markup(self._text[piece.start : piece.stop], piece, repairs))
        if last is None:
            parts.append(_as_text(self._text[position:], repairs))
            close(None)
        return "".join(parts), tuple(repairs)


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _end_of_declaration(text: str) -> int:
    found = _DECLARATION.match(text)
    return found.end() if found else 0


def _as_text(text: str, repairs: dict[str, None]) -> str:
    """Return text between two tags with what XML would take for markup escaped."""
    text = _without_loose_ampersands(text, repairs)
    for written, escaped, told in (("<", "&lt;", _TEXT), ("]]>", "]]&gt;", _BRACKETS)):
        if written in text:
            repairs[told] = None
            text = text.replace(written, escaped)
    return text


def _markup(text: str, piece: _Piece, repairs: dict[str, None]) -> str:
    """Return a tag or a CDATA section as XML has it."""
    if not piece.name:
        if text.startswith("<!--"):
            repairs[_COMMENTS] = None
            return ""
        return text
    if not piece.attributes:
        return text
    quoted = _BARE_VALUE.sub(lambda m: f'{m[1]}"{m[2]}"' if m[2] else m[0], text)
    if quoted != text:
        repairs[_QUOTES] = None
    return _without_loose_ampersands(quoted, repairs)


def _without_loose_ampersands(text: str, repairs: dict[str, None]) -> str:
    escaped = _LOOSE_AMPERSAND.sub("&amp;", text)
    if escaped != text:
        repairs[_AMPERSAND] = None
    return escaped
