"""What a system listener is told beside its payload."""

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
        """Why whoever initiated this call may not send to `target`, for operators; "" if it may.

        The planner decides the same again. A primitive asks first where it can say more than that
        the message could not be delivered, or has to know before it looks at the target.
        """
        return refusal(target, self.frame, self.organism)

    @property
    def too_deep(self) -> bool:
        """Whether a branch of this call would be deeper than the organism allows."""
        return self.frame.thread.depth + 1 > self.organism.max_depth

    def room_for(self, deliveries: int) -> bool:
        """Whether so many deliveries more stay within the conversation's limit."""
        return self.frame.deliveries + deliveries <= self.organism.max_deliveries

    def fits(self, payload: Any) -> bool:
        """Whether a payload is small enough to be sent."""
        return len(canonical(content_of(payload).element)) <= self.organism.max_payload_bytes

    def fired(self, join_id: str) -> JoinState:
        """The join whose body this run is. Raises LookupError for anybody else's.

        The message that says so could be written by anyone; the delivery's id could not.
        """
        state = self.stored.join(join_id)
        if state is None or state.join.body_id != self.frame.delivery.id:
            raise LookupError(f"join {join_id!r} has not fired for this delivery")
        return state
