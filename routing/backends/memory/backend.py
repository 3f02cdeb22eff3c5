"""The registry of one process: the semantics of the Lua scripts under one lock.

For tests, for `backend: {type: memory}`, and behind the `manager` backend, whose processes
call this class in one server process: arguments and answers are plain records and pickle.
Nothing survives the process. The parts of the contract stand in the modules named like them;
what they do in one conversation in `conversation.py` and those it builds on; the steps of a
commit and of recovery in `steps.py`.
"""

from __future__ import annotations

from threadloom.routing.backends.memory.conversations import atomic
from threadloom.routing.backends.memory.dead_letters import DeadLetters
from threadloom.routing.backends.memory.deliveries import Deliveries
from threadloom.routing.backends.memory.reading import Reading
from threadloom.routing.backends.memory.recovery import Recovery
from threadloom.routing.backends.memory.threads import Joins, Threads
from threadloom.routing.errors import RegistryFormatError
from threadloom.routing.store import FORMAT


class MemoryBackend(Deliveries, Recovery, DeadLetters, Joins, Threads, Reading):
    """A `SharedBackend` for the threads of one process."""

    def check_format(self, expected: int = FORMAT) -> None:
        """See `SharedBackend`; `expected` is that of a process which asks a manager."""
        if expected != FORMAT:
            raise RegistryFormatError("in the manager", FORMAT, expected)

    @atomic
    def clear(self) -> None:
        self._states.clear()
        self._workers.clear()
        self._shared.due.clear()
        self._shared.sent.clear()
        self._shared.dead.clear()
        self._index.clear()
        self._refused.clear()

    def close(self) -> None:
        """Nothing to let go of."""
