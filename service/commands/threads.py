"""`threadloom threads`: list the conversations, newest first, page by page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from itertools import islice
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from threadloom.routing import UnknownConversationError
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Conversation
from threadloom.routing.states import ConversationStatus
from threadloom.service.commands.options import AsJson, OrganismOption
from threadloom.service.deployment import DEFAULT_FILE, running_registry
from threadloom.service.display import (
    console,
    duration,
    ending_text,
    one_word,
    plain,
    print_json,
    status_text,
)

#: conversations read in one round trip
_PAGE = 200


def threads(
    organism: OrganismOption = DEFAULT_FILE,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")
    ] = 20,
    status: Annotated[
        ConversationStatus | None, typer.Option("--status", "-s", help="Only those.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="ID", help="Only what is older than this conversation."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the conversations, newest first."""
    with closing(running_registry(organism, os.environ)) as registry:
        matching = (c for c in _newest_first(registry, before, limit) if status in (None, c.status))
        # One more than is shown is read, to know whether there is another page. Filtering by
        # status may take long, so a spinner is shown.
        with console(stderr=True).status("looking …") if status else nullcontext():
            found = list(islice(matching, limit + 1))
    page, more = found[:limit], len(found) > limit
    if as_json:
        last = page[-1].id if more else None
        print_json({"conversations": [conversation_data(c) for c in page], "next_before": last})
        return
    out = console()
    if not page:
        out.print(Text("no conversations" + (" like that" if status or before else " yet"), "dim"))
        return
    out.print(_table(page))
    if more:
        out.print(Text(f"older ones: --before {one_word(page[-1].id)}", "dim"))


def conversation_data(found: Conversation) -> dict[str, Any]:
    """Return a conversation for JSON."""
    return {
        "id": found.id,
        "status": found.status.value,
        "entry": found.entry,
        "from": found.from_id,
        "created_ms": found.created_ms,
        "updated_ms": found.updated_ms,
        "deliveries": found.deliveries,
        "in_flight": found.in_flight,
        "waiting": found.waiting,
        "value": found.value,
    }


def _newest_first(
    registry: SharedBackend, before: str | None, limit: int
) -> Iterator[Conversation]:
    position: tuple[int, str] | None = None
    if before is not None:
        last = registry.conversation(before)
        if last is None:
            raise UnknownConversationError(before)
        position = (last.created_ms, last.id)
    size = min(limit + 1, _PAGE)
    while page := registry.conversations(limit=size, before=position):
        yield from page
        position = (page[-1].created_ms, page[-1].id)
        if len(page) < size:
            return
        size = _PAGE


def _table(page: list[Conversation]) -> Table:
    now_ms = time.time() * 1000
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("conversation", no_wrap=True)
    table.add_column("entry")
    table.add_column("status", no_wrap=True)
    table.add_column("deliveries", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("value", ratio=1)
    for each in page:
        table.add_row(
            Text(one_word(each.id)),
            Text(plain(each.entry), "bold", no_wrap=True, overflow="ellipsis"),
            status_text(each.status),
            f"{each.deliveries}, {each.in_flight} in flight"
            if each.in_flight
            else str(each.deliveries),
            duration(now_ms - each.created_ms),
            _short(ending_text(each.status, each.value)),
        )
    return table


def _short(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
