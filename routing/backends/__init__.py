"""Where conversations live: one Protocol, and its implementations."""

from threadloom.routing.backends.connect import MANAGER_VARIABLE, connect
from threadloom.routing.backends.manager import ManagerBackend
from threadloom.routing.backends.memory import MemoryBackend
from threadloom.routing.backends.redis import RedisBackend
from threadloom.routing.store import SharedBackend

__all__ = [
    "MANAGER_VARIABLE",
    "ManagerBackend",
    "MemoryBackend",
    "RedisBackend",
    "SharedBackend",
    "connect",
]

#: modules that others import from by their own names: whoever runs a manager needs its door
PUBLIC_MODULES = ("manager",)
