"""The state of one organism in one process: the organism, its registry, the worker's name.

There is no global state: everything is attached to the Celery app, so that two organisms may
share a process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from celery import Celery

from threadloom.config import RegistryUnavailableError
from threadloom.routing import Organism
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Delivery
from threadloom.routing.store import Published
from threadloom.tasks.arrivals import Arrivals
from threadloom.tasks.overtime import OvertimeBoard
from threadloom.tasks.unbegun import Unbegun
from threadloom.tasks.unfailing import SetAside

#: ms without renewal after which a lease expires and its delivery is taken over
LEASE_MS = 4_000
#: lanes of a fan-out: the minimum, and the number while no worker has announced itself
LEAST_LANES, UNKNOWN_LANES = 4, 64
#: seconds for which a count of the workers is used
LANES_FOR_S = 5.0
#: seconds for which a reading of the registry's clock is used
CLOCK_FOR_S = 60.0


#: maps a random hex digit to a UUID variant digit: the bits 10, then two random bits
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Point:
    """The points between two effects of a delivery, in their order; see `Runtime.reached`."""

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
    """Return a random UUID v4 like `str(uuid.uuid4())` in half the time; a hop needs two ids."""
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
    #: called when a turn reaches a `Point`, with the point and the delivery, if that is known.
    #: Tests use it to kill the process there; otherwise it does nothing.
    reached: Callable[[str, Delivery | None], None] = field(default=lambda *_: None, repr=False)
    #: whether task events are sent; set by the worker
    sends_events: bool = False
    #: deadlines of the pool's processes; set by the worker if its pool forks processes
    overtime: OvertimeBoard | None = field(default=None, repr=False)
    #: how far this worker has come in each queue
    arrivals: Arrivals = field(default_factory=Arrivals, repr=False)
    #: what this worker remembers of messages that nobody has begun
    unbegun: Unbegun = field(default_factory=Unbegun, repr=False)
    #: ms by which the registry's clock is ahead of the monotonic one, and when that was read
    _clock_ahead_ms: float | None = field(default=None, repr=False)
    _clock_read_at: float = field(default=0.0, repr=False)
    #: overdue items that could not be reclaimed or published
    set_aside: SetAside = field(default_factory=SetAside, repr=False)
    #: conversation to its deliveries that are published and not yet cleared from the outbox
    _uncleared: dict[str, list[str]] = field(default_factory=dict, repr=False)
    #: the number of lanes of one fan-out, and the monotonic s at which it was determined
    _lanes: int = field(default=0, repr=False)
    _lanes_at: float = field(default=0.0, repr=False)
    #: the event loop of each thread, with the pid of the process that made it
    _runners: threading.local = field(default_factory=threading.local, repr=False)
    _format_is_known: bool = field(default=False, repr=False)

    def process(self, pid: int | str) -> str:
        """Name one of this worker's processes as the owner of the leases of its turns."""
        return f"{self.owner}/{pid}"

    def new_turn(self) -> str:
        """Name a turn of this process as the owner of its leases."""
        return f"{self.process(os.getpid())}/{os.urandom(4).hex()}"

    def require_format(self) -> None:
        """Check, once, that this version of Threadloom can work with the registry.

        Raises RegistryFormatError if it cannot, RegistryUnavailableError if it is not known yet.
        """
        if not self._format_is_known:
            self.backend.check_format()
            self._format_is_known = True

    def registry_ms(self) -> int:
        """Return the time by the registry's clock, which is asked once a minute.

        In between the monotonic clock goes on, which nobody sets. Raises RegistryUnavailableError
        if the registry was never asked and does not answer.
        """
        now = time.monotonic()
        if self._clock_ahead_ms is None or now - self._clock_read_at > CLOCK_FOR_S:
            try:
                told_ms = self.backend.now_ms()
            except RegistryUnavailableError:
                if self._clock_ahead_ms is None:
                    raise
            else:
                self._clock_ahead_ms = told_ms - time.monotonic() * 1000
            self._clock_read_at = now
        return round(time.monotonic() * 1000 + self._clock_ahead_ms)

    def clear_later(self, conversation_id: str, deliveries: Sequence[str]) -> None:
        """Leave the clearing of published deliveries to the next `begin` of this process."""
        if deliveries:
            self._uncleared.setdefault(conversation_id, []).extend(deliveries)

    def take_uncleared(self) -> Published:
        """Return and forget the deliveries to clear; the caller clears them."""
        taken, self._uncleared = self._uncleared, {}
        return taken

    def lanes(self) -> int:
        """Return how many messages of one fan-out keep all workers busy; cached for LANES_FOR_S."""
        if not self._lanes or time.monotonic() - self._lanes_at > LANES_FOR_S:
            processes = self.backend.processes()
            # Per process: one message that it runs, and one that is ready when it has finished.
            self._lanes = max(2 * processes, LEAST_LANES) if processes else UNKNOWN_LANES
            self._lanes_at = time.monotonic()
        return self._lanes

    @property
    def runner(self) -> asyncio.Runner:
        """This thread's event loop for async handlers.

        It lives as long as the process: modules keep clients that belong to it. A forked process
        has none of its parent's.
        """
        known: tuple[int, asyncio.Runner] | None = getattr(self._runners, "known", None)
        if known is None or known[0] != os.getpid():
            known = self._runners.known = (os.getpid(), asyncio.Runner())
        return known[1]


def runtime_of(app: Celery) -> Runtime:
    """Return the runtime that `create_app` or `attach` set on the app; else TypeError."""
    runtime = getattr(app, "threadloom", None)
    if not isinstance(runtime, Runtime):
        raise TypeError("this Celery app was not made by tasks.create_app")
    return runtime
