"""The leases of what a worker's pool is running, kept for as long as it runs.

In a thread of their own rather than on the worker's timer, which stands still just when a
lease matters most: while the main process waits for a broker that is away, and during a warm
shutdown, when the pool is drained. A process that is stopped or gone renews nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from celery.worker import state
from celery.worker.request import Request

from threadloom.config import RegistryUnavailableError
from threadloom.tasks.listener import ListenerTask
from threadloom.tasks.request import turns_of
from threadloom.tasks.runtime import Runtime

logger = logging.getLogger(__name__)

#: three chances before a lease expires
RENEWALS_PER_LEASE = 3


class LeaseKeeper:
    """Renews the leases of one worker, from `start` until it is told to finish and all is done."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._renew_s = runtime.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._finishing = threading.Event()

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        threading.Thread(target=self._keep, name="threadloom-leases", daemon=True).start()

    def finish(self) -> None:
        """End once nothing runs any more; nothing new is begun by now."""
        self._finishing.set()

    def _keep(self) -> None:
        while not self._finishing.wait(self._renew_s):
            renew(self._runtime, _deliveries())
        while running := _deliveries():
            renew(self._runtime, running)
            time.sleep(self._renew_s)


def renew(runtime: Runtime, requests: Iterable[Request]) -> None:
    """Extend the leases of these deliveries; those that this worker does not hold are left."""
    leases = [turn for request in requests for turn in turns_of(request)]
    if not leases:
        return
    try:
        runtime.backend.renew(leases, owner=runtime.owner, lease_ms=runtime.lease_ms)
    except RegistryUnavailableError as exc:
        logger.warning("leases.not_renewed count=%d reason=%s", len(leases), exc)


def listener_requests(*known: Iterable[Request]) -> set[Request]:
    """Those of Celery's sets of a worker's requests that are for listeners.

    The sets may change in another thread meanwhile.
    """
    while True:
        try:
            requests = {request for some in known for request in some}
        except RuntimeError:
            continue  # one of them changed while it was read
        return {request for request in requests if isinstance(request.task, ListenerTask)}


def _deliveries() -> set[Request]:
    """What this worker runs or is about to run, of ours."""
    return listener_requests(state.active_requests, state.reserved_requests)
