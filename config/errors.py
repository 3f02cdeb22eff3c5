"""The error tree of Threadloom: one root, and an answer to "retry or give up?".

    ThreadloomError
    ├── TransientError              the same call may succeed later; nothing was lost
    │   ├── RegistryUnavailableError
    │   └── BrokerUnavailableError
    └── PermanentError              the same call never will
        └── ConfigurationError      … and the ones `routing.errors` adds

Celery's result backend stores `exc.args` and rebuilds `cls(*args)`, so every class passes
its fields positionally to `super().__init__` and formats them in `__str__`; a test sends
each one through Celery's JSON round trip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

#: a key that needs no quotes in a place
_PLAIN_KEY = re.compile(r"[\w-]+")


class ThreadloomError(Exception):
    """Root of every error this project raises on purpose."""


class TransientError(ThreadloomError):
    """The same call may succeed later."""


class PermanentError(ThreadloomError):
    """The same call will fail again until somebody changes something."""


class RegistryUnavailableError(TransientError):
    """The registry did not answer: the operation may or may not have happened; repeat it."""


class BrokerUnavailableError(TransientError):
    """The broker did not take a message; it stays in the outbox and is published later."""


class Problem(NamedTuple):
    """One thing wrong with a configuration, and where."""

    #: where it stands, e.g. `listeners[2].peers[0]`; empty for the file as a whole
    path: str
    #: what is wrong and what to do about it
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def place(*parts: str | int) -> str:
    """Return where something stands in a file: `place("listeners", 2, "peers", 0)` is
    `listeners[2].peers[0]`. Keys that would read like two are quoted: `task_routes["a.b"]`.
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
    """An organism that cannot start; `problems` lists every reason at once."""

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(source, [tuple(p) for p in problems])
        self.source = source
        self.problems = tuple(Problem(*p) for p in problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.source}: {count} problem{'s' if count != 1 else ''}\n{lines}"
