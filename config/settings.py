"""Settings that are passed on to a library unchecked, such as the `celery` section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from threadloom.config.secrets import shown


class Settings(Mapping[str, Any]):
    """A mapping that is read-only all the way down and shows no secret in its repr."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = {str(key): _frozen(value) for key, value in (values or {}).items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(shown(self._values))

    def to_dict(self) -> dict[str, Any]:
        """Return a copy in plain dicts, lists and texts, secrets included, for the library."""
        return {key: _thawed(value) for key, value in self._values.items()}


def _frozen(value: Any) -> Any:
    match value:
        case Mapping():
            return Settings(value)
        case list() | tuple():
            return tuple(_frozen(item) for item in value)
        case set():
            return frozenset(value)
        case _:
            return value


def _thawed(value: Any) -> Any:
    match value:
        case Settings():
            return value.to_dict()
        case tuple():
            return [_thawed(item) for item in value]
        case frozenset():
            return set(value)
        case str():
            return str(value)  # an EnvironmentText becomes a plain one
        case _:
            return value
