"""The gate of a worker: each message is looked at before Celery touches it.

Celery's main process trusts what it reads. A message that makes it raise ends the worker, goes
back into the queue and ends the next one. Here it is put aside instead, as `routing.gate` decides
it: it is kept in the registry with its cause, and its sender gets the error as the task's result.

Tasks of others that an attached app runs beside the listeners are Celery's. Of their messages only
what would end the main process is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from celery import bootsteps
from celery.app.task import Context
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from celery.worker import state
from kombu.transport import virtual
from redis.exceptions import DataError

from threadloom.routing import ConversationError
from threadloom.routing.gate import (
    MAX_CAUSE,
    Refused,
    body_fault,
    excerpt_of,
    header_fault,
    id_fault,
    property_fault,
    shape_fault,
    task_fault,
    too_deep,
)
from threadloom.tasks.canvas import CONVERSATION, INJECTED, RESERVED, TOGETHER
from threadloom.tasks.inflation import InflationError, check_inflation
from threadloom.tasks.put_aside import PutAside
from threadloom.tasks.runtime import Runtime, new_id, runtime_of
from threadloom.tasks.together import MOST

logger = logging.getLogger(__name__)

#: bytes of a message beside its payload: its canvas, and the quoting of JSON
_BESIDE_PAYLOAD = 1 << 20
#: bytes of JSON for one byte of a payload: `<` may be written as \u003c
_QUOTING = 6
#: errors that kombu lists as those of a lost connection, and that an odd value causes, too:
#: redis-py raises DataError for a value that it cannot send
_OF_A_VALUE = (DataError, LookupError, TypeError, ValueError)
#: levels of a message of others at which Python is about to refuse to pickle it
_DEEPEST = 400
_NO_KEYWORDS: Mapping[str, Any] = {}
_CANVAS_PARTS = ("callbacks", "errbacks", "chain", "chord")


class MessageGate(bootsteps.StartStopStep):
    """Puts the gate in front of the worker's consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._gate = Gate(consumer)
        consumer.create_task_handler = self._gate.guarding(consumer.create_task_handler)
        consumer.on_decode_error = self._gate.on_decode_error

    def start(self, consumer: Any) -> None:
        self._gate.watch(consumer.task_consumer.channel)

    def stop(self, consumer: Any) -> None:
        self._gate.aside.finish()


