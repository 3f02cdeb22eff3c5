"""What `lua/commit.lua` and `lua/reclaim.lua` do, for the registry in memory."""

from __future__ import annotations

from threadloom.routing.backends import codec
from threadloom.routing.backends.memory.conversation import ConversationState
from threadloom.routing.backends.memory.stored import StoredJoin
from threadloom.routing.records import Branch, Join, Publication, Replan, Transition
from threadloom.routing.states import (
    Abandonment,
    ConversationStatus,
    DeliveryState,
    LogEvent,
    ReleaseState,
)


def unpublished(state: ConversationState, transition: Transition) -> tuple[Publication, ...]:
    """What the first commit of a transition created and nobody has published."""
    then = (result.then_delivery for result in transition.results)
    created = [*transition.deliveries, *(delivery for delivery in then if delivery is not None)]
    return tuple(
        Publication.of(state.id, delivery)
        for delivery in created
        if delivery.id in state.deliveries
        and state.deliveries[delivery.id].state == DeliveryState.READY
    )


def replan(state: ConversationState, transition: Transition) -> Replan | None:
    """Why a transition cannot be applied as it stands."""
    clashes = {}
    for parent, name, proposed in transition.children:
        known = state.children.get(parent, {}).get(name, proposed)
        if known != proposed:
            clashes[parent, name] = known
    if clashes:
        return Replan(state.count, clashes)
    if any(join.label and (join.kind, join.label) in state.labels for join in transition.joins):
        return Replan(state.count, label_taken=True)
    later = sum(result.then_delivery is not None for result in transition.results)
    count = state.count + len(transition.deliveries) + later
    if 0 < transition.max_deliveries < count:
        return Replan(state.count, over_limit=True)
    if 0 < transition.max_bytes < state.bytes + transition.stored_bytes:
        return Replan(state.count, too_large=True)
    return None


def apply(state: ConversationState, transition: Transition) -> None:
    """Create and count everything a transition brings."""
    stored = state.deliveries[transition.delivery_id]
    state.bytes += transition.stored_bytes
    for thread in transition.threads:
        state.threads[thread.id] = thread
    for parent, name, child in transition.children:
        state.adopt(parent, name, child)
    for join in transition.joins:
        _open_join(state, join)
    for delivery in transition.deliveries:
        state.create_delivery(delivery)
    refills = [state.create_refill(refill) for refill in transition.refills]
    for wait in transition.waits:
        state.create_wait(wait)
    for result in transition.results:
        state.apply_result(result, transition.delivery_id)
    own_branch = sum(not delivery.opens_branch for delivery in transition.deliveries)
    own_branch -= refills.count(False)
    state.book_branch(stored, own_branch + len(transition.waits), transition.silent_branch)
    if transition.dead_letter:
        state.bury(stored, transition.note)
    if transition.note:
        state.note(LogEvent.NOTE, codec.dump((transition.delivery_id, transition.note)))
    if transition.ending and not state.finish(transition.ending):
        state.note(LogEvent.LATE, transition.delivery_id)


def _open_join(state: ConversationState, join: Join) -> None:
    stored = state.joins[join.id] = StoredJoin(join, next=join.released or join.total)
    if stored.holds_back and not join.window:
        stored.lanes = join.released
    if stored.holds_back:
        stored.idle = max(0, join.window - join.released)
    if join.label:
        state.labels[join.kind, join.label] = join.id
    if join.deadline_ms > 0:
        state.set_due("j", join.id, state.now + join.deadline_ms)


def reclaim_release(state: ConversationState, again: int) -> tuple[Publication, ...]:
    if state.release == ReleaseState.DONE:
        state.not_due("r", "")
        return ()
    state.release = ReleaseState.DUE
    state.set_due("r", "", again)
    return (state.resume(),)


def reclaim_delivery(state: ConversationState, delivery_id: str, again: int) -> None:
    stored = state.deliveries.get(delivery_id)
    if stored is None or stored.state not in (
        DeliveryState.LEASED,
        DeliveryState.READY,
        DeliveryState.POSTPONED,
    ):
        state.not_due("d", delivery_id)
        return
    killed = state.status is ConversationStatus.KILLED
    depth = len(stored.row.scope) if killed else state.moot(stored)
    if depth is not None:
        state.cancel(stored, depth)
        return
    reason = stored.reason
    if stored.state == DeliveryState.LEASED:
        reason = Abandonment.LOST
        state.note(LogEvent.ABANDONED, codec.dump((delivery_id, reason)))
    state.make_ready(stored, stored.attempt, reason)
    state.set_due("d", delivery_id, again)


def reclaim_timer(state: ConversationState, kind: str, thing: str, silent: bytes) -> None:
    state.not_due(kind, thing)
    if state.status is ConversationStatus.KILLED:
        return
    join_id, _, index = (thing, "", "") if kind == "j" else thing.rpartition(":")
    join = state.joins.get(join_id)
    if join is None:
        return
    if kind == "j":
        state.fire(join)
        return
    if state.answer_branch(Branch(join_id, int(index)), False, "", silent):
        branch = join.branch(int(index))
        branch.timed_out = True
        state.drop_waits(branch)
