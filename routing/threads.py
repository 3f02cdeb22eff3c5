"""The thread registry: which call chain stands behind a thread id, and back.

A thread is an opaque random UUID; only the registry knows the chain of names behind it, as a
tuple, for names may hold any character. Every change is one atomic operation of the backend,
so fifty workers that extend or prune one thread at once see one outcome. Children made here
are the plain ones, one per listener; the threads of parallel branches come with the commit
that opens their join, or by `register_thread`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from routing.backends.base import SharedBackend
from routing.errors import UnknownThreadError
from routing.records import Thread

Chain = tuple[str, ...]

#: the parent under which a conversation keeps the injectors' own threads; no thread has this id
_ROOTS = ""


def _random_id() -> str:
    return str(uuid.uuid4())


class ThreadRegistry:
    """The threads of one conversation; any number of processes may have one each.

    `new_id` makes ids that were never used before. Every method may raise
    RegistryUnavailableError; repeating any of them is safe.
    """

    def __init__(
        self,
        backend: SharedBackend,
        conversation: str,
        *,
        new_id: Callable[[], str] = _random_id,
    ) -> None:
        self._backend = backend
        self._conversation = conversation
        self._new_id = new_id
