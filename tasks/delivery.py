"""The steps of one delivery in a worker: begin, run the handler, commit, publish.

The order of effects is the protocol: nothing is published before it is committed, and nothing is
acknowledged before it is published or safe in the outbox. A crash between two effects leaves the
registry with a lease that expires or an outbox that is not empty, and the recovery sweep acts on
both. Deciding and storing are left to the planner and the registry.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from traceback import format_exception_only

from msgspec import Struct
from msgspec.structs import replace

from threadloom.primitives import SystemCall
from threadloom.routing import (
    ContextBuffer,
    HandlerMetadata,
    Huh,
    InvalidEnvelopeError,
    Listener,
    StoredResults,
    backoff_ms,
    plan,
    receive,
)
from threadloom.routing.actions import Actions, Fault, Retry
from threadloom.routing.faults import handler_fault, timeout_fault
from threadloom.routing.records import (
    Beginning,
    Begun,
    CommitResult,
    Committed,
    Delivery,
    Ending,
    Fenced,
    Frame,
    Publication,
    Release,
    Replan,
    Skip,
    Transition,
    Turn,
)
from threadloom.routing.states import Abandonment, SkipReason
from threadloom.tasks.handlers import (
    HandlerTimeout,
    crash,
    ends_process,
    run_handler,
    time_limit,
    told,
)
from threadloom.tasks.hop_events import HopEvents
from threadloom.tasks.patience import PATIENCE_S, patiently
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import Point, Runtime, new_id

logger = logging.getLogger(__name__)

#: seconds to prepare what a handler has returned, if it has used up its own time
LEAST_PLANNING_S = 1.0


class Outcome(Struct, frozen=True):
    """What a worker has done for a message."""

    #: the conversation's ending, if this message's task has to return it to the injector
    release: Ending | None = None
    #: one line for people that says what was done
    summary: str = ""
    #: true: the handler was not run, or its result was refused because the lease was lost
    skipped: bool = False


class _CurrentTurn:
    """The turn of one message: how long it may go on, and what of it is its own to hand over."""

    def __init__(
        self,
        runtime: Runtime,
        frame: Frame,
        *,
        root_id: str,
        native: bool,
        limit_s: float,
        until: float | None,
        owner: str,
    ) -> None:
        self._runtime = runtime
        self._limit_s = limit_s
        slice_s = runtime.organism.local_slice_ms / 1000
        self._until = time.monotonic() + slice_s if until is None else until
        self._base = Turn(frame.delivery.id, owner, runtime.lease_ms)
        self._going_on = replace(self._base, within_s=limit_s)
        self.root_id = root_id
        #: whether the injector gets the conversation's value by this task returning it
        self.hands_over = native and frame.delivery.id == frame.conversation_id

    def now(self, delivery: Delivery) -> Turn:
        """The turn as a commit has to know it: it goes on until its slice is over."""
        if time.monotonic() < self._until:
            return self._going_on
        if not delivery.opens_branch:
            return self._base
        return replace(self._base, lanes=patiently(self._runtime.lanes, self._runtime))


class Deliverer:
    """Performs deliveries for one organism in one worker process."""

    def __init__(
        self,
        runtime: Runtime,
        publisher: Publisher,
        *,
        hard_limit_s: Callable[[str], float | None] = lambda _name: None,
    ) -> None:
        """`hard_limit_s` returns the pool's hard time limit for a listener; None: no limit."""
        self._runtime = runtime
        self._publisher = publisher
        self._hard_limit_s = hard_limit_s

    def deliver(
        self,
        beginning: Callable[[str], Beginning],
        *,
        root_id: str,
        native: bool,
        refusal: Fault | None = None,
        limit_s: float = 0.0,
        hops: HopEvents | None = None,
        has_message: bool = True,
        until: float | None = None,
    ) -> Outcome:
        """Perform a message's turn: its delivery, and those that follow within the time slice.

        `beginning` asks the registry for it, in the name of the turn. `native`: this message
        carries the injector's own canvas, so the conversation's value may be handed over by
        returning it. `refusal` is told instead of running the handler. `limit_s`: the longest
        time that a handler may have before the pool would end the process; `hops` is told of
        every delivery that has no message, as the first one usually `has_message`. `until`:
        monotonic s at which the turn's slice is over, if it began before.
        """
        owner = self._runtime.new_turn()
        begun = patiently(lambda: beginning(owner), self._runtime, patience_s=PATIENCE_S)
        if isinstance(begun, Release):
            return Outcome(begun.ending)
        if isinstance(begun, Skip):
            # A conversation that the registry does not have: it was forgotten, or is another's.
            level = logging.WARNING if begun.reason is SkipReason.UNKNOWN else logging.INFO
            logger.log(level, "delivery.skipped root=%s reason=%s", root_id, begun.reason)
            return Outcome(summary=begun.reason, skipped=True)
        assert isinstance(begun, Begun)
        turn = _CurrentTurn(
            self._runtime,
            begun.frame,
            root_id=root_id,
            native=native,
            limit_s=limit_s,
            until=until,
            owner=owner,
        )
        began = time.time()
        first, following = self._carry_out(begun.frame, turn, refusal)
        if hops is not None and not has_message:
            hops.record(begun.frame.delivery, root_id, began, first.summary)
        if following is None:
            return first
        return replace(first, release=self._go_on(following, turn, hops))

    def _go_on(
        self, following: Frame | None, turn: _CurrentTurn, hops: HopEvents | None
    ) -> Ending | None:
        """Carry out what the turn has taken, until it takes nothing; the ending to hand over."""
        outcome, overtime = Outcome(), self._runtime.overtime
        while following is not None:
            frame, began = following, time.time()
            if overtime is not None:
                overtime.expect(self._hard_limit_s(frame.delivery.to))
            outcome, following = self._carry_out(frame, turn)
            if hops is not None:
                hops.record(frame.delivery, turn.root_id, began, outcome.summary)
        if overtime is not None:
            overtime.expect(None)
        return outcome.release

    def _carry_out(
        self, frame: Frame, turn: _CurrentTurn, refusal: Fault | None = None
    ) -> tuple[Outcome, Frame | None]:
        """One delivery, and what the turn goes on with."""
        self._runtime.reached(Point.BEGUN, frame.delivery)
        limit = time_limit(self._time_s(frame))
        actions = (refusal,) if refusal else self._run(frame)
        self._runtime.reached(Point.HANDLED, frame.delivery)
        if isinstance(actions, Retry):
            return self._postpone(actions, frame), None
        committed, transition = self._commit(actions, frame, turn, limit.left_s)
        if committed is None:
            logger.warning("delivery.fenced message_id=%s", frame.delivery.id)
            return Outcome(summary="taken over", skipped=True), None
        self._runtime.reached(Point.COMMITTED, frame.delivery)
        tell_operators(transition, frame)
        outbox: list[Publication] = list(committed.publications)
        if committed.resume is not None and not turn.hands_over:
            outbox.append(committed.resume)
        joins = transition.joins + ((frame.join,) if frame.join else ())
        self._publisher.publish(outbox, root_id=turn.root_id, joins=joins, clear_later=True)
        self._runtime.reached(Point.CLEARED, frame.delivery)
        outcome = Outcome(committed.release if turn.hands_over else None, _summary(transition))
        return outcome, committed.begun.frame if committed.begun else None

    # --- run ---------------------------------------------------------------------------

    def _run(self, frame: Frame) -> Actions | Retry:
        listener = self._runtime.organism.listeners.get(frame.delivery.to)
        if listener is None:
            return (Fault(handler_fault(), f"no listener {frame.delivery.to!r} any more"),)
        if frame.abandoned is Abandonment.TIMEOUT:
            note = f"the handler ran past its hard limit ({listener.timeout_s} s and some)"
            return (Fault(timeout_fault(), note, dead_letter=True),)
        if frame.tries > listener.max_retries + 1:
            note = f"given up after {frame.tries - 1} runs, the last of which lost its worker"
            return (Fault(handler_fault(), note, dead_letter=True),)
        try:
            payload = receive(frame.delivery, listener, self._runtime.organism)
        except InvalidEnvelopeError as exc:
            return (Fault(Huh.of(str(exc), frame.delivery.envelope), str(exc)),)
        except BaseException as exc:  # a payload class's own code may raise anything
            return crash(exc, listener.name, frame.delivery.id)
        meta = self._system_call(frame) if listener.system else self._meta(frame, listener)
        ran = run_handler(
            listener,
            payload,
            meta,
            self._runtime,
            timeout_s=self._time_s(frame),
            message_id=frame.delivery.id,
        )
        if isinstance(ran, Retry) and frame.tries > listener.max_retries:
            note = f"given up after {frame.tries} runs: {ran.note}"
            return (Fault(handler_fault(retry_allowed=True), note, dead_letter=True),)
        return ran

    def _time_s(self, frame: Frame) -> float:
        """Seconds that the handler has, and that what it returned takes to be prepared."""
        listener = self._runtime.organism.listeners.get(frame.delivery.to)
        timeout_s = listener.timeout_s if listener is not None else 0.0
        limit_ms = frame.delivery.answer_within_ms
        return min(timeout_s, limit_ms / 1000) if limit_ms else timeout_s

    def _postpone(self, retry: Retry, frame: Frame) -> Outcome:
        """Schedule another attempt after the backoff; the registry, not the broker, keeps it."""
        listener = self._runtime.organism.listeners[frame.delivery.to]
        delay_ms = backoff_ms(listener.retry_backoff_s, frame.tries, draw=random.random())  # noqa: S311
        if retry.after_s is not None:
            delay_ms = round(retry.after_s * 1000)
        reason = f"again in {delay_ms} ms: {retry.note}"
        released = patiently(
            lambda: self._runtime.backend.retry(
                frame.conversation_id,
                frame.delivery.id,
                attempt=frame.attempt,
                delay_ms=delay_ms,
                reason=reason,
            ),
            self._runtime,
        )
        self._publisher.publish(released or (), clear_later=True)
        return Outcome(summary=reason)

    def _meta(self, frame: Frame, listener: Listener) -> HandlerMetadata:
        delivery = frame.delivery
        return HandlerMetadata(
            thread_id=delivery.thread_id,
            from_id=delivery.from_id,
            own_name=listener.name if listener.agent else None,
            is_self_call=delivery.from_id == listener.name,
            usage_instructions=listener.usage,
            message_id=delivery.id,
            context=ContextBuffer(self._runtime.backend, frame.conversation_id).up_to(delivery),
            stored=StoredResults(
                self._runtime.backend,
                frame.conversation_id,
                max_items=self._runtime.organism.max_deliveries,
                max_item_bytes=self._runtime.organism.max_payload_bytes,
            ),
        )

    def _system_call(self, frame: Frame) -> SystemCall:
        stored = StoredResults(self._runtime.backend, frame.conversation_id)
        return SystemCall(frame, self._runtime.organism, stored, self._runtime.lanes)

    # --- commit ------------------------------------------------------------------------

    def _plan(
        self, actions: Actions, frame: Frame, over_limit: bool, label_taken: bool, left_s: float
    ) -> Transition:
        def planned(chosen: Actions) -> Transition:
            return plan(
                chosen, frame, self._runtime.organism,
                new_id=new_id, over_limit=over_limit, label_taken=label_taken,
            )  # fmt: skip

        try:
            with time_limit(max(left_s, LEAST_PLANNING_S)):
                return planned(actions)
        except HandlerTimeout:
            logger.error("handler.too_much message_id=%s", frame.delivery.id)
            note = f"the handler returned more than could be prepared in its time ({left_s:.1f} s)"
            return planned((Fault(timeout_fault(), note, dead_letter=True),))
        except BaseException as exc:  # a handler may return anything, e.g. a `to` that is a list
            return planned(_unusable(exc, frame))

    def _commit(
        self, actions: Actions, frame: Frame, turn: _CurrentTurn, left_s: float
    ) -> tuple[Committed | None, Transition]:
        over_limit = label_taken = False
        commit, published = self._runtime.backend.commit, self._runtime.take_uncleared()

        def told(transition: Transition) -> CommitResult:
            # The turn's slice may be over when the registry answers again.
            return commit(transition, turn=turn.now(frame.delivery), published=published)

        while True:
            transition = self._plan(actions, frame, over_limit, label_taken, left_s)
            result = patiently(lambda t=transition: told(t), self._runtime)  # type: ignore[misc]
            if isinstance(result, Committed):
                return result, transition
            if isinstance(result, Fenced):
                return None, transition
            assert isinstance(result, Replan)
            over_limit |= result.over_limit
            label_taken |= result.label_taken
            frame = replace(
                frame,
                deliveries=result.deliveries,
                children={**frame.children, **result.children},
            )


