"""Where conversations live: one Protocol, and its implementations."""

from routing.backends.base import SharedBackend
from routing.backends.connect import MANAGER_VARIABLE, connect
from routing.backends.manager import ManagerBackend
from routing.backends.memory import MemoryBackend
from routing.backends.redis import RedisBackend

__all__ = [
    "MANAGER_VARIABLE",
    "ManagerBackend",
    "MemoryBackend",
    "RedisBackend",
    "SharedBackend",
    "connect",
]
