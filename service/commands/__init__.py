"""The subcommands of `threadloom`, one module each, and what their errors look like."""

from threadloom.service.commands.application import run

__all__ = ["run"]
