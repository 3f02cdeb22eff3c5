"""What a sweep could not do: left aside for a while, so that one bad item delays no other.

An item whose row or canvas makes Celery or the registry raise does so each time. The sweep leaves
it for a pause that doubles with each failure, says so in the log, and goes on with the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest

from threadloom.config import RegistryUnavailableError
from threadloom.routing.records import Due

logger = logging.getLogger(__name__)

#: s until an item that raised is tried again, the first time and at most
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 600.0
#: items that are remembered
_MOST = 10_000


class BadItems:
    """Remembers, in one worker, which items of the sweep raised."""

    def __init__(self) -> None:
        #: by member: the monotonic s before which it is left, and the last pause
        self._left: dict[str, tuple[float, float]] = {}

    def attempt(self, due: Due, act: Callable[[], int]) -> int:
        """Do what is due, and return what `act` returns; 0 if it raises, or has done so before.

        Raises RegistryUnavailableError, which is no fault of the item.
        """
        until, pause = self._left.get(due.member, (0.0, _FIRST_PAUSE_S / 2))
        if time.monotonic() < until:
            return 0
        try:
            done = act()
        except RegistryUnavailableError:
            raise
        except Exception:
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self._left[due.member] = (time.monotonic() + pause, pause)
            while len(self._left) > _MOST:
                del self._left[next(iter(self._left))]
            logger.exception("sweep.item_failed member=%r again_in_s=%.0f", due.member, pause)
            return 0
        self._left.pop(due.member, None)
        return done


def by_turns(items: Iterable[Due]) -> Iterator[Due]:
    """The items, one of each conversation at a time, so that none keeps the others waiting."""
    groups: dict[str, list[Due]] = {}
    for item in items:
        groups.setdefault(item.conversation_id, []).append(item)
    rounds = zip_longest(*groups.values())
    return (item for item in chain.from_iterable(rounds) if item is not None)
