"""`threadloom thread ID`: show one conversation as a call tree and as a timeline."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from threadloom.routing import UnknownConversationError, parse_envelope
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Conversation, Delivery, LogEntry, Thread
from threadloom.routing.states import LogEvent
from threadloom.service.commands.lookup import conversation_about
from threadloom.service.commands.options import AsJson, OrganismOption
from threadloom.service.commands.threads import conversation_data
from threadloom.service.deployment import DEFAULT_FILE, running_registry
from threadloom.service.display import (
    console,
    counted,
    duration,
    element_text,
    ending_text,
    one_word,
    plain,
    pretty_xml,
    print_json,
    status_text,
)

#: log entries read in one round trip
_PAGE = 1_000
#: event name to the words and the style in which the timeline shows it
_HAPPENED: Mapping[str, tuple[str, str]] = {
    LogEvent.NOTE: ("note", "red"),
    LogEvent.ABANDONED: ("abandoned", "yellow"),
    LogEvent.RETRY: ("retry", "yellow"),
    LogEvent.DEAD_LETTER: ("✗ dead letter", "bold red"),
    LogEvent.REPLAYED: ("↻ replayed", "cyan"),
}
#: most child threads of the same name that the tree shows below one thread; it counts the others
_ALIKE = 5


@dataclass(frozen=True, slots=True)
class Story:
    """All data that the registry has of one conversation."""

    conversation: Conversation
    threads: Mapping[str, Thread]
    log: tuple[LogEntry, ...]


def thread(
    conversation: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The conversation, as `threads` lists it, the beginning of its id, or the id of a "
            "message in it.",
        ),
    ],
    organism: OrganismOption = DEFAULT_FILE,
    xml: Annotated[bool, typer.Option("--xml", help="Show every message in full.")] = False,
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=2, metavar="N", help="Lines of a long log; its middle "
        "is left out."),
    ] = 200,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show one conversation: its call tree, and a timeline of its messages and events."""
    with closing(running_registry(organism, os.environ)) as registry:
        story = _read(registry, conversation_about(registry, conversation))
    if as_json:
        print_json(_as_data(story))
        return
    print_story(console(), story, limit=limit, xml=xml)


def _read(registry: SharedBackend, conversation_id: str) -> Story:
    found = registry.conversation(conversation_id)
    if found is None:
        raise UnknownConversationError(conversation_id)
    return Story(found, registry.threads(conversation_id), tuple(_log(registry, conversation_id)))


def _log(registry: SharedBackend, conversation_id: str) -> Iterator[LogEntry]:
    start = 0
    while page := registry.log(conversation_id, start=start, limit=_PAGE):
        yield from page
        start += len(page)


# --- for people ------------------------------------------------------------------------------


def print_story(out: Console, story: Story, *, limit: int, xml: bool) -> None:
    """Print a conversation's facts, its call tree and its timeline.

    If the log has more than `limit` lines, its middle is left out; `xml` adds every envelope.
    """
    out.print(_head(story.conversation))
    out.print()
    out.print(_tree(story))
    out.print()
    _print_timeline(out, story, limit=limit, xml=xml)


def _head(found: Conversation) -> Table:
    began = datetime.fromtimestamp(found.created_ms / 1000).astimezone()
    took = duration(found.updated_ms - found.created_ms)
    counts = counted(found.deliveries, "delivery")
    if found.in_flight:
        counts += f", {found.in_flight} in flight"
    if found.waiting:
        counts += f", {found.waiting} waiting for input"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("conversation", Text(one_word(found.id), "bold"))
    table.add_row("status", Text.assemble(status_text(found.status), (f"  after {took}", "dim")))
    table.add_row("begun", Text(f"{began:%Y-%m-%d %H:%M:%S %Z} by {plain(found.from_id)}"))
    table.add_row("messages", Text(counts))
    if found.value is not None:
        table.add_row("ended with", ending_text(found.status, found.value))
    return table


def _tree(story: Story) -> Tree:
    """Return the call tree: one line per thread, with the number of its messages."""
    messages = Counter(entry.detail["delivery"].thread_id for entry in story.log if _told(entry))
    children: dict[str | None, list[Thread]] = {}
    positions = {id_: position for position, id_ in enumerate(messages)}
    in_order = sorted(story.threads.values(), key=lambda each: positions.get(each.id, -1))
    for each in in_order:
        parent = each.parent_id if each.parent_id in story.threads else None
        children.setdefault(parent, []).append(each)
    top = Tree(Text("call tree", "dim"), guide_style="dim")
    # An explicit stack instead of recursion: a call chain may be deeper than Python's stack.
    open_branches: list[tuple[Tree, str | None]] = [(top, None)]
    while open_branches:
        branch, parent = open_branches.pop()
        alike: Counter[str] = Counter()
        for each in children.get(parent, []):
            alike[each.chain[-1]] += 1
            if alike[each.chain[-1]] <= _ALIKE:
                line = branch.add(_thread_line(each, messages[each.id]))
                open_branches.append((line, each.id))
        for name, count in alike.items():
            if count > _ALIKE:
                branch.add(Text(f"… and {count - _ALIKE} more of {plain(name)}", "dim"))
    return top


