"""What a worker remembers of published messages that nobody has begun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Due

#: most messages whose listener or copies are remembered
_KNOWN = 5_000
#: a message's age is doubled at most so often
_MOST_DOUBLINGS = 10


@dataclass(slots=True)
class Unbegun:
    """What one worker remembers of the messages that nobody has begun."""

    #: the listener that a message is for, by the name under which the registry lists it
    targets: dict[str, str] = field(default_factory=dict)
    #: how many copies of a message this worker has published
    copies: dict[str, int] = field(default_factory=dict)

    #: the queues that were empty at the last look
    empty: set[str] = field(default_factory=set)

    def resolve(self, found: Iterable[Due], backend: SharedBackend) -> Mapping[str, str]:
        """Return the listener of each of these messages that is still in the registry."""
        new = [due for due in found if due.member not in self.targets]
        if new:
            targets = zip(new, backend.addressed(new), strict=True)
            self.targets |= {due.member: to for due, to in targets if to is not None}
        return self.targets

    def forget_oldest(self) -> None:
        """Keep what is remembered within bounds."""
        for known in (self.targets, self.copies):
            for member in list(known)[: max(0, len(known) - _KNOWN)]:
                del known[member]

    def lost_after_ms(self, member: str, once_ms: int) -> int:
        """Return the age from which a message counts as lost, its copies considered."""
        return once_ms << min(self.copies.get(member, 0), _MOST_DOUBLINGS)
