"""One Celery task per listener, named exactly like the listener.

A message is either an injection by a sender (its argument is the payload, and its id becomes the
conversation's) or one of our own (its argument names the conversation; the payload is stored in
the registry under the message's id).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import celery
from celery import Celery
from celery.exceptions import Ignore, Reject

from threadloom.config import PermanentError, RegistryUnavailableError
from threadloom.routing import (
    Admitted,
    ConversationError,
    Huh,
    InvalidEnvelopeError,
    Listener,
    Organism,
    admit,
    content_of,
    open_conversation,
)
from threadloom.routing.actions import Fault
from threadloom.routing.records import Beginning
from threadloom.tasks import canvas, together
from threadloom.tasks.delivery import Deliverer, Outcome
from threadloom.tasks.handlers import crash
from threadloom.tasks.hop_events import HopEvents
from threadloom.tasks.releases import note_release, value_of
from threadloom.tasks.runtime import Point, Runtime, new_id

logger = logging.getLogger(__name__)

#: the sender's name of messages from outside that are not authenticated
EXTERNAL = "external"
#: seconds by which a handler may exceed its time limit before its process is killed
HARD_LIMIT_GRACE_S = 10.0
#: attributes of a listener's task that no `task_annotations` change
_OWN = (
    *("acks_late", "acks_on_failure", "acks_on_failure_or_timeout", "acks_on_timeout"),
    *("reject_on_worker_lost", "retry_on_worker_lost", "ignore_result", "serializer"),
    *("rate_limit", "soft_time_limit"),
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class DirectCallError(PermanentError):
    """A listener's task was called like a function, which has no message and so no conversation."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"{self.name!r} is a listener and cannot be called like a function, as a direct call, "
            "`map`, `starmap` and `chunks` do: there is no message that could be its conversation. "
            f"Send one message for each payload: `group(signature({self.name!r}, (p,)) for p in "
            "payloads)`, `send_task`, or `threadloom.inject_many`"
        )


