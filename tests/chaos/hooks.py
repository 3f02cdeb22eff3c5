"""What a handler of the chaos organism calls while it is at work.

In a worker of `tests.chaos.killable` that is one more point at which it can be ended; in any
other process nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable


class _Listener:
    call: Callable[[], None] = staticmethod(lambda: None)


def working() -> None:
    """Say that a handler is in the middle of its work."""
    _Listener.call()


def listen(call: Callable[[], None]) -> None:
    """Have `call` called by `working`."""
    _Listener.call = staticmethod(call)
