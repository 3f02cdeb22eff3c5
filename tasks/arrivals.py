"""How far the workers have come in each queue, by the publishing times of received messages."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Arrivals:
    """The newest message that this worker has received from each queue.

    Where messages of several priorities come from a queue, a later one may be received first, and
    how far the workers have come is not known.
    """

    _newest_ms: dict[str, int] = field(default_factory=dict)
    _priorities: dict[str, set[object]] = field(default_factory=dict)

    def note(self, queue: str, published_ms: int, priority: object) -> None:
        """Note a message from a queue; `published_ms` by the registry's clock."""
        self._newest_ms[queue] = max(published_ms, self._newest_ms.get(queue, 0))
        self._priorities.setdefault(queue, set()).add(priority if priority else 0)

    def newest_ms(self, queue: str) -> int | None:
        """Return when the newest received message was published; None if that is not known."""
        if len(self._priorities.get(queue, ())) > 1:
            return None
        return self._newest_ms.get(queue)