class ListenerTask(celery.Task):  # type: ignore[type-arg]
    """The Celery task of one listener."""

    abstract = True
    #: reports a lost process and a hard timeout to the registry
    Request = "threadloom.tasks.request:DeliveryRequest"
    Strategy = "threadloom.tasks.request:strategy"
    typing = False  # the payload is checked against its contract, with a better error message
    throws = (ConversationError,)  # a conversation's regular ending: logged without a traceback
    # Delivery depends on these settings, whatever the app sets for its other tasks. A message is
    # acknowledged after its delivery is committed, so that a crash redelivers it, also if only the
    # pool process died and the main process survived. No message is pickled.
    acks_late = True
    acks_on_failure_or_timeout = True
    acks_on_failure = True
    acks_on_timeout = True
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    ignore_result = False
    serializer = "json"

    listener: Listener
    runtime: Runtime
    deliverer: Deliverer

    @classmethod
    def annotate(cls) -> None:
        """Take what `task_annotations` say, but for what delivery stands on.

        Celery calls this for each task. The rate limit was read before (`queues.with_rates`).
        """
        own = {name: getattr(cls, name) for name in _OWN}
        super().annotate()
        for name, value in own.items():
            setattr(cls, name, value)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Perform this message's turn; return the task's Celery result."""
        if self.request.called_directly:
            raise DirectCallError(self.name)
        self.request.update(released=None)  # a header may have this name
        try:
            if canvas.TOGETHER in kwargs:
                return together.carry_out(self, kwargs[canvas.TOGETHER])
            return self._run_one(args, kwargs)
        except RegistryUnavailableError as exc:
            # The registry knows of no ending, so none is stored: the message goes back into its
            # queue, and whoever gets it next asks again.
            logger.warning("message.handed_back message_id=%s reason=%s", self.request.id, exc)
            raise Reject(str(exc), requeue=True) from exc
        finally:
            if self._hops is not None:
                self._hops.flush()

    def _run_one(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        request = self.request
        message_id = str(request.id)
        ours = kwargs.get(canvas.CONVERSATION)
        native = ours is None or bool(kwargs.get(canvas.INJECTED))
        conversation = str(ours or message_id)
        if not native:
            canvas.take_over(request)
        refusal: Fault | None = None
        if ours is None:
            beginning, refusal = self._injected(args, kwargs)
        else:
            beginning = self._claimed(conversation, message_id)
        outcome = self.deliverer.deliver(
            beginning,
            root_id=request.root_id or message_id,
            native=native,
            refusal=refusal,
            limit_s=self._limit_s,
            hops=self._hops,
        )
        if not native:
            return outcome.summary
        if outcome.release is None:
            # The canvas is parked: the conversation continues, and later a message with this id
            # resumes the canvas.
            raise Ignore(outcome.summary)
        self.request.update(released=conversation)
        return value_of(outcome.release)

    def begin_and_run(self, conversation_id: str, *, until: float) -> Outcome:
        """Perform the first delivery of a conversation that shares its message with others.

        `until`: monotonic s at which the slice of the shared message ends.
        """
        return self.deliverer.deliver(
            self._claimed(conversation_id, conversation_id),
            root_id=conversation_id,
            native=True,
            limit_s=self._limit_s,
            hops=self._hops,
            has_message=False,
            until=until,
        )

    def _get_exec_options(self) -> dict[str, Any]:
        """Return default options for a message that code of this app sends to the listener.

        Celery's `apply_async` and `send_task` read them. A `queue` attribute of the class would
        have the same effect, but is deprecated.
        """
        options: dict[str, Any] = super()._get_exec_options()  # type: ignore[misc]
        return {**options, "queue": self.runtime.organism.queue_of(self.name)}

    @cached_property
    def _limit_s(self) -> float:
        """The longest time limit in seconds of a handler that the turn may go on with.

        0 if this worker does not serve the organism's own queue, from which that delivery would
        come. Otherwise the time that the pool's hard limit, which is set for the turn's first
        task, leaves to each handler.
        """
        if self.runtime.organism.own_queue not in self.app.amqp.queues.consume_from:
            return 0.0
        return max(0.0, float(self.time_limit or 0) - HARD_LIMIT_GRACE_S)

    @cached_property
    def _hops(self) -> HopEvents | None:
        if not self.runtime.sends_events:
            return None
        return HopEvents(self.app, hostname=self.request.hostname)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called by Celery after it has stored the result and continued the canvas."""
        conversation = getattr(self.request, "released", None)
        if conversation is not None:
            self.runtime.reached(Point.RETURNED, None)
            note_release(conversation, self.runtime)

    def _claimed(self, conversation_id: str, delivery_id: str) -> Any:
        runtime, published = self.runtime, self.runtime.take_uncleared()

        def begin(owner: str) -> Beginning:
            return runtime.backend.begin(
                conversation_id,
                delivery_id,
                owner=owner,
                lease_ms=runtime.lease_ms,
                published=published,
            )

        return begin

    def _injected(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        conversation = str(self.request.id)
        admitted, refusal = self._admitted(args, kwargs)
        opening = open_conversation(
            conversation,
            self.listener,
            admitted,
            from_id=EXTERNAL,
            root_thread=root_thread(conversation),
            new_id=new_id,
            canvas=canvas.canvas_options(self.request),
        )

        runtime, published = self.runtime, self.runtime.take_uncleared()

        def begin(owner: str) -> Beginning:
            return runtime.backend.open_and_begin(
                opening, owner=owner, lease_ms=runtime.lease_ms, published=published
            )

        return begin, refusal

    def _admitted(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Admitted, Fault | None]:
        """Return an injection's payload and None; for an invalid one, a Huh and the refusal."""
        raw: Any = args[0] if args else dict(kwargs)
        try:
            if len(args) + bool(kwargs) != 1:
                raise InvalidEnvelopeError(
                    "parse",
                    [
                        f"{self.name} takes exactly one argument, its payload, as a mapping or "
                        "as XML, or else the payload's fields as keywords; "
                        f"got {len(args)} and {sorted(kwargs) or 'no'} keywords"
                    ],
                )
            return admit(raw, self.listener, self.runtime.organism), None
        except InvalidEnvelopeError as exc:
            huh = Huh.of(str(exc), raw)
            return Admitted.of(content_of(huh)), Fault(huh, str(exc))
        except BaseException as exc:  # a payload class's own code may raise anything
            # Its payload is not stored, so that a replay would have nothing to run with.
            refusal = crash(exc, self.name, str(self.request.id), dead_letter=False)[0]
            assert isinstance(refusal, Fault)
            return Admitted.of(content_of(refusal.payload)), refusal


def root_thread(conversation_id: str) -> str:
    """Return the injector's thread id: the conversation's id if it is a UUID, else a new one."""
    return conversation_id if is_uuid(conversation_id) else new_id()


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID in its canonical form."""
    return _UUID.fullmatch(text) is not None


def register_listeners(
    app: Celery, organism: Organism, runtime: Runtime, deliverer: Deliverer
) -> None:
    """Register a task of the app for every listener of the organism."""
    for listener in organism.listeners.values():
        task_class = type(
            "ListenerTask",
            (ListenerTask,),
            {
                "name": listener.name,
                "listener": listener,
                "runtime": runtime,
                "deliverer": deliverer,
                "rate_limit": listener.rate_limit,
                "time_limit": listener.timeout_s + HARD_LIMIT_GRACE_S,
                "__doc__": listener.description,
            },
        )
        app.register_task(task_class())
