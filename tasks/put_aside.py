"""Messages that are put aside: kept with their cause, and told to their senders.

A thread of its own does both, since a registry or a result store that does not answer may take
seconds, for which the worker's main process would stand still.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from threadloom.routing.gate import Refused
from threadloom.tasks.runtime import Runtime

logger = logging.getLogger(__name__)

#: messages that may wait for the registry; what exceeds them is in the log only
_MOST_WAITING = 1_000
#: s that a worker which stops waits for the last of them
_LINGER_S = 5.0


class PutAside:
    """Keeps refused messages in the registry, in the background."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: queue.Queue[tuple[Refused, Callable[[], None]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread: threading.Thread | None = None

    def put(self, refused: Refused, tell: Callable[[], None]) -> None:
        """Keep a message, and then `tell` its sender."""
        logger.error(
            "message.refused message_id=%r task=%r queue=%r cause=%r excerpt=%r",
            refused.message_id, refused.task, refused.queue, refused.cause, refused.excerpt[:500],
        )  # fmt: skip
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="threadloom-aside", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((refused, tell))
        except queue.Full:
            logger.error("message.not_kept id=%s reason='too many at once'", refused.id)

    def finish(self) -> None:
        """Keep what still waits, for a few seconds at most."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(_LINGER_S)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            refused, tell = item
            try:
                self._runtime.backend.refuse(refused)
            except Exception as exc:  # an error of any registry
                logger.error("message.not_kept id=%s reason=%r", refused.id, exc)
            try:
                tell()
            except Exception as exc:  # an error of any registry, result store or broker
                logger.error("message.sender_not_told id=%s reason=%r", refused.id, exc)
