"""The subcommands of `threadloom`, one module each, and what their errors look like."""

from service.commands.application import run

__all__ = ["run"]
