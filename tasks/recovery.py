"""Recovery: a bootstep in every worker's main process that renews leases and sweeps.

There is no leader: every worker sweeps on its own timer, and the registry gives each overdue item
to one of them. A worker renews the leases of the deliveries that its pool is running (`leases.py`).
A dead worker renews nothing, so its deliveries fall due and are published again. The sweep also
publishes what a crash left in an outbox and fires joins at their deadline. What is kept no longer
is removed by a thread of its own (`retention.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from celery import bootsteps
from celery.platforms import EX_FAILURE
from celery.signals import worker_process_shutdown
from celery.worker import state
from celery.worker.request import Request

from threadloom.config import RegistryUnavailableError
from threadloom.routing import RegistryFormatError, content_of
from threadloom.routing.faults import timeout_fault
from threadloom.routing.payloads import canonical
from threadloom.routing.records import Due
from threadloom.tasks.claims import CLAIM_MS, claim_queues
from threadloom.tasks.leases import LeaseKeeper, listener_requests
from threadloom.tasks.listener import ListenerTask
from threadloom.tasks.lost import LOST_AFTER_MS, by_turns, republish_lost
from threadloom.tasks.overtime import OvertimeBoard
from threadloom.tasks.pools import pool_fault, warn_of_eviction
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.queues import served_queues
from threadloom.tasks.request import turns_of
from threadloom.tasks.retention import RetentionKeeper
from threadloom.tasks.runtime import Runtime, runtime_of
from threadloom.tasks.unacknowledged import Unacknowledged
from threadloom.tasks.unfailing import attempted, unfailing

logger = logging.getLogger(__name__)

SWEEP_S = 1.0
#: the module of Celery's pool of forked processes
_PREFORK = "celery.concurrency.prefork"
#: s between two renewals of the claims on the worker's queues: three within a claim's lifetime
CLAIM_S = CLAIM_MS / 3000
#: ms for which a worker counts as present after its last sweep
PRESENCE_MS = 5_000
#: s between two checks of the pool's processes. Celery checks when a process's pipe closes, but a
#: killed process closes it before it can be waited for, and Celery's next check is 5 s later.
POOL_LOOK_S = 0.5
#: s after which a worker reports a message that it holds back, before another one looks for it
VOUCH_AFTER_S = LOST_AFTER_MS / 2000
#: ms until a reclaimed item is due again, in case the worker dies before publishing it
RETRY_IN_MS = 3_000
#: most messages that are reported at once
VOUCH_TOGETHER = 500
#: most items reclaimed per sweep, so that the worker's timer stays responsive
SWEEP_LIMIT = 200
#: s after which a sweep reclaims no further item: with a broker that is connected but silent, each
#: publishing blocks the worker for seconds
SWEEP_BUDGET_S = 1.0


class RecoveryStep(bootsteps.StartStopStep):
    """Claims the worker's queues; starts and stops lease renewal and sweep with the worker."""

    requires = ("celery.worker.components:Timer", "celery.worker.components:Pool")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        runtime = runtime_of(worker.app)  # before the pool is forked
        if fault := pool_fault(worker.pool_cls.__module__, runtime.backend):
            logger.critical("worker.cannot_start reason=%s", fault)
            raise SystemExit(EX_FAILURE)
        runtime.sends_events = bool(worker.task_events)
        worker_process_shutdown.connect(clear_outbox(runtime), weak=False)  # inherited by the pool
        runtime.overtime = OvertimeBoard() if worker.pool_cls.__module__ == _PREFORK else None
        self._entries: list[Any] = []
        self._leases: LeaseKeeper | None = None
        self._retention: RetentionKeeper | None = None
        self._unacknowledged = Unacknowledged(worker.app, runtime.organism)
        #: true: the registry did not answer the last call
        self._away = False
        #: monotonic s before which no delivery is taken over
        self._rest_until = 0.0

    def start(self, worker: Any) -> None:
        runtime = runtime_of(worker.app)
        if self._cannot_read_registry(runtime) or self._loses_queues(worker, runtime):
            raise SystemExit(EX_FAILURE)
        warn_of_eviction(runtime.backend)
        publisher = Publisher(worker.app, runtime)
        self._leases = LeaseKeeper(runtime)
        self._leases.start()
        self._retention = RetentionKeeper(runtime)
        self._retention.start()
        self._entries = [
            worker.timer.call_repeatedly(every_s, unfailing(step), args)
            for every_s, step, args in (
                (SWEEP_S, self._sweep, (worker, runtime, publisher)),
                (POOL_LOOK_S, self._look_at_pool, (worker, runtime)),
                (CLAIM_S, self._renew_claims, (worker, runtime)),
            )
        ]
        if runtime.overtime is not None:
            runtime.overtime.spare_from_hard_limit(worker)

    def stop(self, worker: Any) -> None:
        for entry in self._entries:
            entry.cancel()
        self._entries = []
        self._unacknowledged.close()
        if self._retention is not None:
            self._retention.finish()
        clear_outbox(runtime_of(worker.app))()  # of a pool that is this process
        if self._leases is not None:
            self._leases.finish()  # next the pool is drained, which lasts until its handlers end

    @staticmethod
    def _look_at_pool(worker: Any, runtime: Runtime) -> None:
        if runtime.overtime is not None:
            attempted(runtime.overtime.end_late, worker, state.active_requests)
        worker.pool.maintain_pool()

    @staticmethod
    def _cannot_read_registry(runtime: Runtime) -> bool:
        try:
            runtime.require_format()
        except RegistryFormatError as exc:
            logger.critical("registry.of_another_version reason=%s", exc)
            return True
        except RegistryUnavailableError as exc:
            logger.warning("registry.unavailable reason=%s", exc)
        return False

    def _renew_claims(self, worker: Any, runtime: Runtime) -> None:
        if self._loses_queues(worker, runtime):
            state.should_stop = EX_FAILURE  # type: ignore[assignment]  # warm shutdown: handlers finish

    @staticmethod
    def _loses_queues(worker: Any, runtime: Runtime) -> bool:
        """Claim the queues that this worker serves; True if another organism holds one of them.

        False if the broker does not answer: the claim is made when it is back. False also if it
        does not permit claims: a worker is not worth less for that, but its queues are unguarded.
        """
        served = served_queues(runtime.organism, worker.app)
        connection = worker.app.connection_for_write()
        try:
            with connection:
                held = claim_queues(connection, served, runtime.organism.name)
        except (*connection.connection_errors, *connection.channel_errors) as exc:
            logger.warning("queues.not_claimed queues=%s reason=%r", sorted(served), exc)
            return False
        for queue, holder in held.items():
            logger.critical(
                "queue.of_another_organism queue=%r organism=%r: workers of that organism serve "
                "this queue of the same broker, and each would take the other's messages. Give "
                "%r a queue of its own: the key `queue` of its organism section.",
                queue, holder, runtime.organism.name,
            )  # fmt: skip
        return bool(held)

    def _sweep(self, worker: Any, runtime: Runtime, publisher: Publisher) -> None:
        waiting = in_hand(worker.consumer)
        self._sweep_unacknowledged(waiting)  # also while the registry does not answer
        try:
            if self._resting(runtime):
                return
            if self._cannot_read_registry(runtime):  # it did not answer when the worker started
                state.should_stop = EX_FAILURE  # type: ignore[assignment]
                return
            runtime.backend.announce(runtime.owner, processes_of(worker), ttl_ms=PRESENCE_MS)
            attempted(vouch_for, waiting, runtime)
            attempted(sweep, runtime, publisher)
        except RegistryUnavailableError as exc:
            self._away = True
            logger.warning("sweep.skipped reason=%s", exc)

    def _sweep_unacknowledged(self, waiting: Iterable[Request]) -> None:
        try:
            running = listener_requests(state.active_requests)
            restored = self._unacknowledged.sweep([*waiting, *running])
        except Exception as exc:  # any error of kombu for a broker that does not answer
            self._unacknowledged.close()
            logger.warning("unacknowledged.not_looked_at reason=%r", exc)
            return
        if restored:
            logger.warning("unacknowledged.handed_out messages=%d", restored)

    def _resting(self, runtime: Runtime) -> bool:
        """Whether the registry has been answering again for less than one lease time.

        Leases expired while no worker could renew them. For one lease time nothing is taken over,
        so that their holders can renew them first.
        """
        lease_s = runtime.lease_ms / 1000
        asked = time.monotonic()
        runtime.backend.due(limit=1)  # raises while the registry does not answer
        answered = time.monotonic()
        if self._away or answered - asked > lease_s / 2:
            self._away = False
            self._rest_until = answered + lease_s
        return answered < self._rest_until


