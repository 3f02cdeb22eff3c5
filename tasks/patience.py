"""Waiting for a registry that does not answer, in a pool process that has something to tell it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from threadloom.config import RegistryUnavailableError
from threadloom.tasks.runtime import Runtime

logger = logging.getLogger(__name__)

R = TypeVar("R")
#: seconds for which a process waits before it hands back a message that it has not begun
PATIENCE_S = 60.0
#: seconds for which a process waits that has something to tell: what a handler returned, which
#: would have to run again, or that an injector was told, who would be told again
TELLING_S = 3600.0
#: seconds for which the pool's hard limit spares a process after each question without an answer:
#: longer than the next question takes
SPARED_S = 20.0
_FIRST_RETRY_S, _RETRY_S = 0.25, 1.0


def patiently(operation: Callable[[], R], runtime: Runtime, *, patience_s: float = TELLING_S) -> R:
    """Return the operation's result, repeating it until the registry answers.

    Every operation of the registry may be repeated. While it is repeated, the pool does not end
    this process for its hard time limit. Raises RegistryUnavailableError after `patience_s`.
    """
    give_up, pause_s = time.monotonic() + patience_s, _FIRST_RETRY_S
    while True:
        try:
            return operation()
        except RegistryUnavailableError as exc:
            if time.monotonic() > give_up:
                raise
            logger.warning("registry.unavailable retry_s=%s reason=%s", pause_s, exc)
            if runtime.overtime is not None:
                runtime.overtime.spare(SPARED_S)
            time.sleep(pause_s)  # before the next try at a server that does not answer
            pause_s = min(2 * pause_s, _RETRY_S)
