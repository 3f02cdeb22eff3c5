"""The registry of the processes of one machine, in a manager process."""

from threadloom.routing.backends.manager.backend import Door, ManagerBackend

__all__ = ["Door", "ManagerBackend"]
