"""`threadloom dead-letters`: list, show, replay or drop deliveries that failed for good."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from msgspec import to_builtins
from rich import box
from rich.table import Table
from rich.text import Text

from threadloom import tasks
from threadloom.config import PermanentError
from threadloom.routing import parse_envelope
from threadloom.routing.backends import SharedBackend
from threadloom.routing.gate import Refused
from threadloom.routing.payloads import canonical
from threadloom.routing.records import DeadLetter
from threadloom.service.commands.lookup import only_match
from threadloom.service.commands.moments import moment_ms
from threadloom.service.commands.options import INVALID, AsJson, OrganismOption
from threadloom.service.deployment import DEFAULT_FILE, running_app, running_registry
from threadloom.service.display import (
    console,
    counted,
    duration,
    element_text,
    error_text,
    one_word,
    plain,
    pretty_xml,
    print_json,
    status_text,
)

app = typer.Typer(
    name="dead-letters",
    help="Deliveries whose handlers failed for good: look at them, replay or drop them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: dead letters read in one round trip
_PAGE = 200

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID]", help="Deliveries, as `list` lists them, or the beginnings of their ids."
    ),
]
All = Annotated[bool, typer.Option("--all", help="All that there are now.")]
#: the options that select dead letters by what they are
_SELECTING = "--to or --since"


class NoDeadLetterError(PermanentError):
    """No dead letter has this delivery id."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id

    def __str__(self) -> str:
        return f"no dead letter {self.delivery_id}"


# --- looking ---------------------------------------------------------------------------------


@app.command("list")
def list_(
    organism: OrganismOption = DEFAULT_FILE,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")
    ] = 20,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="ID", help="Only what failed before this delivery."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the deliveries that failed for good, and the messages that were refused."""
    with closing(running_registry(organism, os.environ)) as registry:
        position = _find(registry, before).position if before is not None else None
        # One more than is shown is read, to know whether there is another page.
        found = list(islice(_newest_first(registry, limit + 1, position), limit + 1))
        refused = registry.refused()[:limit] if before is None else []
    page, more = found[:limit], len(found) > limit
    if as_json:
        last = page[-1].delivery.id if more else None
        letters = [letter_data(each) for each in page]
        put_aside = [to_builtins(each) for each in refused]
        print_json({"dead_letters": letters, "next_before": last, "refused_messages": put_aside})
        return
    out = console()
    if refused:
        out.print(Text("messages that were refused, and are no deliveries", "dim"))
        out.print(_refused_table(refused))
    if not page and refused:
        return
    if not page:
        out.print(Text("no dead letters" if before is None else "no older ones", "dim"))
        return
    out.print(_table(page))
    if more:
        out.print(Text(f"older ones: --before {one_word(page[-1].delivery.id)}", "dim"))


@app.command()
def show(
    delivery: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The delivery, as `list` lists it, or the beginning of its id."
        ),
    ],
    organism: OrganismOption = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its place, its payload, and the error that its handler raised."""
    with closing(running_registry(organism, os.environ)) as registry:
        refused = next((each for each in registry.refused() if each.id == delivery), None)
        if refused is not None:
            _print_refused(refused, as_json=as_json)
            return
        letter = _find(registry, delivery)
        thread = registry.thread(letter.conversation_id, letter.delivery.thread_id)
        found = registry.conversation(letter.conversation_id)
    chain = list(thread.chain) if thread else []
    status = found.status.value if found else ""
    if as_json:
        whole = {**letter_data(letter), "chain": chain, "status": status}
        print_json({**whole, "envelope": letter.delivery.envelope.decode()})
        return
    _print_letter(letter, chain, status)


