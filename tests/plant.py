"""Workers and a broker as plain data: each step of a delivery's way is a separate call.

`tasks` performs these steps in the same order in one go with Celery. Here a test can stop between
any two effects, and can repeat, delay or lose each of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from tests.stories import LONG_MS
from threadloom.primitives import SystemCall
from threadloom.routing import Organism, records
from threadloom.routing.actions import Actions, Fault, Retry, read_return
from threadloom.routing.backends import SharedBackend
from threadloom.routing.envelope import build_envelope
from threadloom.routing.faults import timeout_fault
from threadloom.routing.intake import Admitted, receive
from threadloom.routing.outgoing import content_of
from threadloom.routing.payloads.markup import canonical
from threadloom.routing.planner import open_conversation, plan
from threadloom.routing.records import (
    Begun,
    Committed,
    Delivery,
    Ending,
    Fenced,
    Frame,
    Publication,
    Release,
    Transition,
    Wait,
)
from threadloom.routing.results import StoredResults

_SILENT = canonical(content_of(timeout_fault()).element)


@dataclass(eq=False)
class Run:
    """One attempt of a handler, or one hand-over of a conversation's value."""

    owner: str
    lease_ms: int
    work: Frame | Release
    conversation: str
    #: the delivery that its message names
    head: str

    def told(self, *, goes_on: bool) -> records.Turn:
        """As a commit has to know it."""
        within_s = 1_000.0 if goes_on else 0.0
        return records.Turn(self.head, self.owner, self.lease_ms, within_s, lanes=3)


