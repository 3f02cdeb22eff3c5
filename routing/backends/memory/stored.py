"""What is kept of a conversation in memory: where its deliveries, branches and joins stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from threadloom.routing.records import Branch, Delivery, Join, StoredResult, Wait
from threadloom.routing.states import DeliveryState


@dataclass(slots=True)
class StoredDelivery:
    """A delivery and where it stands; until it is answered, a wait stands in its place."""

    row: Delivery | Wait
    state: DeliveryState
    attempt: int = 0
    owner: str = ""
    reason: str = ""
    #: attempts before it was replayed
    before_replay: int = 0
    #: its place among the dead letters, and why it is there; empty: it is not
    dead: str = ""
    dead_reason: str = ""

    def set(
        self, state: DeliveryState, *, attempt: int = 0, owner: str = "", reason: str = ""
    ) -> None:
        self.state, self.attempt, self.owner, self.reason = state, attempt, owner, reason

    def is_part_of(self, owner: str) -> bool:
        """Whether the lease's owner is this one, or part of it: `w/1/a` of `w/1`, that of `w`."""
        return self.owner == owner or self.owner.startswith(f"{owner}/")

    @property
    def delivery(self) -> Delivery:
        """The row of anything but a wait."""
        if isinstance(self.row, Wait):
            raise TypeError(f"{self.row.id} waits for its input")
        return self.row


@dataclass(slots=True)
class StoredBranch:
    """One index of a join."""

    #: deliveries in flight, less one
    more_in_flight: int = 0
    held: str = ""
    result: StoredResult | None = None
    timed_out: bool = False
    waits: list[str] = field(default_factory=list)


@dataclass(slots=True)
class StoredJoin:
    """A join with its counts."""

    spec: Join
    #: the first index that was not released yet
    next: int
    #: how many are released at a time, where the first settling of a branch's frees a lane
    lanes: int = 0
    #: free lanes for which nothing was held
    idle: int = 0
    #: the held delivery that brings more branches, and the index it is released with
    more: str = ""
    low: int = 0
    ok: int = 0
    failed: int = 0
    fired: bool = False
    branches: dict[int, StoredBranch] = field(default_factory=dict)

    @property
    def holds_back(self) -> bool:
        """Whether it has branches that were not released when it was opened."""
        return 0 < self.spec.released < self.spec.total

    def branch(self, index: int) -> StoredBranch:
        return self.branches.setdefault(index, StoredBranch())


@dataclass(slots=True)
class SharedLists:
    """What a shard keeps of all its conversations."""

    #: member -> ms at which it is due
    due: dict[str, int] = field(default_factory=dict)
    #: member -> ms of its publishing
    sent: dict[str, int] = field(default_factory=dict)
    #: positions of the dead letters, oldest first
    dead: list[str] = field(default_factory=list)


def branch_id(branch: Branch) -> str:
    """How a branch is written where only text fits."""
    return f"{branch.join_id}:{branch.index}"
