"""What a system listener is told beside its payload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadloom.routing import Organism
from threadloom.routing.markup import canonical
from threadloom.routing.outgoing import content_of
from threadloom.routing.records import Frame, JoinState
from threadloom.routing.results import StoredResults


@dataclass(frozen=True, slots=True)
class SystemCall:
    """The frame of a system listener's run, and the joins of its conversation."""

    frame: Frame
    organism: Organism
    stored: StoredResults
    #: how many messages of one fan-out should be on their way at once, for the workers there are
    lanes: Callable[[], int]

    def may_start(self, target: str) -> bool:
        """Whether a listener is there and whoever initiated this call may call it.

        The initiator is the nearest listener up the chain that is not a system listener: a
        sequence that starts a buffer has no rights of its own to lend. Whoever injected the
        conversation may call anybody.
        """
        listeners = self.organism.listeners
        if target not in listeners:
            return False
        for name in reversed(self.frame.thread.chain[1:-1]):
            if name not in listeners:  # removed meanwhile, and its rights with it
                return False
            if not listeners[name].system:
                return listeners[name].may_call(target)
        return True

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

    def fired(self, join: str) -> JoinState:
        """The join whose body this run is. Raises LookupError for anybody else's.

        The message that says so could be written by anyone; the delivery's id could not.
        """
        state = self.stored.join(join)
        if state is None or state.join.body != self.frame.delivery.id:
            raise LookupError(f"join {join!r} has not fired for this delivery")
        return state
