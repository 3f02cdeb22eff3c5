"""From a dataclass and its annotations to the codecs of its wire form.

Only what has an unambiguous wire form is accepted; anything else is a PayloadDefinitionError
that names the class, the field and the reason, found when the class is first used.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lxml import etree

from threadloom.routing.errors import PayloadDefinitionError
from threadloom.routing.payloads.markup import XML
from threadloom.routing.payloads.scalars import Scalar, enum_scalar, literal_scalar, scalar_for
from threadloom.routing.payloads.wire import (
    Codec,
    Field,
    Leaf,
    Listed,
    Mapped,
    Nullable,
    Raw,
    Record,
)

#: how many types a container's annotation names; `typing.List` alone names none
_PARAMETERS: dict[object, int] = {list: 1, dict: 2}

#: returns the fields of a nested payload class, or None if the class is not a payload
NestedFields = Callable[[type], Record | None]


@dataclass(frozen=True)
class WireStyle:
    """How a payload class is named on the wire."""

    #: the root element's local name; None for the class name
    tag: str | None = None
    #: the namespace of all its elements; None for none
    namespace: str | None = None
    #: whether `retry_allowed` is written `retry-allowed`
    dashed: bool = False

    def qualified(self, name: str) -> str:
        """Return an element name in Clark notation, or raise ValueError if XML has no such name."""
        return etree.QName(self.namespace, name.replace("_", "-") if self.dashed else name).text


class _UnsupportedError(ValueError):
    """An annotation without a wire form."""


def define(cls: type, style: WireStyle, nested: NestedFields) -> Record:
    """Return the fields of a payload class with their codecs.

    Raises PayloadDefinitionError; `nested` may raise it for a class further down.
    """
    _check_constructor(cls)
    hints = _hints(cls)
    fields = tuple(_field(cls, f, hints[f.name], style, nested) for f in dataclasses.fields(cls))
    return Record(cls, fields)


def _check_constructor(cls: type) -> None:
    """Every field must be a constructor argument and nothing else may be a required one."""
    parameters = inspect.signature(cls).parameters
    names = {f.name for f in dataclasses.fields(cls)}
    for name in names - set(parameters):
        raise PayloadDefinitionError(cls.__qualname__, f"field {name} is no constructor argument")
    for name, parameter in parameters.items():
        if name not in names and parameter.default is inspect.Parameter.empty:
            reason = f"constructor argument {name} is no field"
            raise PayloadDefinitionError(cls.__qualname__, reason)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except Exception as exc:  # evaluating an annotation runs whatever stands in it
        reason = f"its annotations cannot be resolved at module level: {exc}"
        raise PayloadDefinitionError(cls.__qualname__, reason) from exc


def _field(
    cls: type, f: dataclasses.Field[Any], hint: object, style: WireStyle, nested: NestedFields
) -> Field:
    try:
        codec = _codec(hint, nested)
        tag = style.qualified(f.name)
    except ValueError as exc:
        raise PayloadDefinitionError(cls.__qualname__, f"field {f.name}: {exc}") from exc
    if style.namespace is not None and not isinstance(codec, Leaf):
        reason = f"field {f.name}: with a namespace of its own, a payload has simple fields only"
        raise PayloadDefinitionError(cls.__qualname__, reason)
    _check_sample_values(cls, f, codec)
    required = f.default is MISSING and f.default_factory is MISSING
    return Field(f.name, tag, codec, f.default, required, f.metadata.get("example", MISSING))


def _check_sample_values(cls: type, f: dataclasses.Field[Any], codec: Codec) -> None:
    """A default such as `name: str = None` would fail only when the first message is written."""
    faults: list[str] = []
    for kind, value in (("default", f.default), ("example", f.metadata.get("example", MISSING))):
        if value is not MISSING:
            codec.write(etree.Element("field"), value, f"{kind} of {f.name}", faults)
    if faults:
        raise PayloadDefinitionError(cls.__qualname__, "; ".join(faults))


def _codec(hint: object, nested: NestedFields) -> Codec:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional(hint, arguments, nested)
    if origin is Literal:
        return _literal(arguments)
    if hint in (list, dict) or (origin in (list, dict) and len(arguments) != _PARAMETERS[origin]):
        raise _UnsupportedError("say what is in it: list[T] or dict[str, T]")
    if origin is list:
        return Listed(_codec(arguments[0], nested))
    if origin is dict:
        if arguments[0] is not str:
            raise _UnsupportedError("the keys of a dict must be str")
        return Mapped(_codec(arguments[1], nested))
    return _single(hint, nested)


def _single(hint: object, nested: NestedFields) -> Codec:
    """Return the codec of a class that is no container."""
    if hint is XML:
        return Raw()
    scalar = _scalar(hint)
    if scalar is not None:
        return Leaf(scalar)
    record = nested(hint) if isinstance(hint, type) else None
    if record is not None:
        return record
    if dataclasses.is_dataclass(hint):
        raise _UnsupportedError(f"{_name(hint)} needs @payload as well")
    raise _UnsupportedError(
        f"{_name(hint)} has no wire form; use str, int, float, bool, Decimal, date, datetime, "
        "bytes, Enum, Literal, Optional, list, dict[str, T], a @payload class or XML"
    )


def _scalar(hint: object) -> Scalar | None:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return enum_scalar(hint)
    return scalar_for(hint)


def _optional(hint: object, arguments: tuple[object, ...], nested: NestedFields) -> Codec:
    kinds = [argument for argument in arguments if argument is not types.NoneType]
    if len(kinds) != 1 or len(kinds) == len(arguments):
        raise _UnsupportedError(f"{hint} is ambiguous; of unions only T | None has a wire form")
    return Nullable(_codec(kinds[0], nested))


def _literal(values: tuple[object, ...]) -> Codec:
    leaf = Leaf(literal_scalar([value for value in values if value is not None]))
    return Nullable(leaf) if None in values else leaf


def _name(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)
