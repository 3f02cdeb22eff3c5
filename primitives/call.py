"""What a system listener is told beside its payload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from routing import Listener, Organism
from routing.records import Frame, JoinState, StoredResult

#: results read in one round trip
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class SystemCall:
    """The frame of a system listener's run, and the joins it may read."""

    frame: Frame
    organism: Organism
    load_join: Callable[[str], JoinState | None]
    load_results: Callable[[str, int, int], Sequence[StoredResult]]

    @property
    def initiator(self) -> Listener | None:
        """The listener that called; None when it came from outside, which may call anybody."""
        caller = self.frame.thread.caller
        return self.organism.listeners.get(caller) if caller else None

    def may_start(self, target: str) -> bool:
        """Whether a listener is there and the initiator may call it."""
        known = target in self.organism.listeners
        return known and (self.initiator is None or self.initiator.may_call(target))

    @property
    def too_deep(self) -> bool:
        """Whether a branch of this call would be deeper than the organism allows."""
        return self.frame.thread.depth + 1 > self.organism.max_depth

    def room_for(self, deliveries: int) -> bool:
        """Whether so many deliveries more stay within the conversation's limit."""
        return self.frame.deliveries + deliveries <= self.organism.max_deliveries

    def results(self, join: str, total: int) -> Iterator[StoredResult]:
        """The answers of a join in index order, a page at a time."""
        for start in range(0, total, _PAGE):
            yield from self.load_results(join, start, min(start + _PAGE, total))
