"""Leases renewed and lost things found: a bootstep of every worker's main process.

There is no leader: every worker sweeps, and the registry gives each late thing to one of them.
The bootstep runs on the worker's own timer. It renews the leases of what this worker's pool is
running; a worker that is gone renews nothing, so its deliveries fall due and are published
again. The same sweep publishes what a crash kept in an outbox, fires joins at their deadline
and removes conversations whose retention is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.request import Request

from config import RegistryUnavailableError
from routing.faults import timeout_fault
from routing.markup import canonical
from routing.outgoing import content_of
from tasks.listener import ListenerTask
from tasks.publisher import Publisher
from tasks.request import conversation_of
from tasks.runtime import Runtime, runtime_of

logger = logging.getLogger(__name__)

SWEEP_S = 1.0
#: s between two looks at the pool's processes. Celery looks when the pipe of one closes, which
#: a process that is killed does before it can be waited for; its own next look is 5 s later.
POOL_LOOK_S = 0.5
#: ms after which a message that nobody began is looked for in the broker
LOST_AFTER_MS = 5_000
#: three chances before a lease expires
RENEWALS_PER_LEASE = 3
#: ms after which a late thing that was taken in hand is late again
RETRY_IN_MS = 10_000
#: things taken in hand per sweep, so that the worker's timer stays responsive
SWEEP_LIMIT = 200
#: sweeps between two looks at what has expired
EXPIRE_EVERY = 30


class RecoveryStep(bootsteps.StartStopStep):
    """Starts renewal and sweep with the worker, and stops them with it."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._entries: list[Any] = []
        self._sweeps = 0

    def start(self, worker: Any) -> None:
        runtime = runtime_of(worker.app)
        publisher = Publisher(worker.app, runtime)
        renew_s = runtime.lease_ms / 1000 / RENEWALS_PER_LEASE
        self._entries = [
            worker.timer.call_repeatedly(renew_s, renew, (runtime,)),
            worker.timer.call_repeatedly(SWEEP_S, self._sweep, (worker.app, runtime, publisher)),
            worker.timer.call_repeatedly(POOL_LOOK_S, worker.pool.maintain_pool),
        ]

    def stop(self, worker: Any) -> None:
        for entry in self._entries:
            entry.cancel()
        self._entries = []
        # The pool is drained next, for as long as its handlers take, and the timer stands still.
        running = listener_requests((*state.active_requests, *state.reserved_requests))
        threading.Thread(
            target=renew_until_done, args=(runtime_of(worker.app), running), daemon=True
        ).start()

    def _sweep(self, app: Celery, runtime: Runtime, publisher: Publisher) -> None:
        self._sweeps += 1
        try:
            sweep(runtime, publisher)
            if self._sweeps % EXPIRE_EVERY == 0:
                runtime.backend.expire(limit=SWEEP_LIMIT)
        except RegistryUnavailableError as exc:
            logger.warning("sweep.skipped reason=%s", exc)


def listener_requests(requests: Iterable[Request]) -> list[Request]:
    """Those of the worker's requests that are deliveries of ours."""
    return [request for request in requests if isinstance(request.task, ListenerTask)]


def renew(runtime: Runtime, running: Iterable[Request] | None = None) -> None:
    """Extend the leases of everything this worker's pool is running, or of what is given."""
    requests = listener_requests(tuple(state.active_requests)) if running is None else running
    leases = [(conversation_of(request), request.id) for request in requests]
    if not leases:
        return
    try:
        runtime.backend.renew(leases, owner=runtime.owner, lease_ms=runtime.lease_ms)
    except RegistryUnavailableError as exc:
        logger.warning("leases.not_renewed count=%d reason=%s", len(leases), exc)


def renew_until_done(runtime: Runtime, running: Sequence[Request]) -> None:
    """Keep the leases of these requests until all of them are done: a warm shutdown's last act."""
    while running:
        renew(runtime, running)
        time.sleep(runtime.lease_ms / 1000 / RENEWALS_PER_LEASE)
        running = [request for request in running if request in state.reserved_requests]


def sweep(runtime: Runtime, publisher: Publisher) -> int:
    """Take late things in hand and publish what comes of it; returns how many messages."""
    silent = canonical(content_of(timeout_fault()).element)
    published = republish_lost(runtime, publisher)
    for due in runtime.backend.due(limit=SWEEP_LIMIT):
        publications = runtime.backend.reclaim(due, retry_in_ms=RETRY_IN_MS, silent_branch=silent)
        if publications:
            logger.info("sweep.reclaimed member=%s messages=%d", due.member, len(publications))
            published += publisher.publish(publications)
    return published


def republish_lost(runtime: Runtime, publisher: Publisher) -> int:
    """Publish again what the broker has lost; returns how many messages.

    A message that nobody has begun may wait its turn, or be gone: a broker restarted without
    its messages, a queue purged. It is gone if its queue is empty; or reserved by a worker
    that is busy, in which case an idle one may as well have it: whoever begins it second
    skips it. Where messages wait, the queue will tell once it is empty.
    """
    unbegun = runtime.backend.unbegun(older_than_ms=LOST_AFTER_MS, limit=SWEEP_LIMIT)
    if not unbegun:
        return 0
    empty = publisher.empty_queues()
    published = 0
    for due in unbegun if empty else ():
        publication = runtime.backend.republish(due, older_than_ms=LOST_AFTER_MS)
        if publication is not None and publisher.queue_of(publication) in empty:
            logger.warning("sweep.republished message_id=%s to=%s", publication.id, publication.to)
            published += publisher.publish([publication])
    return published
