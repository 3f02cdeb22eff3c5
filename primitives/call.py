"""The second argument of a system listener: what it may read and ask beside its payload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadloom.routing import Organism, StoredResults, content_of, refusal
from threadloom.routing.payloads import canonical
from threadloom.routing.records import Frame, JoinState


@dataclass(frozen=True, slots=True)
class SystemCall:
    """The frame of a system listener's run, and the joins of its conversation."""

    frame: Frame
    organism: Organism
    stored: StoredResults
    #: how many messages of one fan-out should be on their way at once, for the workers there are
    lanes: Callable[[], int]

    def refusal(self, target: str) -> str:
        """Return for operators why the call's initiator may not send to `target`; "" if it may.

        The planner decides the same again. A primitive asks first if it can say more than that the
        message could not be delivered, or if it has to know before it looks at the target.
        """
        return refusal(target, self.frame, self.organism)

    @property
    def too_deep(self) -> bool:
        """Whether a branch of this call would be deeper than the organism allows."""
        return self.frame.thread.depth + 1 > self.organism.max_depth

    def room_for(self, deliveries: int) -> bool:
        """Whether the conversation's limit permits so many more deliveries."""
        return self.frame.deliveries + deliveries <= self.organism.max_deliveries

    def fits(self, payload: Any) -> bool:
        """Whether a payload is small enough to be sent."""
        return len(canonical(content_of(payload).element)) <= self.organism.max_payload_bytes

    def fired(self, join_id: str) -> JoinState:
        """Return the join whose body this delivery is; LookupError for any other join.

        Anybody could write the message that names the join; nobody can choose the delivery's id.
        """
        state = self.stored.join(join_id)
        if state is None or state.join.body_id != self.frame.delivery.id:
            raise LookupError(f"join {join_id!r} has not fired for this delivery")
        return state
