"""The pool's hard time limit for the deliveries that a turn goes on with.

Celery's main process ends a pool process whose task exceeds its hard limit. It knows only the task
that it passed to the process, not the further deliveries of the turn. So each pool process writes
its pid and the deadline of its current delivery into memory that it shares with the main process
(both were forked from it). The main process reads it twice a second, and ends a late process just
as Celery ends one whose task is late.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

from billiard import current_process

#: the entry of one process: its pid, and the monotonic s of its deadline; 0: no deadline
_ENTRY = struct.Struct("qd")
#: number of entries, more than a worker has pool processes
_ENTRIES = 1024


class OvertimeBoard:
    """The deadline of each process of one worker's pool."""

    def __init__(self) -> None:
        self._board = mmap.mmap(-1, _ENTRY.size * _ENTRIES)  # forked children share it

    def expect(self, within_s: float | None) -> None:
        """Called by a pool process: set its deadline to `within_s` from now; None: no deadline."""
        late_at = time.monotonic() + within_s if within_s else 0.0
        position = getattr(current_process(), "index", os.getpid()) % _ENTRIES
        _ENTRY.pack_into(self._board, position * _ENTRY.size, os.getpid(), late_at)

    def late(self) -> set[int]:
        """Return the pids of the processes whose deadline has passed."""
        now = time.monotonic()
        return {pid for pid, late_at in _ENTRY.iter_unpack(self._board[:]) if 0 < late_at < now}

    def end_late(self, worker: Any, requests: Iterable[Any]) -> None:
        """Called by the main process: end each late process as Celery ends one with a late task."""
        late = self.late()
        if not late:
            return
        for request in list(requests):
            job = request._apply_result() if request._apply_result is not None else None
            if request.worker_pid in late and job is not None:
                worker.pool._pool.on_hard_timeout(job)
