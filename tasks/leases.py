"""Renewal of the leases of the deliveries that a worker's pool is running.

Leases are renewed by a thread of their own and not by the worker's timer. The timer stops just
when leases matter most: while the main process waits for a broker that does not answer, and during
a warm shutdown, when the pool is drained. A stopped or killed process renews nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from celery.worker import state
from celery.worker.request import Request

from threadloom.tasks.listener import ListenerTask
from threadloom.tasks.request import turns_of
from threadloom.tasks.runtime import Runtime
from threadloom.tasks.unfailing import attempted, unfailing

#: renewals within one lease time, so that a lease survives a failed renewal
RENEWALS_PER_LEASE = 3


class LeaseKeeper:
    """Renews one worker's leases from `start` until `finish` is called and no delivery runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._renew_s = runtime.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._finishing = threading.Event()

    def start(self) -> None:
        """Start renewing, in a thread that does not keep the process alive."""
        threading.Thread(target=self._keep, name="threadloom-leases", daemon=True).start()

    def finish(self) -> None:
        """Stop renewing once no delivery runs; call it when the worker begins no more of them."""
        self._finishing.set()

    def _keep(self) -> None:
        renew_all = unfailing(renew)
        while not self._finishing.wait(self._renew_s):
            renew_all(self._runtime, _deliveries())
        while running := _deliveries():
            renew_all(self._runtime, running)
            time.sleep(self._renew_s)


def renew(runtime: Runtime, requests: Iterable[Request]) -> None:
    """Extend the leases of these deliveries that the processes which run them hold.

    Another process's lease on a conversation of the same message is left to that one. A message
    that no process is known to have begun may have been given to any of this worker's.
    """
    leases: dict[str, list[tuple[str, str]]] = {}
    for request in requests:
        pid = request.worker_pid
        owner = runtime.owner if pid is None else runtime.process(pid)
        attempted(lambda r=request, o=owner: leases.setdefault(o, []).extend(turns_of(r)))  # type: ignore[misc]
    for owner, turns in leases.items():
        if turns:
            attempted(runtime.backend.renew, turns, owner=owner, lease_ms=runtime.lease_ms)


def listener_requests(*known: Iterable[Request]) -> set[Request]:
    """Return the requests for listeners from Celery's sets of a worker's requests.

    Another thread may change the sets while they are read.
    """
    while True:
        try:
            requests = {request for some in known for request in some}
        except RuntimeError:
            continue  # a set changed while it was read
        return {request for request in requests if isinstance(request.task, ListenerTask)}


def _deliveries() -> set[Request]:
    """Return this worker's active and reserved requests for listeners."""
    return listener_requests(state.active_requests, state.reserved_requests)
