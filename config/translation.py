"""Pydantic's errors, reworded for the author of a YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from threadloom.config.dotted import nearest
from threadloom.config.secrets import described
from threadloom.config.source import Place

#: keys that the design names and that are not implemented yet
_PLANNED_KEYS = frozenset(
    {"broadcast", "cpu_bound", "graphs", "max_concurrent", "peer_tables", "streams"}
)

_WORDS = {
    "missing": "is missing",
    "int_type": "must be a whole number, not {input}",
    "int_parsing": "must be a whole number, not {input}",
    "int_parsing_size": "is too large",
    "int_from_float": "must be a whole number, not {input}",
    "float_type": "must be a number, not {input}",
    "float_parsing": "must be a number, not {input}",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:g}, not {input}",
    "greater_than_equal": "must be at least {ge}, not {input}",
    "literal_error": "must be {expected}, not {input}",
    "too_short": "must name at least one",
    "tuple_type": "must be a list, not {input}",
    "model_type": "must be a mapping, not {input}",
    "value_error": "{error}",
}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key that does not exist in its section."""
    if key in _PLANNED_KEYS:
        return "not supported yet"
    return f"unknown key{nearest(key, list(known))}"


def problem_of(
    error: ErrorDetails, model: type[BaseModel], raw: dict[str, Any], at: Place
) -> tuple[Place, str]:
    """Return place and text of one pydantic error; `raw` is the file's value at the place `at`."""
    loc = error["loc"]
    here = (*at, *_written(loc, raw))
    if error["type"] == "extra_forbidden":
        return here, unknown_key(str(loc[-1]), _section(model, loc[:-1]).model_fields)
    words = _WORDS.get(error["type"])
    if words is None:
        return here, error["msg"]
    return here, words.format(**error.get("ctx", {}), input=described(error["input"]))


def _written(loc: Place, raw: object) -> Place:
    """Drop the index that pydantic adds to `loc` where the file gives one value for a list."""
    for depth, part in enumerate(loc):
        if isinstance(raw, dict):
            raw = raw.get(str(part))
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part]
        else:
            return loc[:depth]
    return loc


def _section(model: type[BaseModel], loc: Place) -> type[BaseModel]:
    """Return the model of the mapping at `loc` within `model`."""
    for part in loc:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return model
        model = inner
    return model
