"""The pool's hard time limit for the deliveries that a turn goes on with.

Celery's main process ends a pool process whose task exceeds its hard limit. It knows only the task
that it passed to the process, not the further deliveries of the turn. So each pool process writes
its pid and the deadline of its current delivery into memory that it shares with the main process
(both were forked from it). The main process reads it twice a second, and ends a late process just
as Celery ends one whose task is late.

A process that has something to tell a registry that does not answer is spared: it asks again and
again, and says so here.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

from billiard import current_process

#: the entry of one process: its pid, the monotonic s of its deadline (0: no deadline), and the
#: monotonic s until which it is spared
_ENTRY = struct.Struct("qdd")
#: number of entries, more than a worker has pool processes
_ENTRIES = 1024


class OvertimeBoard:
    """The deadline of each process of one worker's pool."""

    def __init__(self) -> None:
        self._board = mmap.mmap(-1, _ENTRY.size * _ENTRIES)  # forked children share it

    def expect(self, within_s: float | None) -> None:
        """Called by a pool process: set its deadline to `within_s` from now; None: no deadline."""
        self._write(late_at=time.monotonic() + within_s if within_s else 0.0, spared_until=0.0)

    def spare(self, for_s: float) -> None:
        """Called by a pool process that waits for the registry: it is not ended for `for_s`."""
        pid, late_at, _ = _ENTRY.unpack_from(self._board, self._position())
        self._write(
            late_at=late_at if pid == os.getpid() else 0.0, spared_until=time.monotonic() + for_s
        )

    def _write(self, *, late_at: float, spared_until: float) -> None:
        _ENTRY.pack_into(self._board, self._position(), os.getpid(), late_at, spared_until)

    @staticmethod
    def _position() -> int:
        index: int = getattr(current_process(), "index", os.getpid())
        return index % _ENTRIES * _ENTRY.size

    def late(self) -> set[int]:
        """Return the pids of the processes whose deadline has passed, and that are not spared."""
        now = time.monotonic()
        return {
            pid
            for pid, late_at, spared_until in _ENTRY.iter_unpack(self._board[:])
            if 0 < late_at < now and spared_until < now
        }

    def spared_s(self, pid: int | None) -> float:
        """Return for how many seconds the process is spared yet; 0 or less: it is not."""
        until = (until for each, _, until in _ENTRY.iter_unpack(self._board[:]) if each == pid)
        return max(until, default=0.0) - time.monotonic()

    def spare_from_hard_limit(self, worker: Any) -> None:
        """Called by the main process: have Celery's own hard limit, too, wait for who is spared."""
        pool = worker.pool._pool
        end = pool.on_hard_timeout

        def end_unless_spared(job: Any) -> None:
            spared_s = self.spared_s(job._worker_pid)
            if spared_s > 0 and not job.ready():
                worker.timer.call_after(spared_s, end_unless_spared, (job,))
                return
            end(job)

        pool.on_hard_timeout = end_unless_spared

    def end_late(self, worker: Any, requests: Iterable[Any]) -> None:
        """Called by the main process: end each late process as Celery ends one with a late task."""
        late = self.late()
        if not late:
            return
        for request in list(requests):
            job = request._apply_result() if request._apply_result is not None else None
            if request.worker_pid in late and job is not None:
                worker.pool._pool.on_hard_timeout(job)