class Gate:
    """Looks at the messages of one worker."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._app = consumer.app
        self._runtime: Runtime = runtime_of(consumer.app)
        self.aside = PutAside(self._runtime)
        #: bytes of a message's body
        self._most = _QUOTING * self._runtime.organism.max_payload_bytes + _BESIDE_PAYLOAD

    @cached_property
    def _broken_line(self) -> tuple[type[BaseException], ...]:
        """Errors of a lost connection, on which the worker connects again."""
        connection = self._app.connection_for_read()  # never opened, asked for its error classes
        return (*connection.connection_errors, *connection.channel_errors)

    def guarding(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap Celery's `create_task_handler`."""

        def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], None]:
            handle = create(*args, **kwargs)

            def on_task_received(message: Any) -> None:
                try:
                    cause = self._cause(message)
                    if not cause:
                        handle(message)
                        return
                except Exception as exc:
                    if self._is_of_the_line(exc):
                        raise
                    cause = f"{type(exc).__name__}: {exc}"
                    logger.debug("message.raised", exc_info=True)
                self._turn_away(message, cause)

            return on_task_received

        return create_task_handler

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Called by kombu for a message that it cannot read, instead of Celery's method."""
        self._turn_away(message, f"{type(exc).__name__}: {exc}")

    def watch(self, channel: Any) -> None:
        """Look at what a new channel hands over, before kombu makes a message of it."""
        channel.Message = self._measured(channel.Message)
        if isinstance(channel, virtual.Channel):
            self._watch_virtual(channel)

    def _watch_virtual(self, channel: Any) -> None:
        """Put aside what kombu's own transports raise for, e.g. the one for Redis."""
        transport: Any = channel.connection
        deliver = transport._deliver

        def deliver_or_put_aside(raw: Any, queue: str) -> None:
            try:
                deliver(raw, queue)
            except Exception as exc:
                if self._is_of_the_line(exc):
                    raise
                self._keep(queue, {}, f"{type(exc).__name__}: {exc}", excerpt_of([raw]))

        transport._deliver = deliver_or_put_aside
        read = getattr(channel, "handlers", {}).get("BRPOP")
        if read is not None:  # kombu's Redis transport

            def read_or_put_aside(**options: Any) -> Any:
                try:
                    return read(**options)
                except (ValueError, RecursionError) as exc:  # what was popped is no JSON
                    text = getattr(exc, "doc", None) or getattr(exc, "object", b"")
                    self._keep("", {}, f"{type(exc).__name__}: {exc}"[:200], excerpt_of([text]))
                    return True

            channel.handlers["BRPOP"] = read_or_put_aside

    def _is_of_the_line(self, exc: Exception) -> bool:
        return isinstance(exc, self._broken_line) and not isinstance(exc, _OF_A_VALUE)

    def _measured(self, given: type[Any]) -> type[Any]:
        """kombu's class of messages, which refuses to inflate what would be too large."""
        gate = self

        class Measured(given):  # type: ignore[misc]
            """A message whose compression was looked at."""

            def __init__(self, raw: Any, channel: Any = None, **kwargs: Any) -> None:
                try:
                    gate._check_inflation(raw, channel)
                except InflationError as exc:
                    # kombu inflates nothing that has an error, and calls `on_decode_error`
                    self.errors = [(type(exc), exc, exc.__traceback__)]
                super().__init__(raw, channel=channel, **kwargs)

        return Measured

    def _check_inflation(self, raw: Any, channel: Any) -> None:
        if isinstance(raw, Mapping):
            headers, properties = raw.get("headers"), raw.get("properties")
            body = raw.get("body")
        else:
            headers = raw.properties.get("application_headers")
            properties, body = {}, raw.body
        method = headers.get("compression") if isinstance(headers, Mapping) else None
        if not method or self._is_elsewhere(raw):
            return
        if isinstance(raw, Mapping) and isinstance(properties, Mapping):
            body = channel.decode_body(body, properties.get("body_encoding"))
        check_inflation(body, method, self._most)

    def _is_elsewhere(self, raw: Any) -> bool:
        """Whether a message came by a queue of the attached app's own."""
        info = raw.get("properties", {}) if isinstance(raw, Mapping) else raw
        info = info.get("delivery_info") if isinstance(info, Mapping) else info.delivery_info
        queue = info.get("routing_key") if isinstance(info, Mapping) else None
        return isinstance(queue, str) and self._is_of_others(queue)

    def _is_of_others(self, queue: str) -> bool:
        served = self._app.amqp.queues.consume_from
        return queue in served and queue not in self._runtime.organism.queues

    # --- deciding ----------------------------------------------------------------------------

    def _cause(self, message: Any) -> str:
        """Why a message cannot be let through; empty if it can. May raise for one that cannot."""
        headers, info = message.headers, message.delivery_info
        if not isinstance(info.get("routing_key"), str | None):
            return "the routing key is not a text"
        if not isinstance(headers, Mapping):
            return "the headers are not a mapping"
        cause = property_fault(message.properties) or header_fault(headers)
        if cause:
            return cause
        queue = info.get("routing_key") or ""
        if not self._is_of_others(queue) and len(message.body or b"") > self._most:
            return f"the body has more than {self._most} bytes"
        body = message.payload
        named = headers.get("task", body.get("task") if isinstance(body, dict) else None)
        if named in self._runtime.organism.listeners:
            return self._fault_of_ours(message, body)
        if named is None and not self._is_of_others(queue):
            return "the message names no task"
        return "the message is nested too deep" if too_deep([headers, body], _DEEPEST) else ""

    def _fault_of_ours(self, message: Any, body: Any) -> str:
        """Why a message for a listener is none."""
        cause = body_fault(body)
        if cause:
            return cause
        kwargs, parts = _parts(message.headers, body)
        cause = task_fault(parts, RESERVED) or self._time_fault(parts)
        if cause or not kwargs.keys() & {CONVERSATION, TOGETHER}:
            return cause
        if isinstance(body, dict):
            return "a message of an organism's own comes in Celery's protocol 2"
        cause = _own_fault(kwargs, parts["id"])
        if not cause and not kwargs.get(INJECTED):
            # Whoever sent it: nothing but the conversation's ending is anybody's result.
            message.headers["ignore_result"] = True
        return cause

    def _time_fault(self, parts: Mapping[str, Any]) -> str:
        """Why `eta` or `expires` is no time that Celery's timer can hold."""
        for name in ("eta", "expires"):
            value = parts.get(name)
            if value is None:
                continue
            try:
                moment: Any = maybe_make_aware(maybe_iso8601(value), self._app.conf.timezone)  # type: ignore[arg-type]
                timezone.to_system(moment).timestamp()
            except Exception as exc:
                return f"header {name!r} is no date and time in ISO 8601: {type(exc).__name__}"
        return ""

    # --- doing -------------------------------------------------------------------------------

    def _turn_away(self, message: Any, cause: str) -> None:
        """Put a message aside and take it off its queue."""
        headers = message.headers if isinstance(message.headers, Mapping) else {}
        info = message.delivery_info if isinstance(message.delivery_info, Mapping) else {}
        self._forget(headers.get("id"), message)
        try:
            excerpt = excerpt_of([headers, message.body or b""])
            self._keep(str(info.get("routing_key"))[:255], self._named(message), cause, excerpt)
        finally:
            if not message.acknowledged:
                message.ack_log_error(logger, self._broken_line)

    def _keep(self, queue: str, parts: Mapping[str, Any], cause: str, excerpt: str) -> None:
        cause = cause.encode(errors="backslashreplace").decode()[:MAX_CAUSE]
        texts = {n: "" if id_fault(parts.get(n)) else str(parts[n]) for n in ("id", "task")}
        refused = Refused(
            id=new_id(),
            at_ms=time.time_ns() // 1_000_000,
            queue=queue.encode(errors="backslashreplace").decode(),
            message_id=texts["id"],
            task=texts["task"],
            cause=cause,
            excerpt=excerpt,
        )
        self.aside.put(refused, lambda: self._tell(refused, parts))

    def _forget(self, message_id: Any, message: Any) -> None:
        """Take back what Celery has noted of a message before it raised."""
        request = state.requests.get(message_id) if isinstance(message_id, str) else None
        if request is None or request.message is not message:
            return
        state.task_ready(request)
        jobs = getattr(getattr(self._consumer.pool, "_pool", None), "_cache", {})
        for number, job in list(jobs.items()):
            if getattr(job, "correlation_id", None) == message_id and not job.accepted():
                jobs.pop(number, None)

    def _named(self, message: Any) -> Mapping[str, Any]:
        """The parts of a refused message by which its sender can be told."""
        headers = message.headers if isinstance(message.headers, Mapping) else {}
        kwargs, parts = _NO_KEYWORDS, dict(headers)
        with suppress(Exception):  # a body that cannot be read; the headers may say who sent it
            if not shape_fault(message.payload):
                kwargs, parts = _parts(headers, message.payload)
        if {CONVERSATION, TOGETHER} & kwargs.keys():
            return {**parts, "told": False}
        reply_to = message.properties.get("reply_to") if message.properties else None
        return {**parts, "reply_to": reply_to, "correlation_id": parts.get("id")}

    def _tell(self, refused: Refused, parts: Mapping[str, Any]) -> None:
        """Store the refusal as the result of a task that is not known yet, and call its errbacks.

        A conversation or delivery of that id keeps its own ending: a message that was refused
        cannot prove that it is the one that began it.
        """
        listeners = self._runtime.organism.listeners
        if not refused.message_id or refused.task not in listeners or parts.get("told") is False:
            return
        if self._runtime.backend.conversation(refused.message_id) is not None:
            return
        sound = not task_fault(parts, RESERVED)
        canvas = {name: parts.get(name) for name in _CANVAS_PARTS} if sound else {}
        request = Context(
            id=refused.message_id, task=refused.task, hostname=self._consumer.hostname,
            reply_to=parts.get("reply_to") if sound else None,
            correlation_id=refused.message_id,
            group=parts.get("group") if sound else None,
            delivery_info={"routing_key": refused.queue},
            **canvas,
        )  # fmt: skip
        error = ConversationError("validation", f"the message was refused: {refused.cause}", False)
        self._app.backend.mark_as_failure(
            refused.message_id, error, request=request,
            store_result=parts.get("ignore_result") is not True,
        )  # fmt: skip


