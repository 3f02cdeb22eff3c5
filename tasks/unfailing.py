"""Threads and timers that go on, whatever one of their steps meets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import ParamSpec

from threadloom.config import RegistryUnavailableError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
#: seconds for which an item that failed is left alone, after its first failure and at most
FIRST_PAUSE_S, LONGEST_PAUSE_S = 3.0, 600.0


def attempted(step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Call one step of several; an error of it is logged, and the others are not kept from theirs.

    Returns False after an error. RegistryUnavailableError is raised: the other steps would meet it
    as well.
    """
    try:
        step(*args, **kwargs)
    except RegistryUnavailableError:
        raise
    except Exception:
        logger.exception("step.failed step=%s", getattr(step, "__name__", step))
        return False
    return True


def unfailing(step: Callable[P, object]) -> Callable[P, None]:
    """Return a function that calls a step of a thread or timer and never raises an Exception."""

    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            attempted(step, *args, **kwargs)
        except RegistryUnavailableError as exc:
            name = getattr(step, "__name__", step)
            logger.warning("registry.unavailable step=%s reason=%s", name, exc)

    return called


class SetAside:
    """The items of a sweep that raised errors: each is left alone, for longer after each error.

    So an item that can never be handled costs its neighbours no time.
    """

    def __init__(self) -> None:
        #: by item: the pause in seconds, and the monotonic s at which it is over
        self._pauses: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._pauses)

    def attempt(
        self, item: str, step: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call the item's step, unless it is set aside; set it aside if it fails."""
        pause_s, until = self._pauses.get(item, (0.0, 0.0))
        if time.monotonic() < until:
            return
        if attempted(step, *args, **kwargs):
            self._pauses.pop(item, None)
            return
        pause_s = min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._pauses[item] = (pause_s, time.monotonic() + pause_s)
        logger.error("item.set_aside item=%s pause_s=%s", item, pause_s)

    def forget_absent(self, items: set[str]) -> None:
        """Forget what is not among these any more."""
        for item in self._pauses.keys() - items:
            del self._pauses[item]
