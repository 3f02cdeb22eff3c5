"""The planner: from what a run asked for to what must happen, as one Transition.

Pure: no I/O, no clock; ids come from `new_id`. It knows the rules of routing (peers, threads,
depth, who gets which error) and of joins (what a branch's answer leads to); the backends apply
the transition atomically and `tasks` publishes what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from threadloom.routing.actions import (
    Action,
    Actions,
    FanOut,
    Fault,
    Forward,
    JoinSettled,
    MoreItems,
    Supply,
)
from threadloom.routing.envelope import build_envelope
from threadloom.routing.errors import InvalidPayloadError, PayloadDefinitionError
from threadloom.routing.faults import (
    Huh,
    handler_fault,
    limit_fault,
    routing_fault,
    silent_fault,
    validation_fault,
)
from threadloom.routing.handler import HandlerResponse
from threadloom.routing.intake import Admitted, undeclared
from threadloom.routing.markup import canonical
from threadloom.routing.organism import Listener, Organism
from threadloom.routing.outgoing import Content, content_of, ending_of
from threadloom.routing.records import (
    Branch,
    BranchResult,
    Delivery,
    Ending,
    Frame,
    Join,
    JoinKind,
    Opening,
    Refill,
    Scope,
    Thread,
    Transition,
    Wait,
)

#: the sender of faults that no listener sent
SYSTEM = "system"
_NOTE_LIMIT = 4096


def open_conversation(
    conversation: str,
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
        id=conversation,
        thread=thread.id,
        from_id=from_id,
        to=listener.name,
        payload_name=admitted.name,
        payload_path=admitted.path,
        envelope=build_envelope(from_id, listener.name, thread.id, admitted.payload),
    )
    return Opening(conversation, entry, root, thread, canvas)


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
    draft = _Draft(frame, organism, new_id, over_limit=over_limit, label_taken=label_taken)
    for action in actions:
        draft.add(action)
    transition = draft.transition()
    created = len(transition.deliveries)
    if transition.max_deliveries and frame.deliveries + created > transition.max_deliveries:
        return plan(
            actions, frame, organism, new_id=new_id, over_limit=True, label_taken=label_taken
        )
    return transition


@dataclass(slots=True)
class _Draft:
    """A transition being written; one method per kind of action."""

    frame: Frame
    organism: Organism
    new_id: Callable[[], str]
    over_limit: bool = False
    label_taken: bool = False
    deliveries: list[Delivery] = field(default_factory=list)
    threads: list[Thread] = field(default_factory=list)
    children: dict[tuple[str, str], str] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    results: list[BranchResult] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    refills: list[Refill] = field(default_factory=list)
    ending: Ending | None = None
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    limit_told: bool = False
    dead_letter: bool = False

    # --- what is asked -----------------------------------------------------------------

    def add(self, action: Action) -> None:
        if isinstance(action, Fault):
            self.notes.append(action.note)
            self.dead_letter |= action.dead_letter
            self._reply(action.payload, failed=True)
        elif isinstance(action, FanOut):
            self._fan_out(action)
        elif isinstance(action, Supply):
            self._supply(action)
        elif isinstance(action, Forward):
            self._forward(action)
        elif action.prompt is not None:
            self._wait(action.prompt)
        elif action.to:
            self._call(action)
        else:
            self._reply(action.payload)

    def transition(self) -> Transition:
        frame = self.frame
        silent = b""
        if frame.delivery.scope:
            silent = canonical(content_of(silent_fault()).element)
        return Transition(
            conversation=frame.conversation,
            delivery=frame.delivery.id,
            attempt=frame.attempt,
            deliveries=tuple(self.deliveries),
            threads=tuple(self.threads),
            children=tuple((p, n, c) for (p, n), c in self.children.items()),
            joins=tuple(self.joins),
            results=tuple(self.results),
            waits=tuple(self.waits),
            refills=tuple(self.refills),
            ending=self.ending,
            silent_branch=silent,
            max_deliveries=self.organism.max_deliveries if self.calls else 0,
            note="\n".join(self.notes)[:_NOTE_LIMIT],
            dead_letter=self.dead_letter,
        )

    # --- replies -----------------------------------------------------------------------

    def _reply(self, payload: Any, *, failed: bool = False) -> None:
        """Answer the caller; a payload that breaks its own contract becomes a fault."""
        try:
            content = self._content(payload)
        except (InvalidPayloadError, PayloadDefinitionError) as exc:
            self.notes.append(f"the reply cannot be sent: {exc}")
            self.dead_letter = True
            content = content_of(handler_fault())
        thread = self.frame.thread
        if thread.branch is not None:
            self._answer_branch(thread.branch, content, success=not (failed or content.is_fault))
        elif thread.depth <= 1:
            self._end(content)
        else:
            assert thread.caller is not None
            assert thread.parent is not None
            self._deliver(thread.caller, thread.parent, self._own_name, content, thread.depth - 1)

    def _end(self, content: Content) -> None:
        if self.ending is None:
            thread = self.frame.thread
            self.ending = ending_of(content, thread.parent or "", repairs=thread.repairs)

    def _answer_branch(self, branch: Branch, content: Content, *, success: bool) -> None:
        join = self.frame.join
        result = BranchResult(branch, success, canonical(content.element), content.path)
        following = branch.index + 1
        if (
            join is not None
            and join.kind is JoinKind.SEQUENCE
            and result.success
            and following < join.total
        ):
            thread, delivery = self._next_step(join, following, content)
            result = BranchResult(
                branch, True, result.payload, result.payload_path, delivery, thread
            )
        self.results.append(result)

    def _next_step(self, join: Join, index: int, content: Content) -> tuple[Thread, Delivery]:
        step = self.frame.thread  # (…, initiator, the sequence, this step)
        name = join.targets[index]
        branch = Branch(join.id, index)
        thread = Thread(self.new_id(), (*step.chain[:-1], name), step.parent, branch)
        scope = (*self._scope_around(join.id), branch)
        delivery = self._new_delivery(
            name, thread.id, step.chain[-3], content, scope,
            depth=thread.depth, delivery_id=join.deliveries[index],
        )  # fmt: skip
        return thread, delivery

    def _scope_around(self, join: str) -> Scope:
        scope = self.frame.delivery.scope
        joins = [branch.join for branch in scope]
        return scope[: joins.index(join)] if join in joins else scope

    # --- calls -------------------------------------------------------------------------

    def _call(self, response: HandlerResponse) -> None:
        target = self.organism.listeners.get(response.to)
        own = self.organism.listeners.get(self._own_name)
        if target is None or (own is not None and not own.may_call(response.to)):
            self._tell_self(routing_fault(), f"may not call {response.to!r}, or there is none")
            return
        try:
            content = self._content(response.payload)
        except (InvalidPayloadError, PayloadDefinitionError) as exc:
            self._tell_self(validation_fault(str(exc)), f"the call cannot be sent: {exc}")
            return
        broken = undeclared(content.element, target)
        if broken:
            self._tell_self(Huh.of(broken, canonical(content.element)), broken)
            return
        thread = self.frame.thread
        if response.to == self._own_name:
            self._deliver(response.to, thread.id, self._own_name, content, thread.depth, call=True)
            return
        if thread.depth + 1 > self.organism.max_depth:
            self._tell_self(limit_fault(), f"the call chain is {thread.depth} deep")
            return
        if self.over_limit:  # before a thread is made that nobody would ever be called on
            self._limit_reply()
            return
        child = self._child(thread.id, (*thread.chain, response.to), response.to)
        self._deliver(response.to, child, self._own_name, content, thread.depth + 1, call=True)

    def _child(self, parent: str, chain: tuple[str, ...], name: str) -> str:
        """The one child thread of `parent` for `name`: known, proposed before, or proposed now."""
        known = self.frame.children.get((parent, name)) or self.children.get((parent, name))
        if known is not None:
            return known
        proposed = self.new_id()
        self.children[parent, name] = proposed
        self.threads.append(Thread(proposed, chain, parent))
        return proposed

    def _tell_self(self, fault: Any, note: str) -> None:
        """A call that cannot be made is answered to the listener that wanted to make it."""
        self.notes.append(note)
        thread = self.frame.thread
        self._deliver(self._own_name, thread.id, SYSTEM, content_of(fault), thread.depth, call=True)

    def _forward(self, forward: Forward) -> None:
        thread = self.frame.thread
        assert thread.parent is not None
        target = self.organism.listeners.get(forward.to)
        if target is None:  # removed since it was asked for
            self.add(Fault(routing_fault(), f"there is no listener {forward.to!r} to send to"))
            return
        try:
            content = self._content(forward.payload)
        except InvalidPayloadError as exc:
            self.add(Fault(handler_fault(), f"the answer cannot be sent: {exc}"))
            return
        broken = undeclared(content.element, target)
        if broken:
            self.add(Fault(Huh.of(broken, canonical(content.element)), broken))
            return
        chain = (*thread.chain[:-1], forward.to)
        caller = thread.chain[-2]
        if thread.branch is None:
            child = self._child(thread.parent, chain, forward.to)
            self._deliver(forward.to, child, caller, content, thread.depth, call=True)
            return
        stand_in = Thread(self.new_id(), chain, thread.parent, thread.branch)
        self.threads.append(stand_in)
        self._deliver(forward.to, stand_in.id, caller, content, thread.depth, call=True)

    def _wait(self, prompt: str) -> None:
        delivery = self.frame.delivery
        self.waits.append(
            Wait(self.new_id(), delivery.thread, self._own_name, prompt, delivery.scope)
        )

    # --- fan-out -----------------------------------------------------------------------

    def _fan_out(self, fan: FanOut) -> None:
        if self.label_taken or self.over_limit:
            refusal = fan.label_refusal if self.label_taken else fan.limit_refusal
            self.notes.append(repr(refusal))
            self._reply(refusal, failed=True)
            return
        self.calls += 1
        join_id = self.new_id()
        steps = fan.kind is JoinKind.SEQUENCE
        body = self._to_itself(JoinSettled(join_id)) if fan.collect else None
        ids = tuple(self.new_id() for _ in range(fan.total if steps else 0))
        join = Join(
            id=join_id,
            kind=fan.kind,
            thread=self.frame.thread.id,
            total=fan.total,
            need_ok=fan.need_ok,
            need_failed=fan.need_failed,
            body=body.id if body else None,
            deliveries=ids,
            targets=fan.targets,
            window=fan.window,
            released=min(fan.released, len(fan.inputs)),
            deadline_ms=fan.deadline_ms,
            item_timeout_ms=fan.item_timeout_ms,
            label=fan.label,
            memo=fan.memo,
        )
        self.joins.append(join)
        if body is not None:
            self.deliveries.append(body)
        for index, element in enumerate(fan.inputs):
            self._branch(join, index, element, held=bool(join.released) and index >= join.released)
        self._refill(join, 0, len(fan.inputs), fan.more_from)
        if fan.reply is not None:
            self._reply(fan.reply)

    def _supply(self, supply: Supply) -> None:
        for index, element in enumerate(supply.inputs, supply.start):
            self._branch(supply.join, index, element, held=True)
        following = supply.start + len(supply.inputs)
        self._refill(supply.join, supply.start, following, supply.more_from)

    def _refill(self, join: Join, start: int, following: int, more_from: str) -> None:
        """Have the next branches made once the lanes come to those from `start` on."""
        if following >= join.total or not more_from:
            return
        more = self._to_itself(MoreItems(join.id, more_from, following))
        self.deliveries.append(more)
        self.refills.append(Refill(join.id, start, more.id))

    def _branch(self, join: Join, index: int, element: Any, *, held: bool) -> None:
        opener = self.frame.thread
        branch = Branch(join.id, index)
        steps = join.kind is JoinKind.SEQUENCE
        name = join.targets[index if steps else 0]
        thread = Thread(self.new_id(), (*opener.chain, name), opener.id, branch)
        self.threads.append(thread)
        content = Content(element, etree.QName(element).localname, "", False)
        self.deliveries.append(
            self._new_delivery(
                # Branches see the initiator as their caller; they need not know of the join.
                name, thread.id, opener.chain[-2], content,
                (*self.frame.delivery.scope, branch),
                depth=thread.depth,
                delivery_id=join.deliveries[index] if steps else "",
                held=held,
                answer_within_ms=join.item_timeout_ms,
            )
        )  # fmt: skip

    def _to_itself(self, payload: Any) -> Delivery:
        """A delivery to this listener on this thread, held until a join releases it."""
        return self._new_delivery(
            self._own_name, self.frame.thread.id, self._own_name, content_of(payload),
            self.frame.delivery.scope, depth=self.frame.thread.depth, held=True,
        )  # fmt: skip

    # --- shared ------------------------------------------------------------------------

    @property
    def _own_name(self) -> str:
        return self.frame.delivery.to

    def _content(self, payload: Any) -> Content:
        content = content_of(payload)
        size = len(canonical(content.element))
        if size > self.organism.max_payload_bytes:
            raise InvalidPayloadError(
                content.name,
                [f"{size} bytes, more than max_payload_bytes {self.organism.max_payload_bytes}"],
            )
        return content

    def _deliver(
        self, to: str, thread: str, from_id: str, content: Content, depth: int, *,
        call: bool = False,
    ) -> None:  # fmt: skip
        if call:
            if self.over_limit:
                self._limit_reply()
                return
            self.calls += 1
        scope = self.frame.delivery.scope
        self.deliveries.append(self._new_delivery(to, thread, from_id, content, scope, depth=depth))

    def _limit_reply(self) -> None:
        """Past the delivery limit nothing is called any more: the limit goes up the chain."""
        if not self.limit_told:
            self.limit_told = True
            self.notes.append(f"the conversation has had {self.frame.deliveries} deliveries")
            self._reply(limit_fault())

    def _new_delivery(
        self, to: str, thread: str, from_id: str, content: Content, scope: Scope, *,
        depth: int, delivery_id: str = "", held: bool = False, answer_within_ms: int = 0,
    ) -> Delivery:  # fmt: skip
        return Delivery(
            id=delivery_id or self.new_id(),
            thread=thread,
            from_id=from_id,
            to=to,
            payload_name=content.name,
            payload_path=content.path,
            envelope=build_envelope(from_id, to, thread, content.element),
            scope=scope,
            parent=self.frame.delivery.id,
            depth=depth,
            held=held,
            opens_branch=bool(scope) and scope != self.frame.delivery.scope,
            answer_within_ms=answer_within_ms,
            local_s=self._local_s(to),
        )

    def _local_s(self, to: str) -> float:
        listener = self.organism.listeners.get(to)
        return listener.local_s if listener is not None else 0.0