#: how `routing.rights` says that a peer is missing in somebody's list
_REFUSED = "it is not in the peers of"


def tell_operators(transition: Transition, frame: Frame) -> None:
    """Write the one line that a dead letter of any cause has in the log, and a refused call has."""
    if not transition.dead_letter and _REFUSED not in transition.note:
        return
    cause = "delivery.dead_letter" if transition.dead_letter else "call.refused"
    logger.error(
        "%s listener=%s conversation=%s message_id=%s reason=%s",
        cause, frame.delivery.to, frame.conversation_id, frame.delivery.id,
        one_line(transition.note),
    )  # fmt: skip


def one_line(text: str) -> str:
    """Return the last line of a note: of a traceback, the error itself."""
    return repr(text.strip().rpartition("\n")[2])


def _unusable(exc: BaseException, frame: Frame) -> Actions:
    if ends_process(exc):
        raise exc
    logger.error("handler.unusable_response message_id=%s", frame.delivery.id, exc_info=exc)
    note = told(["what the handler returned cannot be sent: ", *format_exception_only(exc)])
    return (Fault(handler_fault(), note, dead_letter=True),)


def _summary(transition: Transition) -> str:
    parts = [f"→ {d.to} {d.payload_name}" for d in transition.deliveries if not d.held][:3]
    if transition.ending is not None:
        parts.append(f"conversation {transition.ending.status}")
    if transition.results:
        parts.append("branch answered")
    if transition.waits:
        parts.append("waits for input")
    return ", ".join(parts) or "no reply"
