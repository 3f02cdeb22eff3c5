"""The pool's hard time limit for the deliveries that a turn goes on with.

Celery's main process ends a pool process whose task runs past its hard limit. It knows the task
that it handed over, not the deliveries that the process goes on with, so each process writes
beside its pid when the one at hand has to be over, into memory that it shares with the main
process by being forked from it. The main process looks twice a second, and deals with one that
is late as Celery does with a task.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

from billiard import current_process

#: what one process writes: its pid, and the monotonic s at which it is late; 0: it is not
_ENTRY = struct.Struct("qd")
#: more pool processes than a worker has
_ENTRIES = 1024


class OvertimeBoard:
    """When each process of one worker's pool has to be over with what it is doing."""

    def __init__(self) -> None:
        self._board = mmap.mmap(-1, _ENTRY.size * _ENTRIES)  # shared with children, by default

    def expect(self, within_s: float | None) -> None:
        """Called by a pool process: what it begins now is over in `within_s`, or it is late."""
        late_at = time.monotonic() + within_s if within_s else 0.0
        position = getattr(current_process(), "index", os.getpid()) % _ENTRIES
        _ENTRY.pack_into(self._board, position * _ENTRY.size, os.getpid(), late_at)

    def late(self) -> set[int]:
        """The pids of the processes that are late."""
        now = time.monotonic()
        return {pid for pid, late_at in _ENTRY.iter_unpack(self._board[:]) if 0 < late_at < now}

    def end_late(self, worker: Any, requests: Iterable[Any]) -> None:
        """Called by the main process: end what is late, as Celery ends a task that is."""
        late = self.late()
        if not late:
            return
        for request in list(requests):
            job = request._apply_result() if request._apply_result is not None else None
            if request.worker_pid in late and job is not None:
                worker.pool._pool.on_hard_timeout(job)
