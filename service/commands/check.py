"""`threadloom check`: list the problems that would prevent a start, without starting."""

from __future__ import annotations

import os

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from threadloom.config import ConfigurationError
from threadloom.routing import Listener, Organism
from threadloom.service.commands.options import INVALID, AsJson, OrganismArgument
from threadloom.service.deployment import DEFAULT_FILE, examine
from threadloom.service.display import console, counted, duration, one_line, plain, print_json


def check(organism: OrganismArgument = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Check an organism file: list every problem that prevents a start, each with its place."""
    try:
        _, found = examine(organism, os.environ)
    except ConfigurationError as exc:
        if not as_json:
            raise
        problems = [problem._asdict() for problem in exc.problems]
        print_json({"ok": False, "source": str(organism), "problems": problems})
        raise typer.Exit(INVALID) from exc
    if as_json:
        print_json({"ok": True, "source": str(organism), **_as_data(found)})
        return
    own = [entry for entry in found.listeners.values() if not entry.system]
    out = console()
    out.print(
        Text.assemble(
            ("✓ ", "green"), (plain(found.name), "bold"),
            f" can start: {counted(len(own), 'listener')} in {plain(str(organism))}, ",
            "served from ", (counted_queues(found), "cyan"),
        )
    )  # fmt: skip
    out.print(listener_table(own))


def counted_queues(organism: Organism) -> str:
    """Return the names of the organism's queues: `queue desk`, `queues desk, slow`."""
    names = ", ".join(map(plain, organism.queues))
    return f"{'queue' if len(organism.queues) == 1 else 'queues'} {names}"


def listener_table(listeners: list[Listener]) -> Table:
    """Return a table of the listeners: payloads, peers, time limit and description."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("listener", "takes", "may call", "time limit", "description"):
        table.add_column(title, overflow="fold")
    for entry in listeners:
        table.add_row(
            Text(plain(entry.name), "bold"),
            Text(", ".join(entry.accepts), "cyan"),
            _peers(entry),
            duration(entry.timeout_s * 1000),
            Text(one_line(entry.description)),
        )
    return table


def _peers(entry: Listener) -> Text:
    if entry.peers is None:
        return Text("anybody", "dim")
    return Text(", ".join(map(plain, entry.peers))) if entry.peers else Text("nobody", "dim")


def _as_data(organism: Organism) -> dict[str, object]:
    return {
        "organism": organism.name,
        "queue": organism.own_queue,
        "listeners": [
            {
                "name": entry.name,
                "description": entry.description,
                "accepts": [kind.path for kind in entry.accepts.values()],
                "replies": [kind.path for kind in entry.replies.values()],
                "agent": entry.agent,
                "peers": entry.peers,
                "queue": organism.queue_of(entry.name),
                "timeout_seconds": entry.timeout_s,
                "system": entry.system,
            }
            for entry in organism.listeners.values()
        ],
    }