@dataclass
class Plant:
    """Everything outside the registry."""

    backend: SharedBackend
    organism: Organism
    #: messages in the broker
    broker: list[Publication] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    #: committed and not published yet
    hands: list[Sequence[Publication]] = field(default_factory=list)
    #: published, while the registry has not been told yet
    unsaid: list[Publication] = field(default_factory=list)
    #: by delivery: how many commits settled it
    settled: Counter[str] = field(default_factory=Counter)
    #: by delivery: its newest attempt, the only one that may settle it
    newest: Counter[str] = field(default_factory=Counter)
    #: by conversation: what its injector was told
    told: dict[str, list[Ending]] = field(default_factory=lambda: defaultdict(list))
    _numbers: Any = field(default_factory=itertools.count)

    def new_id(self) -> str:
        return f"id{next(self._numbers)}"

    # --- what a worker does, step by step -----------------------------------------------

    def inject(self, conversation_id: str, to: str, payload: Any) -> None:
        """Open a conversation; its first message is in hand."""
        opening = open_conversation(
            conversation_id,
            self.organism.listeners[to],
            Admitted.of(content_of(payload)),
            from_id="console",
            root_thread=self.new_id(),
            new_id=self.new_id,
            canvas="{}",
        )
        publication = self.backend.open(opening)
        assert publication is not None
        self.hands.append([publication])

    def begin(self, message: Publication, *, lease_ms: int) -> Run | None:
        """Let a worker take a message, and tell the registry what it has published before."""
        owner = self.new_id()
        published: dict[str, list[str]] = defaultdict(list)
        for each in self.unsaid:
            published[each.conversation_id] += [each.id, *([""] if each.canvas is not None else [])]
        self.unsaid = []
        begun = self.backend.begin(
            message.conversation_id, message.id, owner=owner, lease_ms=lease_ms, published=published
        )
        if not isinstance(begun, Begun | Release):
            return None
        work = begun.frame if isinstance(begun, Begun) else begun
        if isinstance(work, Frame):
            assert work.attempt > self.newest[work.delivery.id], "an attempt was granted twice"
            self.newest[work.delivery.id] = work.attempt
        run = Run(owner, lease_ms, work, message.conversation_id, message.id)
        self.runs.append(run)
        return run

    def finish(self, run: Run, *, answer_lost: bool = False, goes_on: bool = False) -> None:
        """Let the handler return and commit its outcome, or hand the value over.

        `answer_lost`: the registry committed, but its answer was lost, so the commit is repeated.
        `goes_on`: the turn continues with a delivery that follows, if there is one.
        """
        self.runs.remove(run)
        if isinstance(run.work, Release):
            self.told[run.conversation].append(run.work.ending)
            self.backend.released(run.conversation)
            return
        frame = run.work
        actions = self._run_handler(frame)
        if isinstance(actions, Retry):
            released = self.backend.retry(
                frame.conversation_id, frame.delivery.id,
                attempt=frame.attempt, delay_ms=0, reason=actions.note,
            )  # fmt: skip
            self.hands.append(list(released or ()))
            return
        told = run.told(goes_on=goes_on)
        committed = self._commit(actions, frame, told, answer_lost=answer_lost)
        if committed is None:
            return
        newest = frame.attempt == self.newest[frame.delivery.id]
        assert newest or committed.adopted, "a run that was taken over has settled a delivery"
        self.settled[frame.delivery.id] += not committed.adopted
        resume = [committed.resume] if committed.resume else []
        self.hands.append([*committed.publications, *resume])
        if committed.begun is not None:
            taken = committed.begun.frame
            assert taken.attempt > self.newest[taken.delivery.id], "an attempt was granted twice"
            self.newest[taken.delivery.id] = taken.attempt
            self.runs.append(dataclasses.replace(run, work=taken))

    def _run_handler(self, frame: Frame) -> Actions | Retry:
        listener = self.organism.listeners[frame.delivery.to]
        payload = receive(frame.delivery, listener, self.organism)
        stored = StoredResults(self.backend, frame.conversation_id)
        if listener.system:
            call = SystemCall(frame, self.organism, stored, lanes=lambda: 2)
            return read_return(listener.handler(payload, call), system=True)
        returned = listener.handler(payload, frame, stored)
        if isinstance(returned, Fault):  # what `tasks` makes of a handler that raises
            return (returned,)
        return returned if isinstance(returned, Retry) else read_return(returned)

    def _commit(
        self, actions: Actions, frame: Frame, run: records.Turn, *, answer_lost: bool
    ) -> Committed | None:
        while True:
            transition = plan(actions, frame, self.organism, new_id=self.new_id)
            result = self.backend.commit(transition, turn=run)
            if isinstance(result, Fenced):
                return None
            if isinstance(result, Committed):
                return self._again(result, transition, run) if answer_lost else result
            assert not result.over_limit
            assert not result.label_taken
            children = {**frame.children, **result.children}
            frame = replace(frame, deliveries=result.deliveries, children=children)

    def _again(self, before: Committed, transition: Transition, run: records.Turn) -> Committed:
        again = self.backend.commit(transition, turn=run)
        assert isinstance(again, Committed)
        assert again.adopted
        assert set(again.publications) <= set(before.publications)
        assert again.begun == before.begun
        return replace(again, adopted=before.adopted)

    def publish(self, hand: Sequence[Publication]) -> None:
        """Send everything that a commit created to the broker; the registry is told later, or
        never.
        """
        self.hands.remove(hand)
        self.broker += hand
        self.unsaid += hand

    def lose(self, run: Run) -> None:
        """Lose the pool process that runs this, and let its main process report the loss."""
        if isinstance(run.work, Release):
            return
        again = self.backend.abandon(run.conversation, run.head, owner=run.owner, reason="lost")
        if again is not None:
            self.hands.append([again])

    # --- what is done for all of them ---------------------------------------------------

    def sweep(self) -> None:
        """Reclaim overdue items, and find messages again that no worker began."""
        # Sorted, so that a history does not depend on which items share a millisecond.
        for due in sorted(self.backend.due(limit=1_000), key=lambda due: due.member):
            late = self.backend.reclaim(due, retry_in_ms=0, silent_branch=_SILENT)
            self.hands.append(list(late))
        unbegun = self.backend.unbegun(older_than_ms=0, limit=1_000)
        for due in sorted(unbegun, key=lambda due: due.member):
            lost = self.backend.republish(due, older_than_ms=0)
            if lost is not None:
                self.broker.append(lost)

    def answer(self, conversation_id: str, wait: Wait, payload: Any) -> None:
        """Give a waiting thread its input."""
        content = content_of(payload)
        given = Delivery(
            wait.id, wait.thread_id, "console", wait.listener, content.name, content.path,
            build_envelope("console", wait.listener, wait.thread_id, content.element), wait.scope,
        )  # fmt: skip
        publication = self.backend.answer(conversation_id, wait.id, given)
        if publication is not None:
            self.hands.append([publication])

    @property
    def is_quiet(self) -> bool:
        """Return whether nothing runs, no message is on its way, and the registry waits for
        nothing.
        """
        stats = self.backend.stats()
        busy = self.runs or self.hands or self.broker or stats["due"] or stats["sent"]
        return not busy

    def drain(self) -> None:
        """Work until nothing is left to do."""
        for run in list(self.runs):
            self.finish(run)
        for hand in list(self.hands):
            self.publish(hand)
        while self.broker:
            run = self.begin(self.broker.pop(), lease_ms=LONG_MS)
            if run is not None:
                number = next(self._numbers)
                self.finish(run, answer_lost=number % 3 == 0, goes_on=number % 2 == 0)
        self.sweep()