def letter_data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter for JSON; `error` is the exception that its handler raised."""
    delivery = letter.delivery
    return {
        "id": delivery.id,
        "conversation": letter.conversation_id,
        "thread": delivery.thread_id,
        "from": delivery.from_id,
        "to": delivery.to,
        "payload_name": delivery.payload_name,
        "scope": [branch._asdict() for branch in delivery.scope],
        "at_ms": letter.at_ms,
        "attempts": letter.attempts,
        "error": letter.reason,
    }


def _newest_first(
    registry: SharedBackend, limit: int | None = None, before: str | None = None
) -> Iterator[DeadLetter]:
    size = min(limit or _PAGE, _PAGE)
    while page := registry.dead_letters(limit=size, before=before):
        yield from page
        before = page[-1].position


def _find(registry: SharedBackend, delivery_id: str) -> DeadLetter:
    """Return the dead letter with this id or, if there is none, the only one that begins so."""
    alike: dict[str, DeadLetter] = {}

    def ids() -> Iterator[str]:
        for letter in _newest_first(registry):
            if letter.delivery.id.startswith(delivery_id):
                alike[letter.delivery.id] = letter
                yield letter.delivery.id

    found = only_match(delivery_id, ids())
    if found is None:
        raise NoDeadLetterError(delivery_id)
    return alike[found]


def _table(page: list[DeadLetter]) -> Table:
    now_ms = time.time() * 1000
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("delivery", no_wrap=True)
    table.add_column("listener")
    table.add_column("payload", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("error", no_wrap=True, overflow="ellipsis", ratio=2)
    for each in page:
        table.add_row(
            Text(one_word(each.delivery.id)),
            Text(plain(each.delivery.to), "bold", no_wrap=True, overflow="ellipsis"),
            element_text(parse_envelope(each.delivery.envelope).payload),
            str(each.attempts),
            duration(now_ms - each.at_ms),
            error_text(each.reason),
        )
    return table


def _refused_table(refused: Sequence[Refused]) -> Table:
    now_ms = time.time() * 1000
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("refused", no_wrap=True)
    table.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("cause", no_wrap=True, overflow="ellipsis", ratio=3)
    for each in refused:
        age = duration(now_ms - each.at_ms)
        table.add_row(Text(plain(each.id)), Text(plain(each.task)), age, error_text(each.cause))
    return table


def _print_refused(refused: Refused, *, as_json: bool) -> None:
    if as_json:
        print_json(to_builtins(refused))
        return
    when = datetime.fromtimestamp(refused.at_ms / 1000).astimezone()
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("refused", Text(plain(refused.id), "bold"))
    table.add_row("at", Text(f"{when:%Y-%m-%d %H:%M:%S %Z}"))
    table.add_row("queue", Text(plain(refused.queue)))
    table.add_row("task", Text(plain(refused.task)))
    table.add_row("message", Text(plain(refused.message_id)))
    table.add_row("cause", Text(plain(refused.cause), "red"))
    table.add_row("began", Text(plain(refused.excerpt)))
    console().print(table)


def _print_letter(letter: DeadLetter, chain: list[str], status: str) -> None:
    delivery = letter.delivery
    failed = datetime.fromtimestamp(letter.at_ms / 1000).astimezone()
    way = " → ".join(map(plain, chain)) or f"{plain(delivery.from_id)} → {plain(delivery.to)}"
    branches = "".join(f" [{branch.index}]" for branch in delivery.scope)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("delivery", Text(one_word(delivery.id), "bold"))
    table.add_row("failed", Text(f"{failed:%Y-%m-%d %H:%M:%S %Z}"))
    table.add_row("attempts", str(letter.attempts))
    table.add_row("place", Text(f"{way}{branches}"))
    table.add_row("from", Text(plain(delivery.from_id)))
    table.add_row("thread", Text(plain(delivery.thread_id)))
    table.add_row(
        "conversation", Text.assemble(one_word(letter.conversation_id), "  ", status_text(status))
    )
    payload = parse_envelope(delivery.envelope).payload
    out = console()
    out.print(table)
    out.print(Text("\npayload", "dim"))
    out.print(Text(pretty_xml(canonical(payload))), soft_wrap=True)
    out.print(Text("\nerror", "dim"))
    out.print(Text(plain(letter.reason), "red"), soft_wrap=True)


# --- doing -----------------------------------------------------------------------------------


@app.command()
def replay(
    deliveries: Ids = None,
    everything: All = False,
    listener: Annotated[
        str | None,
        typer.Option("--to", metavar="LISTENER", help="All dead letters of this listener."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME",
            help="All that failed at this time or later: 2026-11-25T09:00, or 2h for two hours "
            "ago.",
        ),
    ] = None,
    organism: OrganismOption = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run dead letters again, with all their retries, after their cause is fixed.

    With both --to and --since, those for which both are true. A conversation that had ended with
    an error continues, and its sender can read its value.
    """
    selects = listener is not None or since is not None
    if selects and (deliveries or everything):
        raise typer.BadParameter("cannot be combined with an ID or --all", param_hint=_SELECTING)
    _check(deliveries, everything or selects)
    from_ms = 0 if since is None else moment_ms(since, datetime.now().astimezone(), "--since")
    with closing(running_app(organism, os.environ)) as celery:
        registry = tasks.runtime_of(celery).backend

        def run_again(letter: DeadLetter) -> bool:
            return tasks.replay_dead_letter(celery, letter.conversation_id, letter.delivery.id)

        def is_meant(letter: DeadLetter) -> bool:
            return letter.at_ms >= from_ms and listener in (None, letter.delivery.to)

        done = _each(registry, deliveries, run_again, is_meant)
    _tell(*done, what="replayed", as_json=as_json)


