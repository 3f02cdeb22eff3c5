"""The registry of the processes of one machine, in a manager process."""

from threadloom.routing.backends.manager.backend import Door, ManagerBackend

__all__ = [
    "Door",
    "ManagerBackend",
]

#: modules that others import from by their own names: `python -m` runs this one, and complains of a
#: module that its own package has loaded before
PUBLIC_MODULES = ("server",)
