"""`threadloom send`: start a conversation, and read what comes of it."""

from __future__ import annotations

import difflib
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from celery import Celery
from celery.exceptions import TimeoutError as ResultTimeoutError
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.syntax import Syntax
from rich.text import Text

import tasks
from config import PermanentError
from routing import Listener
from routing.records import Conversation, ConversationStatus
from service.commands.options import FAILED, INVALID, NOT_IN_TIME, AsJson, OrganismOption
from service.deployment import DEFAULT_FILE, running_app
from service.display import (
    console,
    counted,
    duration,
    ending_text,
    plain,
    print_json,
    status_text,
)

#: seconds between two looks at the registry while the result has not arrived
_LOOK_S = 0.2
_INTERRUPTED = 130


class SendError(PermanentError):
    """What was to be sent cannot be; the text says why."""


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
    """Send a message to a listener: it starts a conversation.

    Prints the conversation's id or, with --wait, the value that it ends with.

    Example: threadloom send clerk '{"number": 41}' --wait
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("is of use with --wait only", param_hint="--timeout")
    if conversation is not None and not conversation.strip():
        raise typer.BadParameter("must not be blank", param_hint="--id")
    text = _read(payload)
    with closing(running_app(organism, os.environ)) as app:
        target = _listener(app, listener)
        result = tasks.inject(app, listener, _parsed(text, target), conversation_id=conversation)
        if wait:
            found = _wait(app, str(result.id), listener, timeout)
            raise typer.Exit(_show(found, str(result.id), as_json=as_json))
    if as_json:
        print_json({"conversation": str(result.id)})
    else:
        print(plain(str(result.id)))


def _read(payload: str) -> str:
    try:
        if payload == "-":
            data = sys.stdin.buffer.read()
        elif payload.startswith("@"):
            data = Path(payload[1:]).read_bytes()
        else:
            return payload
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise SendError(f"{payload[1:]}: cannot be read: {exc.strerror}") from exc
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
    """The payload as `tasks.inject` takes it: a mapping, or XML text."""
    if text.lstrip().startswith("<"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        if listener.repair:
            return text  # whatever a language model wrote around its XML
        example = next((kind.example for kind in listener.accepts.values()), "")
        reason = f"the payload is neither JSON ({exc}) nor XML"
        raise SendError(f"{reason}; {listener.name} takes for example {example}") from exc
    if isinstance(value, dict):
        return value
    raise SendError(f"the payload must be a JSON object with the fields of a class, not {text}")


# --- waiting ---------------------------------------------------------------------------------


def _wait(app: Celery, conversation: str, entry: str, timeout_s: float | None) -> Conversation:
    """The conversation once it has ended, or as it is when the time is over.

    The registry says how it stands; the arrival of Celery's result says when to look.
    """
    backend = tasks.runtime_of(app).backend
    result = app.AsyncResult(conversation)
    started_s = time.monotonic()
    told_waiting = False
    err = console(stderr=True)
    try:
        with err.status("") as progress:
            while True:
                found = backend.conversation(conversation)
                if found is None:
                    raise SendError(f"conversation {conversation} is not in the registry any more")
                waited_s = time.monotonic() - started_s
                if _has_ended(found) or (timeout_s is not None and waited_s >= timeout_s):
                    return found
                if found.status is ConversationStatus.WAITING and not told_waiting:
                    told_waiting = True
                    _say(err, f"it waits for input; see `threadloom thread {conversation}`")
                _update(progress, found, waited_s)
                left_s = _LOOK_S if timeout_s is None else min(_LOOK_S, timeout_s - waited_s)
                _await_result(result, left_s)
    except KeyboardInterrupt:
        _say(err, f"it goes on without you; see `threadloom thread {conversation}`")
        raise typer.Exit(_INTERRUPTED) from None