def clear_outbox(runtime: Runtime) -> Callable[..., None]:
    """Return a function that clears what this process has published before the process ends.

    Else the sweep would publish again what nobody has begun yet: nearly everything in a long
    queue, where each process runs only one task (`--max-tasks-per-child 1`).
    """

    def clear(**_signal: object) -> None:
        for conversation, deliveries in runtime.take_uncleared().items():
            runtime.backend.published(conversation, deliveries)

    return unfailing(clear)


def processes_of(worker: Any) -> int:
    """Return how many tasks a worker's pool runs at once."""
    return int(worker.pool.num_processes or worker.concurrency)


def in_hand(consumer: Any) -> list[Request]:
    """Return the listeners' messages that this worker has received and not begun.

    Some are held back by a rate limit or an ETA, others are prefetched for the pool.
    """
    buckets = [bucket for bucket in consumer.task_buckets.values() if bucket is not None]
    limited = {request for bucket in buckets for request, _ in list(bucket.contents)}
    ahead = listener_requests(
        state.reserved_requests,
        state.scheduled_requests,  # type: ignore[attr-defined]  # newer than the stubs
    )
    running = listener_requests(state.active_requests)
    return [r for r in limited | ahead if isinstance(r.task, ListenerTask) and r not in running]


def vouch_for(held: Iterable[Request], runtime: Runtime) -> None:
    """Keep all workers from treating these messages, which this worker holds unbegun, as lost.

    Otherwise each would be published again, and the copies would fill the worker's prefetch or
    use up the rate limit. The worker reports its messages again and again; if it dies, they count
    as lost after the same time as any others. Without a limit to its prefetch it holds any number.
    """
    now = time.monotonic()
    silent = [r for r in held if now - getattr(r, "vouched_at", 0.0) > VOUCH_AFTER_S]
    for start in range(0, len(silent), VOUCH_TOGETHER):
        some = silent[start : start + VOUCH_TOGETHER]
        runtime.backend.requeued([turn for request in some for turn in turns_of(request)])
        for request in some:
            marked: Any = request
            marked.vouched_at = now


def sweep(runtime: Runtime, publisher: Publisher) -> int:
    """Reclaim overdue items and publish the messages that follow; return how many were sent."""
    silent = canonical(content_of(timeout_fault()).element)
    published = 0

    def republish() -> None:
        nonlocal published
        published += republish_lost(runtime, publisher)

    attempted(republish)
    until = time.monotonic() + SWEEP_BUDGET_S
    found = runtime.backend.due(limit=SWEEP_LIMIT + len(runtime.set_aside))
    runtime.set_aside.forget_absent({due.member for due in found})

    def reclaim(due: Due) -> None:
        nonlocal published
        publications = runtime.backend.reclaim(due, retry_in_ms=RETRY_IN_MS, silent_branch=silent)
        if publications:
            logger.info("sweep.reclaimed member=%s messages=%d", due.member, len(publications))
            published += publisher.publish(publications)

    for due in by_turns(found):
        runtime.set_aside.attempt(due.member, reclaim, due)
        if time.monotonic() > until:
            break
    return published
