"""Conversations told by hand: small builders of the transitions that a planner would decide.

Ids are counted, not random, so two backends that are told the same story must give the same
answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from msgspec.structs import replace

from threadloom.routing.backends import SharedBackend, codec
from threadloom.routing.records import (
    Begun,
    Branch,
    BranchResult,
    CommitResult,
    Committed,
    Delivery,
    Due,
    Ending,
    Frame,
    Join,
    Opening,
    Publication,
    Scope,
    Thread,
    Transition,
    Wait,
)
from threadloom.routing.states import ConversationStatus

T = TypeVar("T")

WAIT_S = 200.0
SILENT = b"<SystemError/>"
LONG_MS = 60_000
DONE = Ending(ConversationStatus.COMPLETED, {"type": "Done", "payload": {"value": 5}})
KILLED = Ending(ConversationStatus.KILLED, {"code": "killed"})


@dataclass(frozen=True)
class Bench:
    """A backend under test, and a way to let its time pass."""

    backend: SharedBackend
    #: another backend on the same store
    another: Callable[..., SharedBackend]
    #: let some ms pass
    tick: Callable[[], None]

    def late(self, conversation_id: str, kind: str, thing: str = "") -> Due:
        """Return this item once it is due: a delivery, a join, a branch or a release."""
        member = codec.due_member(kind, conversation_id, thing)

        def found() -> Due | None:
            return next((d for d in self.backend.due(limit=10_000) if d.member == member), None)

        return self.until(found, what=member)

    def until(self, look: Callable[[], T | None], *, what: str = "") -> T:
        """Return what `look` returns as soon as it is truthy."""
        deadline = time.monotonic() + WAIT_S
        while not (found := look()):
            assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what or look}"
            self.tick()
        return found

    def reclaim(self, conversation_id: str, kind: str, thing: str = "") -> list[str]:
        """Reclaim an item once it is due; return the ids that are to be published for it."""
        due = self.late(conversation_id, kind, thing)
        return ids(self.backend.reclaim(due, retry_in_ms=LONG_MS, silent_branch=SILENT))

    def republish(self, conversation_id: str, delivery_id: str) -> str | None:
        """Republish a delivery that no worker began; return the id of the message, or None."""
        member = codec.due_member("d", conversation_id, delivery_id)
        found = self.backend.unbegun(older_than_ms=0, limit=10_000)
        [due] = [due for due in found if due.member == member]
        sent = self.backend.republish(due, older_than_ms=0)
        return sent.id if sent else None


def ids(publications: tuple[Publication, ...]) -> list[str]:
    """Return the ids of publications, in order."""
    return [publication.id for publication in publications]


def committed(result: CommitResult) -> Committed:
    """Return the answer of a commit that must succeed."""
    assert isinstance(result, Committed), result
    return result


@dataclass
class Story:
    """One conversation of a backend. Its first delivery and its thread are `<id>` and `t1`."""

    backend: SharedBackend
    id: str = "conversation"
    owner: str = "worker-1"
    counted: dict[str, int] = field(default_factory=dict)

    def new_id(self, kind: str = "d") -> str:
        self.counted[kind] = self.counted.get(kind, 0) + 1
        return f"{kind}{self.counted[kind]}"

    # --- running ------------------------------------------------------------------------

    def opening(self, canvas: str = "{}") -> Opening:
        root = Thread("t0", ("console",))
        thread = Thread("t1", ("console", "clerk"), "t0")
        entry = Delivery(self.id, "t1", "console", "clerk", "Ask", "desk.Ask", b"<Ask/>")
        return Opening(self.id, entry, root, thread, canvas)

    def start(self) -> Frame:
        """Open the conversation and begin its first delivery."""
        begun = self.backend.open_and_begin(self.opening(), owner=self.owner, lease_ms=LONG_MS)
        assert isinstance(begun, Begun), begun
        return begun.frame

    def try_begin(
        self, delivery_id: str, *, owner: str = "", lease_ms: int = LONG_MS, lost: bool = False
    ) -> Any:
        """Begin a delivery.

        `lost`: the process of this owner that ran the delivery was lost before.
        """
        owner = owner or self.owner
        if lost:
            self.backend.abandon(self.id, delivery_id, owner=owner, reason="lost")
        return self.backend.begin(self.id, delivery_id, owner=owner, lease_ms=lease_ms)

    def begin(self, delivery_id: str, **options: Any) -> Frame:
        begun = self.try_begin(delivery_id, **options)
        assert isinstance(begun, Begun), begun
        return begun.frame

    def commit(self, frame: Frame, **changes: Any) -> Committed:
        return committed(self.backend.commit(self.transition(frame, **changes)))

    def end(self, **changes: Any) -> None:
        """Start the conversation and end it with its first delivery; its injector is told."""
        self.commit(self.start(), **{"ending": DONE, **changes})
        self.backend.released(self.id)

    def transition(self, frame: Frame, **changes: Any) -> Transition:
        given = {"silent_branch": SILENT, **changes}
        return Transition(self.id, frame.delivery.id, frame.attempt, **given)

    def run(self, delivery_id: str, **changes: Any) -> Committed:
        """Begin and commit a delivery that ends here, or as `changes` say."""
        return self.commit(self.begin(delivery_id), **changes)

    def reply(self, delivery_id: str, *, success: bool = True) -> Committed:
        """Begin a delivery of a branch and answer the branch."""
        frame = self.begin(delivery_id)
        return self.commit(frame, results=(self.result(frame, success=success),))

    # --- what a transition holds --------------------------------------------------------

    def delivery(self, frame: Frame, **changes: Any) -> Delivery:
        """Return a delivery caused by this frame, by default in the frame's scope and on its
        thread.
        """
        given: dict[str, Any] = {"id": "", "thread_id": frame.thread.id, "to": "helper"}
        given["scope"] = frame.delivery.scope
        given |= changes
        given["id"] = given["id"] or self.new_id()
        return Delivery(
            from_id=frame.delivery.to,
            payload_name="Help",
            payload_path="desk.Help",
            envelope=f"<Help>{given['id']}</Help>".encode(),
            parent_id=frame.delivery.id,
            **given,
        )

    def call(self, frame: Frame, name: str = "helper") -> dict[str, Any]:
        """Call a peer on a thread of its own."""
        child = Thread(self.new_id("c"), (*frame.thread.chain, name), frame.thread.id)
        return {
            "threads": (child,),
            "children": ((frame.thread.id, name, child.id),),
            "deliveries": (self.delivery(frame, thread_id=child.id, to=name, depth=child.depth),),
        }

    def result(
        self, frame: Frame, *, success: bool = True, branch: Branch | None = None
    ) -> BranchResult:
        branch = branch or frame.thread.branch
        assert branch is not None
        payload = f"<R>{branch.index}|{success}</R>".encode()
        return BranchResult(branch, success, payload, "desk.R" if success else "")

    def wait(self, frame: Frame) -> Wait:
        scope = frame.delivery.scope
        return Wait(self.new_id("w"), frame.thread.id, frame.delivery.to, "Really?", scope)

    def input_for(self, wait: Wait) -> Delivery:
        return Delivery(
            wait.id, wait.thread_id, "console", wait.listener, "Yes", "", b"<Yes/>", wait.scope
        )

    def fan_out(
        self,
        frame: Frame,
        total: int,
        *,
        collect: bool = True,
        answer_within_ms: int = 0,
        **join: Any,
    ) -> dict[str, Any]:
        """Open a join `j<n>` with branches `j<n>.0` … and, if it collects, `j<n>.body`."""
        name = self.new_id("j")
        body = f"{name}.body" if collect else None
        given: dict[str, Any] = {"need_ok": 0, "need_failed": 0, "targets": ("item",)}
        given |= {"kind": "system.buffer", "item_timeout_ms": answer_within_ms, **join}
        given.setdefault("released", given.get("window", 0))
        opened = Join(name, thread_id=frame.thread.id, total=total, body_id=body, **given)
        threads, deliveries = [], []
        if body:
            deliveries.append(self.delivery(frame, id=body, to=frame.delivery.to, held=True))
        for index in range(total):
            branch = Branch(name, index)
            chain = (*frame.thread.chain, "item")
            threads.append(Thread(f"{name}.t{index}", chain, frame.thread.id, branch))
            scope: Scope = (*frame.delivery.scope, branch)
            deliveries.append(
                self.delivery(
                    frame,
                    id=f"{name}.{index}",
                    thread_id=threads[-1].id,
                    to="item",
                    scope=scope,
                    opens_branch=True,
                    held=0 < opened.released <= index,
                    answer_within_ms=answer_within_ms,
                )
            )
        return {"joins": (opened,), "threads": tuple(threads), "deliveries": tuple(deliveries)}

    def open_join(self, total: int, **options: Any) -> str:
        """Start the conversation with a fan-out of its first delivery; the join's id."""
        frame = self.start()
        changes = self.fan_out(frame, total, **options)
        self.commit(frame, **changes)
        join: Join = changes["joins"][0]
        return join.id

    # --- looking ------------------------------------------------------------------------

    @property
    def row(self) -> Any:
        row = self.backend.conversation(self.id)
        assert row is not None
        return row

    def counts(self, join_id: str) -> tuple[int, int, bool]:
        """Return the successes, the failures, and whether the join has fired."""
        state = self.backend.join(self.id, join_id)
        assert state is not None
        return state.ok, state.failed, state.fired

    def events(self, event: str) -> list[str]:
        """Return the log lines of one kind: for each the delivery's id, or the text."""
        found = []
        for line in self.backend.log(self.id):
            if line.event == event:
                delivery = line.detail.get("delivery")
                found.append(delivery.id if delivery else line.detail.get("text"))
        return found


def then(result: BranchResult, delivery: Delivery, thread: Thread) -> BranchResult:
    """Return the result with the deliveries that follow if it counts."""
    return replace(result, then_delivery=delivery, then_thread=thread)
