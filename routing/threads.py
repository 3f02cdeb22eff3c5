"""The thread registry: which call chain stands behind a thread id, and back.

A thread is an opaque random UUID; only the registry knows the chain of names behind it, as a
tuple, for names may hold any character. Every change is one atomic operation of the backend,
so fifty workers that extend or prune one thread at once see one outcome. Children made here
are the plain ones, one per listener; the threads of parallel branches come with the commit
that opens their join, or by `register_thread`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from threadloom.routing.errors import UnknownThreadError
from threadloom.routing.records import Thread
from threadloom.routing.store import ROOTS, ThreadStore

Chain = tuple[str, ...]

#: threads that one call of the backend forgets at most
_DROP_BATCH = 500


def _random_id() -> str:
    return str(uuid.uuid4())


class ThreadRegistry:
    """The threads of one conversation; any number of processes may have one each.

    `new_id` makes ids that were never used before. Every method may raise
    RegistryUnavailableError; repeating any of them is safe.
    """

    def __init__(
        self,
        backend: ThreadStore,
        conversation_id: str,
        *,
        new_id: Callable[[], str] = _random_id,
    ) -> None:
        self._backend = backend
        self._conversation = conversation_id
        self._new_id = new_id

    def initialize_root(self, initiator: str) -> str:
        """The injector's own thread, the root of every chain it starts: one per initiator."""
        return self._child(ROOTS, initiator)

    def start_chain(self, initiator: str, target: str) -> str:
        """The thread on which `initiator` calls `target`."""
        return self.get_or_create((initiator, target))

    def get_or_create(self, chain: Chain) -> str:
        """The thread of a call chain, the injector first; made if there is none.

        Costs one round trip per name. Raises ValueError for an empty chain.
        """
        if not chain:
            raise ValueError("a call chain has at least one name")
        thread = ROOTS
        for name in chain:
            thread = self._child(thread, name)
        return thread

    def extend_chain(self, thread_id: str, next_hop: str) -> str:
        """The thread on which this one's listener calls `next_hop`: the same at every call.

        Raises UnknownThreadError.
        """
        if thread_id == ROOTS:
            raise UnknownThreadError(thread_id)
        return self._child(thread_id, next_hop)

    def register_thread(self, thread_id: str, chain: Chain) -> None:
        """Make a known id stand for a chain.

        If the chain has a thread already, `get_or_create` goes on to return that one. Raises
        ValueError for an empty chain or id, and for an id that stands for another chain.
        """
        if not chain or not thread_id:
            raise ValueError("a thread has an id, and a call chain at least one name")
        parent = self.get_or_create(chain[:-1]) if len(chain) > 1 else ROOTS
        new = self._backend.put_thread(
            self._conversation, Thread(thread_id, tuple(chain), parent or None)
        )
        if not new and self.lookup(thread_id) != tuple(chain):
            raise ValueError(f"thread {thread_id} stands for another chain")
        self._backend.child_thread(self._conversation, parent, chain[-1], thread_id)

    def lookup(self, thread_id: str) -> Chain:
        """The call chain of a thread. Raises UnknownThreadError."""
        return self._thread(thread_id).chain

    def prune_for_response(self, thread_id: str) -> tuple[str | None, str | None]:
        """Whom a reply on this thread goes to, and on which thread.

        Both are None for the injector's own thread: there the conversation ends. Pruning
        removes nothing, so a second call to the same peer finds the same thread, and each of
        many simultaneous replies gets the same answer. Raises UnknownThreadError.
        """
        thread = self._thread(thread_id)
        return thread.caller, thread.parent_id

    def cleanup(self, thread_id: str) -> int:
        """Forget a thread and all threads below it; returns how many there were.

        A reply that comes on one of them later is logged, not delivered. Called again, or for
        an unknown id, it returns 0.
        """
        doomed = {thread_id}
        dropped = 0
        while found := _below(self._backend.threads(self._conversation), doomed):
            # Again, in case a child was made before its parent went; then no more can be.
            dropped += self._drop(found)
            doomed.update(found)
        return dropped

    def clear(self) -> None:
        """Forget all threads of this conversation."""
        self._drop(list(self._backend.threads(self._conversation)))

    def debug_dump(self) -> dict[str, dict[str, object]]:
        """All threads by id, JSON-able: `chain`, `parent`, and `branch` as [join, index]."""
        return {
            thread.id: {
                "chain": list(thread.chain),
                "parent": thread.parent_id,
                "branch": list(thread.branch) if thread.branch else None,
            }
            for thread in self._backend.threads(self._conversation).values()
        }

    # --- plumbing -----------------------------------------------------------------------

    def _child(self, parent_id: str, name: str) -> str:
        return self._backend.child_thread(self._conversation, parent_id, name, self._new_id()).id

    def _thread(self, thread_id: str) -> Thread:
        thread = self._backend.thread(self._conversation, thread_id)
        if thread is None:
            raise UnknownThreadError(thread_id)
        return thread

    def _drop(self, threads: Sequence[str]) -> int:
        return sum(
            self._backend.drop_threads(self._conversation, threads[start : start + _DROP_BATCH])
            for start in range(0, len(threads), _DROP_BATCH)
        )


def _below(threads: Mapping[str, Thread], tops: set[str]) -> list[str]:
    """The threads among `threads` that are one of `tops`, or below one."""

    def is_below(thread: Thread | None) -> bool:
        while thread is not None:
            if thread.id in tops or thread.parent_id in tops:
                return True
            thread = threads.get(thread.parent_id) if thread.parent_id else None
        return False

    return [thread.id for thread in threads.values() if is_below(thread)]
