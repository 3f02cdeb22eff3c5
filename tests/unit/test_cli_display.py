"""How conversations, payloads and durations look in a terminal."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from msgspec.structs import replace
from rich.console import Console

from threadloom.routing.envelope import build_envelope
from threadloom.routing.records import (
    Branch,
    Conversation,
    Delivery,
    LogEntry,
    Thread,
)
from threadloom.routing.states import ConversationStatus
from threadloom.service.commands.thread import Story, print_story
from threadloom.service.display import counted, duration, element_text, ending_text, one_line, plain


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (-5, "0 ms"), (0, "0 ms"), (84, "84 ms"), (999, "999 ms"), (2_500, "2.5 s"),
        (59_400, "59 s"), (720_000, "12 min"), (10_800_000, "3 h"), (432_000_000, "5 d"),
    ],
)  # fmt: skip
def test_a_duration_has_one_unit_that_fits(ms: int, shown: str) -> None:
    """A negative duration, from a clock that runs behind, is not shown as negative."""
    assert duration(ms) == shown


def test_counted() -> None:
    """Words that end in y get their plural in -ies."""
    assert [counted(1, "delivery"), counted(2, "delivery"), counted(0, "listener")] == [
        "1 delivery", "2 deliveries", "0 listeners"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("xml", "shown"),
    [
        ("<Add><a>2</a><b>3</b></Add>", "Add a=2 b=3"),
        ("<Ping/>", "Ping"),
        ("<Say>hello  there</Say>", 'Say "hello there"'),
        ("<Say><text/></Say>", 'Say text=""'),
        ("<Say><text>one\n  two</text></Say>", 'Say text="one two"'),
        ("<Say><text>[red]a[/red]</text></Say>", "Say text=[red]a[/red]"),
        ("<Box><in><a>1</a><b>x y</b></in></Box>", 'Box in=(a=1 b="x y")'),
        ("<Box><item>1</item><item>2</item></Box>", "Box item=1 item=2"),
        ("<Box>" + "<item>1</item>" * 5 + "</Box>", "Box [5 x item]"),
        ("<a><b><c><d><e><f/></e></d></c></b></a>", "a b=(c=(d=(…)))"),
        ('<huh xmlns="urn:x"><error>no</error></huh>', "huh error=no"),
    ],
)
def test_a_payload_in_one_line(xml: str, shown: str) -> None:
    """The line has the class and the fields; a text is quoted unless it is one word."""
    assert element_text(etree.fromstring(xml)).plain == shown


@pytest.mark.parametrize(
    ("status", "value", "shown"),
    [
        ("completed", {"type": "Sum", "payload": {"value": 5}, "thread": "t"}, "Sum value=5"),
        ("completed", {"type": "Sum", "payload": {"l": [1, None, True]}}, "Sum l=[1 null true]"),
        ("completed", {"type": "Sum", "payload": {"l": [1] * 9}}, "Sum l=[9 items]"),
        ("completed", {"type": "a", "payload": "<a>x</a>"}, "a <a>x</a>"),
        ("completed", None, "no value"),
        ("running", None, ""),
        ("error", {"code": "limit", "message": "A\nlimit."}, "limit: A limit."),
    ],
)
def test_an_ending_in_one_line(status: str, value: dict[str, Any] | None, shown: str) -> None:
    """The line has the value or the error."""
    assert ending_text(status, value).plain == shown


@given(st.text(max_size=3_000), st.integers(min_value=1, max_value=300))
def test_no_text_steers_the_terminal(text: str, limit: int) -> None:
    """Every text that is shown is made printable; a harmless line is not changed."""
    shown = one_line(text, limit)
    assert shown.isprintable()
    assert "\n" not in shown
    if text.isascii() and text.isprintable() and len(text) <= limit:
        assert shown == " ".join(text.split())
    assert all(c.isprintable() or c.isspace() for c in plain(text))
    assert not set(plain(text)) & {"\x1b", "\x9b", "\u202e", "\r", "\x85", "\u2028"}


# --- a whole story ---------------------------------------------------------------------------


def delivery(number: int, from_id: str, to: str, thread_id: str, xml: str, **more: Any) -> Delivery:
    element = etree.fromstring(xml)
    envelope = build_envelope(from_id, to, thread_id, element)
    return Delivery(f"d{number}", thread_id, from_id, to, str(element.tag), "", envelope, **more)


def story(*, items: int = 3, extra: tuple[LogEntry, ...] = ()) -> Story:
    """external → [b]boss[/b] → so many hands, and what else happened."""
    boss = "[b]boss[/b]"
    hands = [Thread(f"h{n}", ("external", boss, "hand"), "t", Branch("j", n)) for n in range(items)]
    threads = [Thread("root", ("external",)), Thread("t", ("external", boss), "root"), *hands]
    messages = [
        delivery(0, "external", boss, "t", "<Go/>"),
        *(
            delivery(n + 1, boss, "hand", f"h{n}", f"<Lift><kg>{n}</kg></Lift>")
            for n in range(items)
        ),
    ]
    log = [LogEntry(1_000 + n, "message", {"delivery": m}) for n, m in enumerate(messages)]
    conversation = Conversation(
        "c", ConversationStatus.RUNNING, boss, "external", 1_000, 1_500, 4, 2, 1
    )
    # The registry returns threads in any order.
    return Story(conversation, {t.id: t for t in reversed(threads)}, (*log, *extra))


def printed(told: Story, *, limit: int = 200, xml: bool = False, width: int = 100) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, emoji=False, highlight=False)
    print_story(console, told, limit=limit, xml=xml)
    return out.getvalue()


def test_a_story_shows_names_as_they_are() -> None:
    """Markup in a name is shown as text, and the tree follows the log's order."""
    shown = printed(story())
    assert "external → [b]boss[/b]" in shown
    assert "2 in flight, 1 waiting for input" in shown
    assert shown.index("hand [0]") < shown.index("hand [1]") < shown.index("hand [2]")


