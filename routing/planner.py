"""The planner: from what a run asked for to what must happen, as one Transition.

Pure: no I/O, no clock; ids come from `new_id`. It knows the rules of routing (threads, depth,
limits, who gets which error). Who may send to whom is in `rights`, what a fan-out consists of in
`joins`, and a `draft` collects what comes out. The backends apply the transition atomically and
`tasks` publishes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from threadloom.routing.actions import Action, Actions, FanOut, Fault, Forward, Supply
from threadloom.routing.draft import Draft
from threadloom.routing.envelope import build_envelope
from threadloom.routing.errors import InvalidPayloadError, PayloadDefinitionError
from threadloom.routing.faults import (
    Huh,
    handler_fault,
    limit_fault,
    routing_fault,
    validation_fault,
)
from threadloom.routing.handler import HandlerResponse
from threadloom.routing.intake import Admitted, undeclared
from threadloom.routing.joins import answer_branch, open_join, supply_join
from threadloom.routing.organism import Listener, Organism
from threadloom.routing.outgoing import Content, content_of, ending_of
from threadloom.routing.payloads import canonical
from threadloom.routing.records import Delivery, Frame, Opening, Thread, Transition, Wait
from threadloom.routing.rights import refusal

#: the sender of faults that no listener sent
SYSTEM = "system"


def open_conversation(
    conversation_id: str,
    listener: Listener,
    admitted: Admitted,
    *,
    from_id: str,
    root_thread: str,
    new_id: Callable[[], str],
    canvas: str = "",
) -> Opening:
    """What injecting one payload creates; the first delivery's id is the conversation's."""
    root = Thread(root_thread, (from_id,))
    thread = Thread(new_id(), (from_id, listener.name), root_thread, repairs=admitted.repairs)
    entry = Delivery(
        id=conversation_id,
        thread_id=thread.id,
        from_id=from_id,
        to=listener.name,
        payload_name=admitted.name,
        payload_path=admitted.path,
        envelope=build_envelope(from_id, listener.name, thread.id, admitted.payload),
    )
    return Opening(conversation_id, entry, root, thread, canvas)


def plan(
    actions: Actions,
    frame: Frame,
    organism: Organism,
    *,
    new_id: Callable[[], str],
    over_limit: bool = False,
    label_taken: bool = False,
) -> Transition:
    """Decide everything that follows from one run of a listener.

    `over_limit` and `label_taken` are what a backend answered to the plan before this one.
    """
    calls = sum(isinstance(action, HandlerResponse) and action.is_call for action in actions)
    # Each call becomes a delivery: too many are not worth being prepared.
    if calls and organism.max_deliveries:
        over_limit |= frame.deliveries + calls > organism.max_deliveries
    draft = Draft(frame, organism, new_id)
    planning = _Planning(draft, over_limit=over_limit, label_taken=label_taken)
    for action in actions:
        planning.add(action)
    transition = draft.transition()
    created = len(transition.deliveries)
    if transition.max_deliveries and frame.deliveries + created > transition.max_deliveries:
        return plan(
            actions, frame, organism, new_id=new_id, over_limit=True, label_taken=label_taken
        )
    return transition


class _Planning:
    """The rules, one method per kind of action; what they decide goes into the draft."""

    def __init__(self, draft: Draft, *, over_limit: bool, label_taken: bool) -> None:
        self._draft = draft
        self._frame = draft.frame
        self._over_limit = over_limit
        self._label_taken = label_taken
        self._limit_told = False

    def add(self, action: Action) -> None:
        if isinstance(action, Fault):
            self._fail(action)
        elif isinstance(action, FanOut):
            self._fan_out(action)
        elif isinstance(action, Supply):
            supply_join(self._draft, action)
        elif isinstance(action, Forward):
            self._forward(action)
        elif action.prompt is not None:
            self._wait(action.prompt)
        elif action.is_reply:
            self._reply(action.payload)
        else:
            self._call(action)

    # --- replies -----------------------------------------------------------------------

    def _fail(self, fault: Fault) -> None:
        self._draft.notes.append(fault.note)
        self._draft.dead_letter |= fault.dead_letter
        self._reply(fault.payload, failed=True)

    def _reply(self, payload: Any, *, failed: bool = False) -> None:
        """Answer the caller; a payload that breaks its own contract becomes a fault."""
        draft = self._draft
        try:
            content = draft.content(payload)
        except (InvalidPayloadError, PayloadDefinitionError) as exc:
            draft.notes.append(f"the reply cannot be sent: {exc}")
            draft.dead_letter = True
            content = content_of(handler_fault())
        thread = self._frame.thread
        if thread.branch is not None:
            success = not (failed or content.is_fault)
            answer_branch(draft, thread.branch, content, success=success)
        elif thread.depth <= 1:
            self._end(content)
        else:
            assert thread.caller is not None
            assert thread.parent_id is not None
            draft.deliver(
                thread.caller,
                thread.parent_id,
                draft.own_name,
                content,
                thread.depth - 1,
                is_reply=True,
            )

    def _end(self, content: Content) -> None:
        if self._draft.ending is None:
            thread = self._frame.thread
            self._draft.ending = ending_of(content, thread.parent_id or "", repairs=thread.repairs)

    # --- calls -------------------------------------------------------------------------

    def _call(self, response: HandlerResponse) -> None:
        if self._over_limit:  # before a thread is made that nobody would ever be called on
            self._limit_reply()
            return
        draft, thread, to = self._draft, self._frame.thread, response.to
        refused = refusal(to, self._frame, draft.organism)
        if refused:
            self._tell_self(routing_fault(), refused)
            return
        try:
            content = draft.content(response.payload)
        except (InvalidPayloadError, PayloadDefinitionError) as exc:
            self._tell_self(validation_fault(str(exc)), f"the call cannot be sent: {exc}")
            return
        broken = undeclared(content.element, draft.organism.listeners[to])
        if broken:
            self._tell_self(Huh.of(broken, canonical(content.element)), broken)
            return
        if to == draft.own_name:
            self._deliver_call(to, thread.id, draft.own_name, content, thread.depth)
            return
        if thread.depth + 1 > draft.organism.max_depth:
            self._tell_self(limit_fault(), f"the call chain is {thread.depth} deep")
            return
        child = draft.child_thread(thread.id, (*thread.chain, to), to)
        self._deliver_call(to, child, draft.own_name, content, thread.depth + 1)

    def _tell_self(self, fault: Any, note: str) -> None:
        """A call that cannot be made is answered to the listener that wanted to make it."""
        self._draft.notes.append(note)
        thread, own_name = self._frame.thread, self._draft.own_name
        self._deliver_call(
            own_name, thread.id, SYSTEM, content_of(fault), thread.depth, is_reply=True
        )

    def _forward(self, forward: Forward) -> None:
        draft, thread = self._draft, self._frame.thread
        assert thread.parent_id is not None
        refused = refusal(forward.to, self._frame, draft.organism)
        if refused:
            self._fail(Fault(routing_fault(), refused))
            return
        try:
            content = draft.content(forward.payload)
        except InvalidPayloadError as exc:
            self._fail(Fault(handler_fault(), f"the answer cannot be sent: {exc}"))
            return
        broken = undeclared(content.element, draft.organism.listeners[forward.to])
        if broken:
            self._fail(Fault(Huh.of(broken, canonical(content.element)), broken))
            return
        chain = (*thread.chain[:-1], forward.to)
        if thread.branch is None:
            child = draft.child_thread(thread.parent_id, chain, forward.to)
        else:
            stand_in = Thread(draft.new_id(), chain, thread.parent_id, thread.branch)
            draft.threads.append(stand_in)
            child = stand_in.id
        self._deliver_call(forward.to, child, thread.chain[-2], content, thread.depth)

    def _wait(self, prompt: str) -> None:
        draft, delivery = self._draft, self._frame.delivery
        draft.waits.append(
            Wait(draft.new_id(), delivery.thread_id, draft.own_name, prompt, delivery.scope)
        )

    def _fan_out(self, fan: FanOut) -> None:
        for target in dict.fromkeys(fan.targets):
            refused = refusal(target, self._frame, self._draft.organism)
            if refused:
                self._fail(Fault(routing_fault(), refused))
                return
        if self._label_taken or self._over_limit:
            answer = fan.label_refusal if self._label_taken else fan.limit_refusal
            self._fail(Fault(answer, repr(answer)))
            return
        open_join(self._draft, fan)
        if fan.reply is not None:
            self._reply(fan.reply)

    # --- the delivery limit ------------------------------------------------------------

    def _deliver_call(
        self,
        to: str,
        thread_id: str,
        from_id: str,
        content: Content,
        depth: int,
        *,
        is_reply: bool = False,
    ) -> None:
        if self._over_limit:
            self._limit_reply()
            return
        self._draft.calls = True
        self._draft.deliver(to, thread_id, from_id, content, depth, is_reply=is_reply)

    def _limit_reply(self) -> None:
        """Past the delivery limit nothing is called any more: the limit goes up the chain."""
        if not self._limit_told:
            self._limit_told = True
            deliveries = self._frame.deliveries
            self._draft.notes.append(f"the conversation has had {deliveries} deliveries")
            self._reply(limit_fault())
