"""`threadloom send`: start a conversation and, on request, wait for its value."""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from celery import Celery
from kombu.exceptions import OperationalError
from rich.highlighter import JSONHighlighter
from rich.text import Text

from threadloom import tasks
from threadloom.config import PermanentError
from threadloom.routing import InvalidEnvelopeError, Listener, UnknownConversationError
from threadloom.routing.records import Conversation
from threadloom.routing.states import ConversationStatus
from threadloom.service.commands.options import (
    FAILED,
    INTERRUPTED,
    NOT_IN_TIME,
    AsJson,
    OrganismOption,
)
from threadloom.service.deployment import DEFAULT_FILE, running_app
from threadloom.service.display import (
    console,
    counted,
    duration,
    ending_text,
    one_word,
    plain,
    print_json,
)

#: seconds between two reads of the registry
_LOOK_S = 0.1
#: seconds within which a running worker answers a ping
_PING_S = 1.0
_FINAL = (ConversationStatus.COMPLETED, ConversationStatus.ERROR, ConversationStatus.KILLED)


class SendError(PermanentError):
    """The message cannot be sent; the text gives the reason."""


def send(
    listener: Annotated[str, typer.Argument(metavar="LISTENER", help="Who gets it.")],
    payload: Annotated[
        str,
        typer.Argument(
            metavar="PAYLOAD",
            help="JSON or XML; [bold]@FILE[/bold] reads a file, [bold]-[/bold] standard input.",
        ),
    ],
    organism: OrganismOption = DEFAULT_FILE,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the value.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", "-t", min=0, metavar="S", help="Seconds to wait at most."),
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Sent twice under one id, it happens once."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to a listener, which starts a conversation.

    Prints the conversation's id or, with --wait, the value that it ends with.

    Example: threadloom send clerk '{"number": 41}' --wait
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("is of use with --wait only", param_hint="--timeout")
    if conversation is not None and not conversation.strip():
        raise typer.BadParameter("must not be blank", param_hint="--id")
    text = _read(payload)
    with closing(running_app(organism, os.environ)) as app:
        started = _injected(app, _listener(app, listener), text, conversation)
        if wait:
            raise typer.Exit(_show(app, _ended(app, started, timeout), as_json=as_json))
    if as_json:
        print_json({"conversation": started})
    else:
        print(one_word(started))


def _read(payload: str) -> str:
    try:
        if payload == "-":
            if sys.stdin is None:
                raise SendError("standard input is closed: there is no payload to read")
            data = sys.stdin.buffer.read()
        elif payload.startswith("@"):
            data = Path(payload[1:]).read_bytes()
        else:
            return payload
        return data.decode("utf-8-sig")
    except OSError as exc:
        name = payload[1:] or "standard input"
        raise SendError(f"{name}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise SendError(f"the payload is not UTF-8 text: see byte {exc.start}") from exc


def _listener(app: Celery, name: str) -> Listener:
    listeners = tasks.runtime_of(app).organism.listeners
    if name in listeners:
        return listeners[name]
    near = difflib.get_close_matches(name, listeners, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(listeners)}"
    raise SendError(f"there is no listener {name!r}; {hint}")


def _parsed(text: str, listener: Listener) -> Any:
    """Return the payload in a form that `threadloom.inject` accepts: a mapping, or XML text."""
    if text.lstrip().startswith("<"):
        return text
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as exc:
        if listener.repair:
            return text  # XML with other text around it, as a language model writes it
        raise SendError(_refusal(f"it is neither JSON ({exc}) nor XML", listener)) from exc
    if isinstance(value, dict):
        return value
    raise SendError(_refusal("JSON has to be an object with the fields of a class", listener))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, in which Python would let the last of two equal keys win."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"the key {twice!r} stands there twice")
    return values


def _injected(app: Celery, target: Listener, text: str, conversation_id: str | None) -> str:
    """Start the conversation and return its id."""
    try:
        payload = _parsed(text, target)
        return str(tasks.inject(app, target.name, payload, conversation_id=conversation_id).id)
    except InvalidEnvelopeError as exc:
        raise SendError(_refusal("; ".join(exc.faults), target)) from exc


def _refusal(reason: str, listener: Listener) -> str:
    usage = "\n\n".join(kind.usage for kind in listener.accepts.values())
    return f"{listener.name} does not take this payload: {reason}\n\n{usage}"


# --- waiting ---------------------------------------------------------------------------------


def _ended(app: Celery, conversation_id: str, timeout_s: float | None) -> Conversation:
    """Return the conversation once it has ended, or in its state when the timeout is reached.

    This polls the registry, which also has the progress. Waiting for Celery's result would
    notice the end only once a second, and never if the organism's results are stored elsewhere.
    """
    deadline_s = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    err = console(stderr=True)
    waits = False
    try:
        with err.status("") as progress:
            while True:
                found = _look(app, conversation_id)
                left_s = deadline_s - time.monotonic()
                if found.status in _FINAL or left_s <= 0:
                    return found
                if found.status is ConversationStatus.WAITING and not waits:
                    err.print(
                        f"it waits for input; see `threadloom thread {one_word(conversation_id)}`"
                    )
                waits = found.status is ConversationStatus.WAITING
                progress.update(_progress(found))
                time.sleep(min(_LOOK_S, left_s))
    except KeyboardInterrupt:
        err.print(f"it goes on; see `threadloom thread {one_word(conversation_id)}`")
        raise typer.Exit(INTERRUPTED) from None


def _look(app: Celery, conversation_id: str) -> Conversation:
    found = tasks.runtime_of(app).backend.conversation(conversation_id)
    if found is None:
        raise UnknownConversationError(conversation_id)
    return found


def _progress(found: Conversation) -> Text:
    elapsed_ms = time.time() * 1000 - found.created_ms
    return Text(
        f"{plain(found.entry)}: {counted(found.deliveries, 'delivery')}, "
        f"{found.in_flight} in flight, {duration(elapsed_ms)}"
    )


def _show(app: Celery, found: Conversation, *, as_json: bool) -> int:
    """Print a conversation's value, error or state, and return the exit status."""
    completed = found.status is ConversationStatus.COMPLETED
    ended = found.status in _FINAL
    if as_json:
        value, error = (found.value, None) if completed else (None, found.value)
        print_json(
            {"conversation": found.id, "status": found.status, "value": value, "error": error}
        )
    elif completed:
        _print_value(found.value)
    if ended and not completed and not as_json:
        text = ending_text(found.status, found.value)
        look = Text(f"\nsee `threadloom thread {one_word(found.id)}`", "dim")
        console(stderr=True).print(Text.assemble(("Failed: ", "bold red"), text, look))
    if not ended:
        _tell_not_in_time(app, found)
        return NOT_IN_TIME
    return 0 if completed else FAILED


def _tell_not_in_time(app: Celery, found: Conversation) -> None:
    hint = "" if _worker_answers(app) else "; no worker answers, is one running?"
    console(stderr=True).print(
        Text.assemble(
            ("Not in time: ", "bold yellow"),
            f"it is {found.status}, with {counted(found.deliveries, 'delivery')} so far and "
            f"{found.in_flight} in flight{hint}",
            Text(f"\nit goes on; see `threadloom thread {one_word(found.id)}`", "dim"),
        )
    )


def _worker_answers(app: Celery) -> bool:
    if not app.conf.worker_enable_remote_control:
        return True  # without remote control a running worker does not answer either
    try:
        return bool(app.control.ping(timeout=_PING_S, limit=1))
    except OperationalError:
        return False


def _print_value(value: Mapping[str, Any] | None) -> None:
    out = console()
    if value is None:
        out.print(Text("completed without a value", "dim"))
        return
    payload = value["payload"]
    shown = (
        payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, indent=2)
    )
    text = Text(plain(shown))
    out.print(Text(plain(value["type"]), "bold"))
    out.print(text if isinstance(payload, str) else JSONHighlighter()(text), soft_wrap=True)
    if "huh" in value:
        out.print(Text(f"repaired: {plain(value['huh'])}", "yellow"))
