"""The error tree of Threadloom; the class of an error tells whether a retry can help.

    ThreadloomError
    ├── TransientError              the same call may succeed later; nothing is lost
    │   ├── RegistryUnavailableError
    │   └── BrokerUnavailableError
    └── PermanentError              the same call will fail again
        └── ConfigurationError      (`routing.errors` adds more classes)

Celery's result backend stores `exc.args` and rebuilds `cls(*args)`, so every class passes
its fields positionally to `super().__init__` and formats them in `__str__`; a test sends
each one through Celery's JSON round trip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

#: a key that needs no quotes in a path such as `listeners[2].peers`
_PLAIN_KEY = re.compile(r"[\w-]+")


class ThreadloomError(Exception):
    """The base class of every error that this project raises on purpose."""


class TransientError(ThreadloomError):
    """The same call may succeed later."""


class PermanentError(ThreadloomError):
    """The same call will fail again until its input or the configuration is changed."""


class RegistryUnavailableError(TransientError):
    """The registry did not answer: it may or may not have done the operation; repeat it."""


class BrokerUnavailableError(TransientError):
    """The broker did not accept a message, which stays in the outbox and is published later."""


class Problem(NamedTuple):
    """One fault of a configuration and its place in the file."""

    #: place of the fault, e.g. `listeners[2].peers[0]`; empty for the file as a whole
    path: str
    #: what is wrong and what to do about it
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def place(*parts: str | int) -> str:
    """Return a path within a file: `place("listeners", 2, "peers", 0)` is `listeners[2].peers[0]`.

    A key with a dot or another special character is quoted: `task_routes["a.b"]`.
    """
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


class ConfigurationError(PermanentError):
    """The organism cannot start; `problems` lists every reason at once."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(source, [tuple(p) for p in problems])
        self.source = source
        self.problems = tuple(Problem(*p) for p in problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.source}: {count} problem{'s' if count != 1 else ''}\n{lines}"
