"""Starting conversations from a process that has loaded the organism.

Other processes send to the listener's task by its name: `app.send_task("clerk", [...])`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

from celery import Celery
from celery.result import AsyncResult

from threadloom.routing import (
    XML,
    Admitted,
    BufferItem,
    ConversationError,
    InvalidEnvelopeError,
    InvalidPayloadError,
    Listener,
    StoredResults,
    UnknownConversationError,
    admit,
    build_envelope,
    content_of,
    items_of,
    open_conversation,
)
from threadloom.routing.faults import routing_fault
from threadloom.routing.payloads import is_payload
from threadloom.routing.records import Delivery, Opening, Publication
from threadloom.tasks.listener import EXTERNAL, root_thread
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import new_id, runtime_of
from threadloom.tasks.together import per_message

#: conversations that are opened together before their messages are published
_BATCH = 10_000


class Results(Sequence[AsyncResult[Any]]):
    """The results of conversations that were injected together, in the order of their payloads.

    Each AsyncResult is created at its first access: most callers read only a few of many.
    """

    def __init__(self, app: Celery, ids: Sequence[str]) -> None:
        self._app = app
        #: the ids of the conversations
        self.ids = tuple(ids)
        self._made: dict[int, AsyncResult[Any]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> AsyncResult[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> AsyncResult[Any] | Results:
        if isinstance(index, slice):
            return Results(self._app, self.ids[index])
        place = range(len(self.ids))[index]
        if place not in self._made:
            self._made[place] = self._app.AsyncResult(self.ids[place])
        return self._made[place]


def inject(
    app: Celery,
    to: str,
    payload: Any,
    *,
    from_id: str = EXTERNAL,
    conversation_id: str | None = None,
) -> AsyncResult[Any]:
    """Start a conversation by sending `payload` to a listener.

    `payload` is a payload object, a mapping, or XML (a payload or an envelope). The conversation
    is stored in the registry before its first message is published, so that it survives a broker
    that does not answer. `conversation_id` is the idempotency key: two calls with the same id
    start one conversation; repeat the call with it after a RegistryUnavailableError.

    Returns Celery's AsyncResult: `get()` returns `{"type", "payload", "thread"}`, or None for a
    conversation without a value, or raises ConversationError. Raises ConversationError
    (code `routing`) for an unknown listener, InvalidEnvelopeError for a payload that violates the
    listener's contract, RegistryFormatError for a registry of another version.
    """
    [result] = inject_many(app, to, [payload], from_id=from_id, ids=[conversation_id])
    return result


def inject_many(
    app: Celery,
    to: str,
    payloads: Iterable[Any],
    *,
    from_id: str = EXTERNAL,
    ids: Iterable[str | None] | None = None,
) -> Results:
    """Start one conversation per payload; all payloads are checked before the first starts.

    They are stored in batches and published with up to a hundred conversations per message
    (`tasks.together`). If the broker does not answer, it is tried once, for a few seconds, and the
    sweep publishes all of the rest when it is back.
    """
    runtime = runtime_of(app)
    listener = runtime.organism.listeners.get(to)
    if listener is None:
        fault = routing_fault()
        raise ConversationError(fault.code, fault.message, fault.retry_allowed)
    admitted = [_admitted(payload, listener, app) for payload in payloads]
    runtime.require_format()
    names = [name or new_id() for name in (ids if ids is not None else [None] * len(admitted))]
    count = len(admitted)
    together = 1 if count < 2 else per_message(count, listener, runtime.organism, runtime.lanes())
    publisher = Publisher(app, runtime)
    reachable = True
    found = zip(names, admitted, strict=True)
    openings = (_opening(name, listener, each, from_id) for name, each in found)
    for _ in range(0, count, _BATCH):
        batch = islice(openings, _BATCH)
        reachable = publisher.open_and_send(batch, together=together, reachable=reachable)
    return Results(app, names)


def _opening(name: str, listener: Listener, found: Admitted, from_id: str) -> Opening:
    return open_conversation(
        name,
        listener,
        found,
        from_id=from_id,
        root_thread=root_thread(name),
        new_id=new_id,
    )


def read_results(app: Celery, conversation_id: str, value: Any) -> Iterator[BufferItem]:
    """Yield the items that a buffer collected, in index order, for its injector.

    `value` is the result of `AsyncResult.get()`, a `BufferComplete`, or its `results`, inline or
    by reference; a reference is valid as long as the conversation is kept (`redis_ttl`). Raises
    UnknownResultsError for a reference that the conversation does not hold, ValueError for a
    value that no buffer has returned.
    """
    stored = StoredResults(runtime_of(app).backend, conversation_id)
    return items_of(value, stored)


def answer_wait(app: Celery, conversation_id: str, wait_id: str, payload: Any) -> bool:
    """Give a waiting thread its input; False if it has got its input already.

    Also returns False for an unknown wait. Raises UnknownConversationError, or
    InvalidEnvelopeError for a payload that violates the contract of the waiting listener.
    """
    runtime = runtime_of(app)
    waits = runtime.backend.waits(conversation_id)
    wait = next((wait for wait in waits if wait.id == wait_id), None)
    if wait is None:
        if runtime.backend.conversation(conversation_id) is None:
            raise UnknownConversationError(conversation_id)
        return False
    listener = runtime.organism.listeners[wait.listener]
    given = _admitted(payload, listener, app)
    delivery = Delivery(
        id=wait_id,
        thread_id=wait.thread_id,
        from_id=EXTERNAL,
        to=listener.name,
        payload_name=given.name,
        payload_path=given.path,
        envelope=build_envelope(EXTERNAL, listener.name, wait.thread_id, given.payload),
        scope=wait.scope,
    )
    publication: Publication | None = runtime.backend.answer(conversation_id, wait_id, delivery)
    if publication is None:
        return False
    Publisher(app, runtime).publish([publication])
    return True


def _admitted(payload: Any, listener: Listener, app: Celery) -> Admitted:
    if isinstance(payload, XML):
        payload = payload.text
    if not is_payload(type(payload)):
        return admit(payload, listener, runtime_of(app).organism)
    try:
        content = content_of(payload)
    except InvalidPayloadError as exc:
        raise InvalidEnvelopeError("payload XSD", exc.faults) from exc
    return admit(content.element, listener, runtime_of(app).organism)