def _thread_line(thread: Thread, messages: int) -> Text:
    index = f" [{thread.branch.index}]" if thread.branch else ""
    return Text.assemble(
        (plain(thread.chain[-1]), "bold" if messages else ""),
        index,
        (f"  {counted(messages, 'message')}" if messages else "", "dim"),
        (f"  {thread.id}", "dim"),
    )


def _print_timeline(out: Console, story: Story, *, limit: int, xml: bool) -> None:
    out.print(Text("timeline", "dim"))
    entries = list(story.log)
    left_out = len(entries) - limit
    if left_out > 0:
        head, tail = entries[: limit // 2], entries[len(entries) - (limit - limit // 2) :]
        out.print(_timeline(story, head, xml=xml))
        out.print(Text(f"… {left_out} lines left out; --limit {len(entries)} shows all", "dim"))
        out.print(_timeline(story, tail, xml=xml))
    else:
        out.print(_timeline(story, entries, xml=xml))


def _timeline(story: Story, entries: list[LogEntry], *, xml: bool) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", justify="right", no_wrap=True, min_width=9)
    table.add_column(overflow="fold", max_width=48)
    table.add_column(overflow="fold", ratio=1)
    for entry in entries:
        offset = _offset(entry.at_ms - story.conversation.created_ms)
        table.add_row(offset, *_line(story, entry))
        if xml and _told(entry):
            table.add_row("", "", Text(pretty_xml(entry.detail["delivery"].envelope), "dim"))
    return table


def _offset(ms: int) -> str:
    """Return the time since the conversation began: `+84 ms`, `+3.0 s`, `+1:02:05`."""
    if ms < 60_000:
        return f"+{duration(ms)}" if ms < 10_000 else f"+{ms / 1000:.1f} s"
    return f"+{timedelta(seconds=ms // 1000)}"


def _line(story: Story, entry: LogEntry) -> tuple[Text, Text]:
    """Return the event, and the payload, text or value that belongs to it."""
    detail = entry.detail
    if _told(entry):
        return _message_line(entry.event, detail["delivery"])
    if entry.event == "ended":
        found, status = story.conversation, str(detail["text"])
        # The value of an earlier end, before a replay, is not kept.
        value = found.value if status == found.status else None
        return status_text(status), ending_text(status, value)
    if entry.event == "waiting":
        who = Text.assemble(
            ("◌ ", "yellow"), (plain(str(detail["to"])), "bold"), " waits for input"
        )
        return who, Text(plain(str(detail["prompt"])))
    if entry.event in _HAPPENED:
        word, style = _HAPPENED[entry.event]
        subject = _subject(story, str(detail["id"]))
        about = plain(str(detail.get("text", detail["id"])))
        return Text.assemble((f"{word} ", style), subject), Text(about)
    text = detail.get("text", detail.get("id", ""))
    return Text(entry.event, "dim"), Text(plain(str(text)), "dim")


def _message_line(event: str, delivery: Delivery) -> tuple[Text, Text]:
    way = Text.assemble(
        plain(delivery.from_id), (" → ", "dim"), (plain(delivery.to), "bold"),
        (" too late" if event == LogEvent.LATE else "", "yellow"),
        (" once joined" if delivery.held and event == LogEvent.MESSAGE else "", "dim"),
    )  # fmt: skip
    payload = element_text(parse_envelope(delivery.envelope).payload)
    payload.no_wrap, payload.overflow = True, "ellipsis"  # --xml and --json show it in full
    return way, payload


def _subject(story: Story, delivery_id: str) -> str:
    """Return the listener of a delivery, or the delivery's id if its message is not in the log."""
    for entry in story.log:
        if _told(entry) and entry.detail["delivery"].id == delivery_id:
            return plain(entry.detail["delivery"].to)
    return one_word(delivery_id)


def _told(entry: LogEntry) -> bool:
    """Whether an entry carries its message; of a message that was dropped only the id is left."""
    return isinstance(entry.detail.get("delivery"), Delivery)


# --- for programs ----------------------------------------------------------------------------


def _as_data(story: Story) -> dict[str, Any]:
    return {
        "conversation": conversation_data(story.conversation),
        "threads": [_thread_data(each) for each in story.threads.values()],
        "log": [_entry_data(story, entry) for entry in story.log],
    }


def _thread_data(thread: Thread) -> dict[str, Any]:
    return {
        "id": thread.id,
        "parent": thread.parent_id,
        "chain": thread.chain,
        "branch": thread.branch._asdict() if thread.branch else None,
        "repairs": thread.repairs,
    }


def _entry_data(story: Story, entry: LogEntry) -> dict[str, Any]:
    data: dict[str, Any] = {
        "at_ms": entry.at_ms,
        "offset_ms": entry.at_ms - story.conversation.created_ms,
        "event": entry.event,
    }
    if not _told(entry):
        return {**data, **entry.detail}
    delivery: Delivery = entry.detail["delivery"]
    return {
        **data,
        "id": delivery.id,
        "thread": delivery.thread_id,
        "from": delivery.from_id,
        "to": delivery.to,
        "payload_name": delivery.payload_name,
        "parent": delivery.parent_id,
        "scope": [branch._asdict() for branch in delivery.scope],
        "depth": delivery.depth,
        "envelope": delivery.envelope.decode(),
    }
