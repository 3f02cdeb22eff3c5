"""The subcommands of `threadloom`, one module each, and the display of their errors."""

from threadloom.service.commands.application import run

__all__ = ["run"]
