"""The data of a file with `${NAME}` filled in from the environment, and the report of problems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from threadloom.config.errors import Problem, place
from threadloom.config.secrets import EnvironmentText, expand

Place = tuple[str | int, ...]

#: shorter values count as no secret: they would also match in the middle of words
_LEAST_SECRET_LENGTH = 4


class Report:
    """Collects problems in the order they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._unusable: set[Place] = set()

    def add(self, at: Place, message: str) -> None:
        """Record a problem, unless the value or a container of it was already marked unusable."""
        if not any(at[:length] in self._unusable for length in range(1, len(at) + 1)):
            self.problems.append(Problem(place(*at), message))

    def add_unusable(self, at: Place, message: str) -> None:
        """Record a problem and drop all later problems of this value and what it contains."""
        self.add(at, message)
        self._unusable.add(at)


class Source:
    """Plain data in whose texts `${NAME}` is replaced; other values are unchanged.

    Missing variables, keys that are not text and structures that contain themselves are added to
    the report. A text with a missing variable remains as written in the file.
    """

    def __init__(self, data: object, environ: Mapping[str, str], report: Report) -> None:
        self._environ = environ
        self._report = report
        self._values: dict[str, str] = {}
        self._literals: list[str] = []
        #: ids of the containers around the value at hand
        self._around: list[int] = []
        self.data = self._expanded(data, ())

    def scrub(self, message: str) -> str:
        """Return a message of other code with this file's environment values masked.

        A value that the file also spells out is no secret and is kept.
        """
        for value, name in sorted(self._values.items(), key=lambda item: -len(item[0])):
            spelled_out = any(value in literal for literal in self._literals)
            if len(value) >= _LEAST_SECRET_LENGTH and not spelled_out:
                message = message.replace(value, f"${{{name}}}")
        return message

    def _expanded(self, value: Any, at: Place) -> Any:
        if isinstance(value, str):
            return self._text(value, at)
        if isinstance(value, set | frozenset):
            value = sorted(value, key=str)  # YAML's !!set
        if not isinstance(value, Mapping | list | tuple):
            return value
        if id(value) in self._around:
            self._report.add_unusable(at, "contains itself")
            return None
        self._around.append(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(value, at)
            return [self._expanded(item, (*at, index)) for index, item in enumerate(value)]
        finally:
            self._around.pop()

    def _mapping(self, value: Mapping[Any, Any], at: Place) -> dict[str, Any]:
        kept = {}
        for key, item in value.items():
            if isinstance(key, str):
                kept[key] = self._expanded(item, (*at, key))
            else:
                read = json.dumps(key) if isinstance(key, bool) else str(key)
                self._report.add(at, f"the key that YAML reads as {read} must be text; quote it")
        return kept

    def _text(self, value: str, at: Place) -> str:
        if isinstance(value, EnvironmentText):
            return value  # a mapping that was expanded before
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            self._report.add_unusable(at, "holds half a surrogate pair, which is not text")
            return ""
        text, values, faults = expand(value, self._environ)
        if faults:
            self._report.add_unusable(at, "; ".join(faults))
            return value
        self._values.update({v: name for name, v in values.items()})
        if not values:
            self._literals.append(text)
        return text
