"""What one process needs to carry an organism out: the organism, its registry, its name.

There is no global: everything hangs on the Celery app, so two organisms may share a process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from celery import Celery

from threadloom.routing import Organism
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Delivery
from threadloom.routing.store import Published
from threadloom.tasks.overtime import OvertimeBoard

#: a delivery is taken over when its lease was not renewed for so long
LEASE_MS = 4_000
#: lanes of a fan-out: at least, and while no worker has said yet that it is there
LEAST_LANES, UNKNOWN_LANES = 4, 64
#: seconds after which the workers are counted again
LANES_FOR_S = 5.0


#: the two bits that every UUID of this variant has, before two random ones
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Point:
    """The points of a delivery's way between two of its effects, in their order."""

    BEGUN = "begun"
    #: the handler has returned
    HANDLED = "handled"
    COMMITTED = "committed"
    #: after each message of the outbox
    PUBLISHING = "publishing"
    #: the outbox is published, but not cleared
    PUBLISHED = "published"
    #: the outbox is cleared, the message not acknowledged
    CLEARED = "cleared"
    #: Celery has stored the injected task's result and continued its canvas
    RETURNED = "returned"


def new_id() -> str:
    """A random UUID v4, as `str(uuid.uuid4())`, in half the time: a hop takes two."""
    digits = os.urandom(16).hex()
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@dataclass(slots=True)
class Runtime:
    """One organism in one process."""

    organism: Organism
    backend: SharedBackend
    lease_ms: int = LEASE_MS
    #: names this worker as the holder of leases; its pool children share it by forking
    owner: str = field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    )
    #: told when a run has reached a point of its way: (`Point`, the delivery, where that is
    #: known). Tests of what a crash there leaves behind end the process in it; otherwise nobody
    #: listens.
    reached: Callable[[str, Delivery | None], None] = field(default=lambda *_: None, repr=False)
    #: whether task events are sent; set by the worker
    sends_events: bool = False
    #: where a pool process says how long it may take; set by the worker, if it has such a pool
    overtime: OvertimeBoard | None = field(default=None, repr=False)
    #: by queue: when the newest message that this worker received was published, ms since 1970
    newest_ms: dict[str, int] = field(default_factory=dict, repr=False)
    #: published by this process and still to be cleared from the outbox, by conversation
    _uncleared: dict[str, list[str]] = field(default_factory=dict, repr=False)
    #: the messages of one fan-out that keep the workers busy, and when that was found out
    _lanes: int = field(default=0, repr=False)
    _lanes_at: float = field(default=0.0, repr=False)
    _runner: asyncio.Runner | None = field(default=None, repr=False)
    _runner_pid: int = 0

    def clear_later(self, conversation: str, deliveries: Sequence[str]) -> None:
        """Have published deliveries cleared by the next `begin` of this process."""
        if deliveries:
            self._uncleared.setdefault(conversation, []).extend(deliveries)

    def take_uncleared(self) -> Published:
        """What is to be cleared now; the caller does so."""
        taken, self._uncleared = self._uncleared, {}
        return taken

    def lanes(self) -> int:
        """How many messages of one fan-out keep all workers busy; looked up every few seconds."""
        if not self._lanes or time.monotonic() - self._lanes_at > LANES_FOR_S:
            processes = self.backend.processes()
            # One that each process runs and one that it finds when it is done.
            self._lanes = max(2 * processes, LEAST_LANES) if processes else UNKNOWN_LANES
            self._lanes_at = time.monotonic()
        return self._lanes

    @property
    def runner(self) -> asyncio.Runner:
        """This process's event loop for async handlers, kept between deliveries."""
        if self._runner is None or self._runner_pid != os.getpid():
            self._runner, self._runner_pid = asyncio.Runner(), os.getpid()
        return self._runner

    def discard_runner(self) -> None:
        """Drop an event loop that a timeout broke out of; the next delivery gets a new one."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None


def runtime_of(app: Celery) -> Runtime:
    """The runtime `create_app` put on the app. Raises TypeError for any other app."""
    runtime = getattr(app, "threadloom", None)
    if not isinstance(runtime, Runtime):
        raise TypeError("this Celery app was not made by tasks.create_app")
    return runtime
