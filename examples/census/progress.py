"""How far a census is, told while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from threadloom.primitives import BUFFER
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import JoinState

#: log entries within which the first item of the buffer stands
_FIRST_ENTRIES = 20


class Watch:
    """Looks at the open buffer of one conversation; a look costs one round trip."""

    def __init__(self, backend: SharedBackend, conversation_id: str) -> None:
        self._backend = backend
        self._conversation = conversation_id
        self._join: str | None = None

    def look(self) -> JoinState | None:
        """The buffer with its counts, or None before it was started."""
        if self._join is None:
            self._join = self._find()
        state = self._backend.join(self._conversation, self._join) if self._join else None
        # Nothing is inside of a buffer without items: what is found then is the sequence.
        return state if state and state.join.kind == BUFFER else None

    def _find(self) -> str | None:
        """The first message that is inside of a join says which one it is."""
        for entry in self._backend.log(self._conversation, limit=_FIRST_ENTRIES):
            delivery = entry.detail.get("delivery")
            if delivery is not None and delivery.scope:
                return str(delivery.scope[0].join_id)
        return None


class Display(Protocol):
    """Shows progress."""

    def update(self, state: JoinState | None) -> None:
        """Show how many items have answered; None: there are none yet."""


@contextlib.contextmanager
def display(console: Console) -> Iterator[Display]:
    """The display that suits the console, for as long as the body runs."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        yield _Bar(progress)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, failed="")

    def update(self, state: JoinState | None) -> None:
        if state is None:
            return
        self._progress.update(
            self._task,
            description="ranking and rendering" if state.fired else "measuring",
            total=state.join.total,
            completed=state.ok + state.failed,
            failed=f"[red]{state.failed} failed" if state.failed else "",
        )


class _Lines:
    """A line for the start and for each tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tenths = -1

    def update(self, state: JoinState | None) -> None:
        if state is None:
            return
        done, total = state.ok + state.failed, state.join.total
        tenths = 10 * done // total
        if tenths > self._tenths:
            self._tenths = tenths
            failed = f", {state.failed} failed" if state.failed else ""
            self._console.print(f"measured {done} of {total} files{failed}", highlight=False)
