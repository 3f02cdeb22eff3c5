"""Retention: a thread in every worker's main process that removes what is kept no longer.

It is a thread of its own and not a part of the sweep, so that it keeps up with any rate at which
conversations end, and the worker's timer stays responsive. Each call of the registry is small, so
neither Redis nor other users of it wait long.
"""

from __future__ import annotations

import logging
import threading

from threadloom.tasks.runtime import Runtime
from threadloom.tasks.unfailing import unfailing

logger = logging.getLogger(__name__)

#: s between two looks, once nothing is over any more
LOOK_S = 1.0
#: conversations removed by one call
AT_ONCE = 100


class RetentionKeeper:
    """Removes conversations whose retention is over, from `start` until `finish`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._finishing = threading.Event()

    def start(self) -> None:
        """Start removing, in a thread that does not keep the process alive."""
        threading.Thread(target=self._keep, name="threadloom-retention", daemon=True).start()

    def finish(self) -> None:
        """Stop after the call that is under way."""
        self._finishing.set()

    def _keep(self) -> None:
        look = unfailing(self._look)
        while not self._finishing.wait(LOOK_S):
            look()

    def _look(self) -> None:
        more = True
        while more and not self._finishing.is_set():
            expired = self._runtime.backend.expire(limit=AT_ONCE)
            for conversation_id in expired.too_old:  # the sweep tells whoever injected it
                logger.error("conversation.too_old conversation=%s", conversation_id)
            more = expired.more
