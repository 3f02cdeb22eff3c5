"""The formats of terminal output: consoles, durations, and messages in one line.

Text from users, handlers and senders is never interpreted as markup, and characters that control
a terminal are shown as escape codes.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from lxml import etree
from rich.console import Console
from rich.text import Text

from threadloom.routing.payloads import local_name
from threadloom.routing.states import ConversationStatus

#: columns of a table that is written to a file or a pipe
PIPE_WIDTH = 120
#: most fields, levels and characters of a payload in one line
_FIELDS, _LEVELS, _CHARS = 12, 3, 240
#: of a list with more items than this, only the count is shown
_ALIKE = 3

STATUS_STYLES: Mapping[str, str] = {
    ConversationStatus.RUNNING: "cyan",
    ConversationStatus.WAITING: "yellow",
    ConversationStatus.COMPLETED: "green",
    ConversationStatus.ERROR: "bold red",
    ConversationStatus.KILLED: "magenta",
}
_MARKS: Mapping[str, str] = {
    ConversationStatus.RUNNING: "●",
    ConversationStatus.WAITING: "◌",
    ConversationStatus.COMPLETED: "✓",
    ConversationStatus.ERROR: "✗",
    ConversationStatus.KILLED: "■",
}


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints every text literally, without markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_json(value: object) -> None:
    """Print a value as one JSON document on standard output.

    Other characters than ASCII are escaped, so that it is JSON in every encoding of the output,
    and no character of a sender steers the terminal.
    """
    print(json.dumps(value, ensure_ascii=True, indent=2))


def plain(text: str) -> str:
    """Return `text` with control and direction characters replaced by escape codes."""
    if text.isprintable():
        return text
    return "".join(c if _is_harmless(c) else f"\\u{ord(c):04x}" for c in text)


def one_word(text: str) -> str:
    """Return an id or a name as `plain` does, and on one line: it cannot pose as a line of ours."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


def _is_harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def one_line(text: str, limit: int = _CHARS) -> str:
    """Return `text` as one line of at most `limit` characters, each run of blanks as one."""
    return plain(_shortened(text, limit))


def _shortened(text: str, limit: int) -> str:
    beginning = text[: 4 * limit]  # a huge text is not processed as a whole
    line = " ".join(beginning.split())
    if len(line) <= limit and beginning == text:
        return line
    return f"{line[: limit - 1].rstrip()}…"


def duration(ms: float) -> str:
    """Return a duration in one suitable unit: `84 ms`, `2.5 s`, `12 min`, `3 h`, `5 d`."""
    seconds = max(0.0, ms) / 1000
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 86_400 else f"{seconds / 86_400:.0f} d"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 delivery`, `2 deliveries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def status_text(status: str) -> Text:
    """Return a conversation's status with its mark and colour."""
    return Text(f"{_MARKS.get(status, '·')} {status}", STATUS_STYLES.get(status, ""))


def ending_text(status: str, value: Mapping[str, Any] | None) -> Text:
    """Return a conversation's value or error in one line."""
    if value is None:
        return Text("no value" if status == ConversationStatus.COMPLETED else "", "dim")
    if "code" in value:
        return Text.assemble(
            (f"{one_line(str(value['code']))}: ", "red"), one_line(str(value["message"]))
        )
    payload = value.get("payload")
    return payload_text(str(value.get("type", "")), _json_fields(payload))


def element_text(payload: etree._Element) -> Text:
    """Return a payload element in one line: `Add a=2 b=3`."""
    return payload_text(local_name(payload), _element_fields(payload))


def error_text(reason: str) -> Text:
    """Return a handler's exception in one line: the last line of its traceback."""
    return Text(one_line(reason.strip().rpartition("\n")[2]), "red")


def pretty_xml(document: bytes) -> str:
    """Return canonical XML with its elements indented, for people."""
    root = etree.fromstring(document, etree.XMLParser(resolve_entities=False))
    etree.indent(root)
    return plain(etree.tostring(root, encoding="unicode"))


def payload_text(name: str, fields: str) -> Text:
    """Return a payload in one line: its class, then its fields."""
    return Text.assemble((one_line(name), "bold"), " " if fields else "", one_line(fields))


def _json_fields(payload: object) -> str:
    if isinstance(payload, Mapping):
        return _listed(f"{name}={_json_value(value)}" for name, value in payload.items())
    return "" if payload is None else _json_value(payload)


def _json_value(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        if len(value) > _ALIKE:
            return f"[{len(value)} items]"
        return f"[{_listed(_json_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"({_json_fields(value)})"
    return json.dumps(value)


def _element_fields(element: etree._Element, levels: int = _LEVELS) -> str:
    if not len(element):
        return _quoted(element.text or "") if levels < _LEVELS or element.text else ""
    names = {child.tag for child in islice(element, _ALIKE + 1)}
    if len(element) > _ALIKE and len(names) == 1:
        return f"[{len(element)} x {local_name(element[0])}]"
    if levels == 0:
        return "…"
    return _listed(_element_field(child, levels - 1) for child in element)


def _element_field(element: etree._Element, levels: int) -> str:
    inner = _element_fields(element, levels)
    if len(element) and not inner.startswith("["):
        inner = f"({inner})"
    return f"{local_name(element)}={inner}"


def _listed(parts: Iterable[str]) -> str:
    shown = list(islice(parts, _FIELDS + 1))
    return " ".join([*shown[:_FIELDS], "…"] if len(shown) > _FIELDS else shown)


def _quoted(text: str) -> str:
    """Return a text as it is if it is one word, else in quotes."""
    line = _shortened(text, _CHARS // 2)
    is_word = line == text and " " not in line and line != ""
    return line if is_word else json.dumps(line, ensure_ascii=False)