def _parts(headers: Mapping[str, Any], body: Any) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The keywords and all parts but arguments of a message, in either protocol of Celery's."""
    if isinstance(body, dict):
        parts = {name: value for name, value in body.items() if name not in _BODY_ONLY}
        return body["kwargs"], parts | dict(headers)
    _args, kwargs, embed = body
    return kwargs, {**headers, **(embed or {})}


#: what a body of protocol 1 holds that is no header
_BODY_ONLY = frozenset(("args", "kwargs", "utc", "taskset", "meth"))


def _own_fault(kwargs: Mapping[str, Any], message_id: str) -> str:
    """Why a message that says to be the organism's own cannot be that."""
    if TOGETHER in kwargs:
        ids = kwargs[TOGETHER]
        if not isinstance(ids, list) or not 1 <= len(ids) <= MOST or any(map(id_fault, ids)):
            return f"{TOGETHER!r} is not a list of 1 to {MOST} ids"
        return ""
    fault = id_fault(kwargs[CONVERSATION])
    if fault:
        return f"{CONVERSATION!r} {fault}"
    if kwargs.get(INJECTED) is None:
        return ""
    if kwargs[INJECTED] is not True or kwargs[CONVERSATION] != message_id:
        return f"{INJECTED!r} belongs to the message that began the conversation"
    return ""
