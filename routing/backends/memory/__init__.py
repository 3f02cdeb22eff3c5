"""The registry in the memory of one process."""

from threadloom.routing.backends.memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