@app.command()
def drop(
    deliveries: Ids = None,
    everything: All = False,
    organism: OrganismOption = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters and refused messages; conversations and logs are not changed."""
    _check(deliveries, everything)
    with closing(running_registry(organism, os.environ)) as registry:
        gone = [
            each.id
            for each in registry.refused()
            if (everything or each.id in (deliveries or ())) and registry.drop_refused(each.id)
        ]
        rest = [name for name in deliveries or () if name not in gone]

        def forget(letter: DeadLetter) -> bool:
            return registry.drop(letter.conversation_id, letter.delivery.id)

        done, refused = _each(registry, rest, forget) if rest or everything else ([], {})
    _tell(gone + done, refused, what="dropped", as_json=as_json)


def _check(deliveries: list[str] | None, everything: bool) -> None:
    if bool(deliveries) == everything:
        raise typer.BadParameter("name deliveries, or all of them", param_hint="ID or --all")


def _each(
    registry: SharedBackend,
    deliveries: list[str] | None,
    act: Callable[[DeadLetter], bool],
    is_meant: Callable[[DeadLetter], bool] = lambda _: True,
) -> tuple[list[str], dict[str, PermanentError]]:
    """Act on the named dead letters, or on all that are meant.

    Returns the ids done, and the errors by id.
    """
    # Read all of them first: a replayed dead letter may fail at once and become a new one.
    known = {each.delivery.id: each for each in _newest_first(registry) if is_meant(each)}
    done: list[str] = []
    refused: dict[str, PermanentError] = {}
    for name in dict.fromkeys(deliveries or known):
        try:
            found = only_match(name, known)
            if found is None or not act(known[found]):
                raise NoDeadLetterError(name)
            done.append(found)
        except PermanentError as exc:
            refused[name] = exc
    return done, refused


def _tell(done: list[str], refused: dict[str, PermanentError], *, what: str, as_json: bool) -> None:
    if as_json:
        reasons = [{"id": name, "reason": str(exc)} for name, exc in refused.items()]
        print_json({what: done, "refused": reasons})
    else:
        many = counted(len(done), "dead letter")
        console().print(Text(f"{what} {many}" if done else "no dead letters"))
        for exc in refused.values():
            line = Text.assemble(("Error: ", "bold red"), plain(str(exc)))
            console(stderr=True).print(line, soft_wrap=True)
    if refused:
        raise typer.Exit(INVALID)
