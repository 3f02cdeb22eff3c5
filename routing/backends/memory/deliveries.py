"""Deliveries of the registry in memory: opened, begun, committed, given up, answered, killed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.conversation import ConversationState
from threadloom.routing.backends.memory.conversations import Conversations, atomic
from threadloom.routing.backends.memory.steps import apply, replan, unpublished
from threadloom.routing.errors import UnknownConversationError
from threadloom.routing.records import (
    Beginning,
    CommitResult,
    Committed,
    Delivery,
    Ending,
    Fenced,
    Opening,
    Publication,
    Skip,
    Transition,
    Turn,
)
from threadloom.routing.states import (
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
    SkipReason,
)
from threadloom.routing.store import NOTHING, Published


class Deliveries(Conversations):
    """The part of `SharedBackend` that changes deliveries."""

    @atomic
    def open(self, opening: Opening) -> Publication | None:
        state = self._opened(opening.conversation_id)
        if state is None:
            return self._create(opening).publications()[0]
        stored = state.deliveries.get(opening.entry.id)
        if stored is None or stored.state != DeliveryState.READY:
            return None
        return Publication.of(state.id, stored.delivery)

    def open_many(self, openings: Iterable[Opening]) -> Sequence[str]:
        return [o.conversation_id for o in openings if not self._opened_as_sent(o)]

    @atomic
    def _opened_as_sent(self, opening: Opening) -> bool:
        """Whether the conversation is new; its first message counts as published then."""
        if self._opened(opening.conversation_id) is not None:
            return False
        state = self._create(opening)
        state.publications()
        state.sent(state.deliveries[opening.entry.id])
        return True

    @atomic
    def open_and_begin(
        self, opening: Opening, *, owner: str, lease_ms: int, published: Published = NOTHING
    ) -> Beginning:
        self._clear(published)
        state = self._opened(opening.conversation_id) or self._create(opening)
        return self._begin(state, opening.entry.id, owner=owner, lease_ms=lease_ms)

    @atomic
    def begin(
        self,
        conversation_id: str,
        delivery_id: str,
        *,
        owner: str,
        lease_ms: int,
        published: Published = NOTHING,
    ) -> Beginning:
        self._clear(published)
        state = self._opened(conversation_id)
        if state is None:
            return Skip(SkipReason.UNKNOWN)
        return self._begin(state, delivery_id, owner=owner, lease_ms=lease_ms)

    def _begin(
        self, state: ConversationState, delivery_id: str, *, owner: str, lease_ms: int
    ) -> Beginning:
        in_flight_before = state.in_flight
        begun = state.begin(delivery_id, owner=owner, lease_ms=lease_ms)
        if state.in_flight != in_flight_before:  # it was cancelled instead
            state.touch(self._ttl_ms)
        return begun

    @atomic
    def commit(
        self, transition: Transition, *, turn: Turn | None = None, published: Published = NOTHING
    ) -> CommitResult:
        self._clear(published)
        state = self._opened(transition.conversation_id)
        stored = state.deliveries.get(transition.delivery_id) if state else None
        if state is None or stored is None:
            return Fenced()
        if stored.state in (DeliveryState.SETTLED, DeliveryState.CANCELLED):
            if stored.state == DeliveryState.SETTLED and stored.attempt == transition.attempt:
                taken = state.taken_before(stored, turn) if turn is not None else None
                return Committed(unpublished(state, transition), adopted=True, begun=taken)
            return Committed(adopted=True)
        if stored.state != DeliveryState.LEASED or stored.attempt != transition.attempt:
            return Fenced()
        ended_before = state.is_final
        killed = state.status is ConversationStatus.KILLED
        depth = len(stored.row.scope) if killed else state.moot(stored)
        if depth is None:
            refused = replan(state, transition)
            if refused is not None:
                return refused
        stored.set(DeliveryState.SETTLED, attempt=stored.attempt)
        state.not_due("d", stored.row.id)
        if depth is None:
            apply(state, transition)
        else:
            state.close_inside(stored, depth)
            state.note(LogEvent.LATE, stored.row.id)
        state.free_lane(stored, turn.lanes if turn is not None else 0)
        state.landed()
        ends = state.is_final and not ended_before
        begun = state.take(turn) if turn is not None and not ends else None
        if turn is not None and begun is None:
            state.turns.pop(turn.id, None)
        state.touch(self._ttl_ms)
        if not ends:
            return Committed(state.publications(), begun=begun)
        return Committed(state.publications(), state.ending, state.resume())

    @atomic
    def published(self, conversation_id: str, deliveries: Sequence[str]) -> None:
        self._clear({conversation_id: deliveries})

    def _clear(self, published: Published) -> None:
        for conversation, deliveries in published.items():
            state = self._opened(conversation)
            for delivery in deliveries if state else ():
                assert state is not None
                stored = state.deliveries.get(delivery)
                if not delivery and state.release == ReleaseState.DUE:
                    state.set_due("r", "", self._now + self._begin_grace_ms)
                elif stored is not None and stored.state == DeliveryState.READY:
                    state.sent(stored)

    @atomic
    def retry(
        self, conversation_id: str, delivery_id: str, *, attempt: int, delay_ms: int, reason: str
    ) -> tuple[Publication, ...] | None:
        state, stored = self._stored(conversation_id, delivery_id)
        if (
            not state
            or not stored
            or (stored.state, stored.attempt) != (DeliveryState.LEASED, attempt)
        ):
            return None
        state.retry(stored, delay_ms, reason)
        state.touch(self._ttl_ms)
        return state.publications()

    @atomic
    def released(self, conversation_id: str) -> None:
        state = self._opened(conversation_id)
        if state is not None and state.is_final:
            state.release, state.teller = ReleaseState.DONE, ""
            state.not_due("r", "")
            state.touch(self._ttl_ms)

    @atomic
    def renew(self, leases: Sequence[tuple[str, str]], *, owner: str, lease_ms: int) -> None:
        for conversation, delivery in leases:
            state, stored = self._run(conversation, delivery)
            if (
                state
                and stored
                and stored.state == DeliveryState.LEASED
                and stored.is_part_of(owner)
            ):
                state.set_due("d", stored.row.id, self._now + lease_ms)
                state.touch(self._ttl_ms)

    @atomic
    def abandon(
        self, conversation_id: str, delivery_id: str, *, owner: str, reason: str
    ) -> Publication | None:
        state, stored = self._run(conversation_id, delivery_id)
        if not state or not stored or not stored.is_part_of(owner):
            return None
        if stored.state == DeliveryState.READY and stored.reason == reason:
            return Publication.of(state.id, stored.delivery)  # a repetition: the answer was lost
        if stored.state != DeliveryState.LEASED:
            return None
        holder = stored.owner
        state.make_ready(stored, stored.attempt, reason)
        stored.owner = holder  # by which a repetition is known
        state.note(LogEvent.ABANDONED, codec.dump((stored.row.id, reason)))
        return state.publications()[0]

    @atomic
    def answer(self, conversation_id: str, wait_id: str, delivery: Delivery) -> Publication | None:
        state = self._opened(conversation_id)
        if state is None:
            raise UnknownConversationError(conversation_id)
        stored = state.deliveries.get(wait_id)
        killed = state.status is ConversationStatus.KILLED
        if stored is None or stored.state != DeliveryState.WAITING or killed:
            return None
        stored.row = delivery
        state.waiting -= 1
        state.count += 1
        state.remember(delivery)
        state.make_ready(stored, 0, "")
        state.touch(self._ttl_ms)
        return state.publications()[0]

    @atomic
    def kill(self, conversation_id: str, ending: Ending) -> Publication | None:
        state = self._opened(conversation_id)
        return self._kill(state, ending) if state is not None else None
