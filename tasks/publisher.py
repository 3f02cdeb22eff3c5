"""The outbox's way to the broker: publish what a commit created, then clear it.

A message that the broker does not take stays in the outbox; the recovery sweep publishes it
as soon as the broker is back. So publishing may fail here without losing anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from celery import Celery, Signature
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from config import RegistryUnavailableError
from config.celery_settings import HIGHEST_PRIORITY, is_rabbitmq
from routing.records import Join, JoinKind, Publication
from tasks import canvas
from tasks.hop_events import message_summary
from tasks.runtime import Point, Runtime

logger = logging.getLogger(__name__)

#: AMQP's delivery mode of a message that need not survive the broker
_TRANSIENT = 1
#: header of a message: ms since 1970 at which it was published, by its sender's clock
SENT_HEADER = "threadloom_sent_ms"


class Publisher:
    """Publishes deliveries as messages for their listeners' tasks."""

    def __init__(self, app: Celery, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime

    def publish(
        self,
        publications: Sequence[Publication],
        *,
        root_id: str | None = None,
        joins: Iterable[Join] = (),
        clear_later: bool = False,
    ) -> int:
        """Publish and clear from the outbox; returns how many the broker took.

        `joins` are those the caller knows already; others are looked up. `clear_later` leaves
        the clearing to the next delivery that this process begins, which saves a round trip;
        if none comes, what nobody has begun by then is published once more, and the copy
        skipped. Publications of one call belong to one conversation. Never raises for a broker or
        registry that does not answer: what was not published or not cleared is published again
        by the sweep.
        """
        if not publications:
            return 0
        known = {join.id: join for join in joins}
        sent: list[Publication] = []
        try:
            for publication in publications:
                self._send(publication, root_id, known)
                sent.append(publication)
                self._runtime.reached(Point.PUBLISHING, None)
        except self._refusals as exc:
            logger.warning(
                "outbox.kept conversation=%s unpublished=%d reason=%r",
                publications[0].conversation, len(publications) - len(sent), exc,
            )  # fmt: skip
        self._runtime.reached(Point.PUBLISHED, None)
        if clear_later:
            self._runtime.clear_later(publications[0].conversation, _cleared(sent))
            return len(sent)
        try:
            self._runtime.backend.published(publications[0].conversation, _cleared(sent))
        except RegistryUnavailableError as exc:
            logger.warning(
                "outbox.not_cleared conversation=%s reason=%r", publications[0].conversation, exc
            )
        return len(sent)

    def queue_of(self, publication: Publication) -> str:
        """The queue that a publication goes to."""
        listener = self._runtime.organism.listeners.get(publication.to)
        return (listener and listener.queue) or str(self._app.conf.task_default_queue)

    @property
    def queues(self) -> set[str]:
        """Every queue of this organism."""
        return {queue.name for queue in self._app.conf.task_queues}

    def empty_queues(self) -> set[str] | None:
        """The queues of this organism in which no message waits; None if the broker is away."""
        connection = self._app.connection_for_write()
        try:
            with connection:
                return {q.name for q in self._app.conf.task_queues if not _waiting(connection, q)}
        except connection.connection_errors as exc:
            logger.warning("broker.unavailable reason=%r", exc)
            return None

    @cached_property
    def _refusals(self) -> tuple[type[BaseException], ...]:
        """What publishing may raise: not reached, or refused (no room, another kind of queue)."""
        broker = self._app.connection_for_write()  # it is never opened
        errors = (*broker.connection_errors, *broker.channel_errors)
        return (OperationalError, RegistryUnavailableError, *errors)

    def _send(self, publication: Publication, root_id: str | None, known: dict[str, Join]) -> None:
        listener = self._runtime.organism.listeners.get(publication.to)
        options: dict[str, Any] = {
            "root_id": root_id or publication.conversation,
            "parent_id": publication.parent,
            # RabbitMQ need not write it to disk, and confirms it twice as fast: should it lose the
            # message, the registry has all that is needed to publish it again.
            "delivery_mode": _TRANSIENT,
        }
        if listener is not None and listener.queue:
            options["queue"] = listener.queue
        priority = self._priority(publication.depth)
        if priority is not None:
            options["priority"] = priority
        injected = publication.canvas is not None
        if injected:
            options |= canvas.resume_options(publication.canvas or "")
        options["headers"] = {
            **options.get("headers", {}),
            # Else Celery would take the task that happens to publish this for its parent.
            "parent_id": options["parent_id"],
            SENT_HEADER: now_ms(),
        }
        signature = canvas.message_signature(
            self._app,
            publication,
            summary=message_summary(publication),
            ignore_result=options.pop("ignore_result", not injected),
        )
        if injected:
            signature.kwargs[canvas.INJECTED] = True
        self._dispatch(signature, self._join(publication, known), publication, options)

    def _dispatch(
        self,
        signature: Signature[Any],
        join: Join | None,
        publication: Publication,
        options: Mapping[str, Any],
    ) -> None:
        index = publication.branch.index if publication.branch else 0
        if canvas.opens_canvas(publication, join, JoinKind.SEQUENCE):
            assert join is not None
            canvas.sequence_chain(self._app, join, signature, index).apply_async(**options)
            return
        if canvas.opens_canvas(publication, join, JoinKind.BUFFER):
            assert join is not None
            signature = canvas.buffer_item(self._app, join, index, signature)
        signature.apply_async(add_to_parent=False, **options)

    def _join(self, publication: Publication, known: dict[str, Join]) -> Join | None:
        if publication.branch is None:
            return None
        join_id = publication.branch.join
        if join_id not in known:
            state = self._runtime.backend.join(publication.conversation, join_id)
            if state is None:
                return None
            known[join_id] = state.join
        return known[join_id]

    def _priority(self, depth: int) -> int | None:
        """Celery's priority of a delivery: deeper is more urgent, if the organism says so."""
        if not self._runtime.organism.depth_first:
            return None
        # RabbitMQ serves high numbers first, Redis low ones.
        deep = min(depth, HIGHEST_PRIORITY)
        return deep if is_rabbitmq(self._app.conf.broker_url) else HIGHEST_PRIORITY - deep


def _cleared(sent: Iterable[Publication]) -> list[str]:
    """What is no longer in the outbox: deliveries, and `""` for the injector's canvas."""
    return [
        name
        for publication in sent
        for name in (publication.id, *([""] if publication.canvas is not None else []))
    ]


def now_ms() -> int:
    """Milliseconds since 1970, by this machine's clock."""
    return time.time_ns() // 1_000_000


def _waiting(connection: Connection, queue: Queue) -> int:
    """How many messages wait in a queue; a queue that is not there (any more) has none."""
    with connection.channel() as channel:
        try:
            found: Any = queue(channel).queue_declare(passive=True)
            return int(found.message_count)
        except connection.channel_errors:
            return 0