def test_many_alike_are_counted() -> None:
    """A thousand items of a buffer do not fill the screen, and a long log is cut in the middle."""
    shown = printed(story(items=1_000), limit=10)
    assert "… and 995 more of hand" in shown
    assert "… 991 lines left out; --limit 1001 shows all" in shown
    assert "Lift kg=0" in shown
    assert "Lift kg=999" in shown
    assert len(shown.splitlines()) < 40


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (LogEntry(1_250, "note", {"id": "d1", "text": "[i]why[/i]"}), "+250 ms  note hand"),
        (LogEntry(1_250, "note", {"id": "d1", "text": "[i]why[/i]"}), "[i]why[/i]"),
        (LogEntry(4_000, "abandoned", {"id": "dx", "text": "lost"}), "abandoned dx"),
        (LogEntry(4_000, "retry", {"id": "d1", "text": "again in 5 ms: [b]"}), "retry hand"),
        (LogEntry(4_000, "retry", {"id": "d1", "text": "again in 5 ms: [b]"}), "5 ms: [b]"),
        (LogEntry(4_000, "dead_letter", {"id": "d1"}), "✗ dead letter hand"),
        (LogEntry(4_000, "replayed", {"id": "d1"}), "↻ replayed hand"),
        (LogEntry(126_000, "join", {"text": "fired j"}), "+0:02:05"),
        (LogEntry(61_500, "late", {"id": "gone"}), "gone"),
        (
            LogEntry(9_000, "waiting", {"id": "w", "to": "hand", "prompt": "how?", "thread": "t"}),
            "hand waits for input",
        ),
        (LogEntry(9_000, "ended", {"text": "killed"}), "■ killed"),
        (
            LogEntry(9_000, "late", {"delivery": delivery(9, "hand", "boss", "t", "<Ok/>")}),
            "hand → boss too late",
        ),
        (
            LogEntry(
                9_000, "message", {"delivery": delivery(9, "a", "b", "t", "<Ok/>", held=True)}
            ),
            "a → b once joined",
        ),
    ],
)
def test_every_event_has_its_line(entry: LogEntry, shown: str) -> None:
    """The story shows every event of the log."""
    assert shown in printed(story(extra=(entry,)))


def test_only_the_last_end_has_the_value() -> None:
    """A conversation that failed and completed after a replay had another ending first."""
    ends = (
        LogEntry(2_000, "ended", {"text": "error"}),
        LogEntry(3_000, "ended", {"text": "completed"}),
    )
    told = story(extra=ends)
    value = {"type": "Sum", "payload": {"value": 5}, "thread": "t"}
    ended = replace(told.conversation, status=ConversationStatus.COMPLETED, value=value)
    first, last = printed(dataclasses.replace(told, conversation=ended)).splitlines()[-2:]
    assert ("✗ error" in first, "Sum" in first) == (True, False)
    assert ("✓ completed" in last, "Sum value=5" in last) == (True, True)


def test_envelopes_are_shown_on_demand() -> None:
    """Each message gets its own indented envelope."""
    assert "<meta>" not in printed(story())
    assert printed(story(), xml=True).count("<meta>") == 4
