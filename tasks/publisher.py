"""Publishing of the outbox: send a commit's deliveries to the broker, then clear the outbox.

A message that the broker does not accept stays in the outbox, and the recovery sweep publishes it
once the broker is back. So a failure to publish here loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any

from celery import Celery
from celery.utils.nodenames import anon_nodename
from kombu import Connection, Queue
from kombu.exceptions import (  # type: ignore[attr-defined]  # the one is newer than the stubs
    BatchPublishError,
    OperationalError,
)

from threadloom.config import RegistryUnavailableError
from threadloom.config.celery_settings import HIGHEST_PRIORITY, is_rabbitmq
from threadloom.routing.records import Delivery, Join, Opening, Publication
from threadloom.tasks import canvas
from threadloom.tasks.confirms import confirmed_together
from threadloom.tasks.hop_events import message_summary
from threadloom.tasks.queues import broker_url, queues_of
from threadloom.tasks.runtime import Point, Runtime, new_id
from threadloom.tasks.unacknowledged import ORGANISM_HEADER

logger = logging.getLogger(__name__)

#: AMQP's delivery mode of a message that need not survive a broker restart
_TRANSIENT = 1
#: header of a message: ms since 1970 at which it was published, by the registry's clock
SENT_HEADER = "threadloom_sent_ms"


class Publisher:
    """Publishes deliveries as messages for their listeners' tasks."""

    def __init__(self, app: Celery, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._declared_on: Any = None
        self._declared: set[str] = set()

    def publish(
        self,
        publications: Sequence[Publication],
        *,
        root_id: str | None = None,
        joins: Iterable[Join] = (),
        clear_later: bool = False,
    ) -> int:
        """Publish and clear from the outbox; return how many messages the broker accepted.

        All publications of a call belong to one conversation. `joins` are joins that the caller
        has loaded already; others are looked up. `clear_later` leaves the clearing to the next
        delivery that this process begins, which saves a round trip; if no delivery follows, the
        sweep publishes those that were not begun once more, and the copies are skipped. Never
        raises for a broker or registry that does not answer: the sweep publishes again what was
        not published or not cleared.
        """
        if not publications:
            return 0
        known = {join.id: join for join in joins}
        sent = publications if self.send(publications, root_id=root_id, known=known) else ()
        self._runtime.reached(Point.PUBLISHED, None)
        if clear_later:
            self._runtime.clear_later(publications[0].conversation_id, _cleared(sent))
            return len(sent)
        try:
            self._runtime.backend.published(publications[0].conversation_id, _cleared(sent))
        except RegistryUnavailableError as exc:
            logger.warning(
                "outbox.not_cleared conversation=%s reason=%r", publications[0].conversation_id, exc
            )
        return len(sent)

    def send(
        self,
        publications: Sequence[Publication],
        *,
        root_id: str | None = None,
        known: dict[str, Join] | None = None,
    ) -> bool:
        """Publish without clearing the outbox; False if the broker may lack some of the messages.

        Never raises for a broker or registry that does not answer. `known`: joins by id.
        """
        try:
            self._send_all(publications, root_id, known if known is not None else {})
        except self._refusals as exc:
            logger.warning(
                "outbox.kept conversation=%s unpublished=%d reason=%r",
                publications[0].conversation_id, len(publications), exc,
            )  # fmt: skip
            return False
        return True

    def open_and_send(
        self, openings: Iterable[Opening], *, together: int = 1, reachable: bool = True
    ) -> bool:
        """Open conversations with one listener and publish their first deliveries.

        `together` is the number of conversations per message; a conversation that existed before
        is not published. `reachable=False` leaves the publishing to the sweep, as if the broker
        did not answer. Returns False if the broker may lack some of the messages. Raises
        RegistryUnavailableError.
        """
        entries: dict[str, Delivery] = {}

        def noted() -> Iterator[Opening]:
            for opening in openings:
                if opening.conversation_id not in entries:  # the caller may name one twice
                    entries[opening.conversation_id] = opening.entry
                    yield opening

        for known in self._runtime.backend.open_many(noted()):
            del entries[known]
        if not entries or not reachable:
            return reachable
        if together == 1:
            return self.send([Publication.of(name, e, "") for name, e in entries.items()])
        names, to = list(entries), next(iter(entries.values())).to
        return self.send_together(to, list(_parts(names, together)))

    def send_together(self, to: str, parts: Sequence[Sequence[str]]) -> bool:
        """Publish injected conversations with one listener, one message for each of `parts`.

        Returns False, without an error, if the broker may lack some of the messages.
        """
        try:
            with self._batch() as producer:
                for conversations in parts:
                    self._put(
                        producer,
                        to,
                        new_id(),
                        kwargs={canvas.TOGETHER: list(conversations)},
                        shown=f"{len(conversations)} conversations → {to}",
                        priority=self._priority(1),
                        ignore_result=True,
                    )
        except self._broker_refusals as exc:
            logger.warning("outbox.kept unpublished=%d reason=%r", sum(map(len, parts)), exc)
            return False
        return True

    def empty_queues(self) -> set[str] | None:
        """Return the names of the organism's empty queues; None if the broker does not answer."""
        connection = self._app.connection_for_write()
        try:
            with connection:
                queues = queues_of(self._runtime.organism, self._app)
                return {queue.name for queue in queues if not _waiting(connection, queue)}
        except connection.connection_errors as exc:
            logger.warning("broker.unavailable reason=%r", exc)
            return None

    @property
    def _refusals(self) -> tuple[type[BaseException], ...]:
        return (RegistryUnavailableError, *self._broker_refusals)

    @cached_property
    def _broker_refusals(self) -> tuple[type[BaseException], ...]:
        """Errors of publishing: broker not reached, or message refused (e.g. out of memory)."""
        broker = self._app.connection_for_write()  # never opened, only asked for its error classes
        errors = (*broker.connection_errors, *broker.channel_errors)
        return (OperationalError, BatchPublishError, *errors)

    def _send_all(
        self, publications: Sequence[Publication], root_id: str | None, known: dict[str, Join]
    ) -> None:
        """Publish, several messages as one batch (see `_batch`).

        Raises one of `_refusals` if it is unknown which of the messages the broker has accepted.
        """
        if len(publications) == 1:
            with self._app.amqp.producer_pool.acquire(block=True) as producer:
                self._send(producer, publications[0], root_id, known)
            return
        with self._batch() as producer:
            for publication in publications:
                self._send(producer, publication, root_id, known)

    @contextmanager
    def _batch(self) -> Iterator[Any]:
        """A producer of a batch: sent in one pipeline on Redis, confirmed together on RabbitMQ.

        If the body raises, Redis has got none of the messages, and RabbitMQ may have some.
        """
        acquired: Any = self._app.amqp.producer_pool.acquire(block=True)
        with acquired as producer, producer.batch(), confirmed_together(producer.channel):
            yield producer

    def _send(
        self,
        producer: Any,
        publication: Publication,
        root_id: str | None,
        known: dict[str, Join],
    ) -> None:
        options: dict[str, Any] = {"root_id": root_id or publication.conversation_id}
        kwargs: dict[str, Any] = {canvas.CONVERSATION: publication.conversation_id}
        injected = publication.canvas is not None
        if injected:
            options |= canvas.resume_options(publication.canvas or "")
            kwargs[canvas.INJECTED] = True
        else:
            options |= canvas.join_options(self._app, publication, self._join(publication, known))
        options.setdefault("priority", self._priority(publication.depth))
        options.setdefault("ignore_result", not injected)
        options.setdefault("parent_id", publication.parent_id)
        shown = message_summary(publication)
        self._put(producer, publication.to, publication.id, kwargs=kwargs, shown=shown, **options)

    def _put(
        self,
        producer: Any,
        to: str,
        message_id: str,
        *,
        kwargs: dict[str, Any],
        shown: str,
        headers: Mapping[str, Any] = MappingProxyType({}),
        priority: int | None = None,
        **options: Any,
    ) -> None:
        message = self._app.amqp.create_task_message(
            message_id,
            to,
            kwargs=kwargs,
            argsrepr=shown,
            kwargsrepr="{}",
            create_sent_event=self._app.conf.task_send_sent_event,
            origin=self._origin,
            **options,
        )
        queue: Any = self._app.amqp.queues[self._runtime.organism.queue_of(to)]
        self._app.amqp.send_task_message(
            producer,
            to,
            message,
            queue=queue,
            declare=self._undeclared(producer.channel, queue),
            serializer="json",  # independent of the serializer of the app's other tasks
            headers={
                **headers,
                **self._sent_now(),
                ORGANISM_HEADER: self._runtime.organism.name,
            },
            # RabbitMQ does not write a transient message to disk, and confirms it twice as fast. If
            # it loses the message, the registry has everything needed to publish it again.
            delivery_mode=_TRANSIENT,
            **({} if priority is None else {"priority": priority}),
        )
        self._runtime.reached(Point.PUBLISHING, None)

    def _sent_now(self) -> dict[str, int]:
        try:
            return {SENT_HEADER: self._runtime.registry_ms()}
        except RegistryUnavailableError:
            return {}

    @cached_property
    def _origin(self) -> str:
        return str(anon_nodename())

    def _undeclared(self, channel: Any, queue: Queue) -> list[Queue]:
        """Return the queue if this channel has not declared it yet; kombu declares per message."""
        if self._declared_on is not channel:
            self._declared_on, self._declared = channel, set()
        if queue.name in self._declared:
            return []
        self._declared.add(queue.name)
        return [queue]

    def _join(self, publication: Publication, known: dict[str, Join]) -> Join | None:
        if publication.branch is None:
            return None
        join_id = publication.branch.join_id
        if join_id not in known:
            state = self._runtime.backend.join(publication.conversation_id, join_id)
            if state is None:
                return None
            known[join_id] = state.join
        return known[join_id]

    def _priority(self, depth: int) -> int | None:
        """Return a delivery's Celery priority, higher the deeper; None unless `depth-first`."""
        if not self._runtime.organism.depth_first:
            return None
        # RabbitMQ serves high priority numbers first, kombu's Redis transport low ones.
        deep = min(depth, HIGHEST_PRIORITY)
        return deep if is_rabbitmq(broker_url(self._app)) else HIGHEST_PRIORITY - deep


def _cleared(sent: Iterable[Publication]) -> list[str]:
    """Return the ids to clear from the outbox, with `""` for a parked canvas's publication."""
    return [
        name
        for publication in sent
        for name in (publication.id, *([""] if publication.canvas is not None else []))
    ]


def _parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _waiting(connection: Connection, queue: Queue) -> int:
    """Return how many messages wait in a queue; 0 if the queue does not exist."""
    with connection.channel() as channel:
        try:
            found: Any = queue(channel).queue_declare(passive=True)
            return int(found.message_count)
        except connection.channel_errors:
            return 0
