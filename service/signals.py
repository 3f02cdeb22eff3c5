"""Signals as a queue that the main thread waits on, instead of handlers that interrupt it."""

from __future__ import annotations

import os
import select
import signal
from types import TracebackType
from typing import Any, Self


class SignalQueue:
    """A context manager in whose body the given signals are queued and have no other effect.

    A process may have only one at a time, in its main thread.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_s: float | None = None) -> signal.Signals | None:
        """Return the next signal, or None after `timeout_s`; without a timeout, wait forever."""
        ready, _, _ = select.select([self._reader], [], [], timeout_s)
        return signal.Signals(os.read(self._reader, 1)[0]) if ready else None
