"""Payload classes: the `@payload` decorator, and what it makes of a dataclass.

    @payload
    @dataclass
    class Add:
        '''Adds two integers.'''
        a: int
        b: int = 0

    payload_type(Add).to_element(Add(2, 3))     # <Add><a>2</a><b>3</b></Add>

A `PayloadType` is built when first asked for, so annotations may refer forward, and kept on the
class itself. It is safe to use from any thread and after a fork: the compiled schema is only
read, and nothing else is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from lxml import etree

from threadloom.config import public
from threadloom.routing.errors import InvalidPayloadError, PayloadDefinitionError
from threadloom.routing.payloads.definition import WireStyle, define
from threadloom.routing.payloads.grafting import without_stand_ins
from threadloom.routing.payloads.markup import canonical, limited, new_element, schema_faults
from threadloom.routing.payloads.scalars import show
from threadloom.routing.payloads.schema import usage_text, xsd_for
from threadloom.routing.payloads.wire import Record

#: an element of this name is an error, whoever wrote it
_RESERVED = ("SystemError",)
_STYLE = "__payload_style__"
_TYPE = "__payload_type__"

T = TypeVar("T")


def payload(cls: type[T]) -> type[T]:
    """Mark a dataclass as a payload class; stands above `@dataclass`.

    Raises PayloadDefinitionError if `cls` is not a dataclass, or is called SystemError. Its fields
    are looked at when `payload_type` is first asked for it.
    """
    if getattr(cls, "__name__", "") in _RESERVED:
        raise PayloadDefinitionError(cls.__qualname__, "its name is that of an error's element")
    return styled_payload(WireStyle())(cls)


def styled_payload(style: WireStyle) -> Callable[[type[T]], type[T]]:
    """Like `payload`, with other names on the wire; for the payloads of this project itself."""

    def mark(cls: type[T]) -> type[T]:
        if not isinstance(cls, type) or "__dataclass_fields__" not in cls.__dict__:
            name = getattr(cls, "__qualname__", repr(cls))
            raise PayloadDefinitionError(name, "not a dataclass; put @payload above @dataclass")
        setattr(cls, _STYLE, style)
        return cls

    return mark


def is_payload(cls: type) -> bool:
    """Whether the class itself, not only a base of it, is marked with `@payload`."""
    return _STYLE in cls.__dict__


def payload_type(cls: type) -> PayloadType:
    """Return the wire form of a payload class; built once.

    Raises PayloadDefinitionError: not marked, recursive, or a field without a wire form.
    """
    if not isinstance(cls, type):
        raise PayloadDefinitionError(show(cls), "it is not a class")
    known = cls.__dict__.get(_TYPE)
    return known if isinstance(known, PayloadType) else _build(cls, ())


def _build(cls: type, trail: tuple[type, ...]) -> PayloadType:
    """Build the payload type of `cls`, which the classes in `trail` contain."""
    style = cls.__dict__.get(_STYLE)
    if not isinstance(style, WireStyle):
        raise PayloadDefinitionError(cls.__qualname__, "it is not marked with @payload")
    if cls in trail:
        chain = " → ".join(c.__qualname__ for c in (*trail[trail.index(cls) :], cls))
        raise PayloadDefinitionError(cls.__qualname__, f"it contains itself: {chain}")

    def nested(inner: type) -> Record | None:
        if not is_payload(inner):
            return None
        known = inner.__dict__.get(_TYPE)
        built = known if isinstance(known, PayloadType) else _build(inner, (*trail, cls))
        if built.namespace is not None:
            raise PayloadDefinitionError(cls.__qualname__, f"{inner.__qualname__} cannot be nested")
        return built.record

    try:
        tag = etree.QName(style.namespace, style.tag or cls.__name__).text
    except ValueError as exc:
        raise PayloadDefinitionError(cls.__qualname__, str(exc)) from exc
    built = PayloadType(cls, tag, define(cls, style, nested))
    setattr(cls, _TYPE, built)  # a second thread builds an equal one; either may stay
    return built


class PayloadType:
    """The wire form of one payload class: schema, example, usage, and both directions.

    Get it from `payload_type`. Methods that find something wrong raise InvalidPayloadError with
    every fault at once, each with the path of the field.
    """

    def __init__(self, cls: type, tag: str, record: Record) -> None:
        self.cls = cls
        #: the root element in Clark notation, as lxml's `.tag` gives it
        self.tag = tag
        self.record = record
        #: the root element's local name
        self.name = etree.QName(tag).localname
        #: the namespace of every element, None for none
        self.namespace: str | None = etree.QName(tag).namespace
        #: where the class is, `module.QualName`, by its public name: good in every process
        self.path = f"{public(cls.__module__)}.{cls.__qualname__}"
        # An empty default namespace must be said, or inside an envelope the element joins it.
        self._nsmap: dict[str | None, str] = {None: self.namespace or ""}

    def __repr__(self) -> str:
        return f"<payload type {self.path}>"

    def __reduce__(self) -> tuple[Callable[[type], PayloadType], tuple[type]]:
        return payload_type, (self.cls,)

    @cached_property
    def xsd(self) -> str:
        """The schema, as XML text."""
        return xsd_for(self.record, self.name, self.namespace)

    @cached_property
    def usage(self) -> str:
        """What a language model needs to know to write this payload."""
        return usage_text(self.record, self.name, self.example_xml())

    @cached_property
    def _schema(self) -> etree.XMLSchema:
        return etree.XMLSchema(etree.fromstring(self.xsd.encode()))

    def example(self) -> Any:
        """Return a valid instance with a value in every field.

        Raises PayloadDefinitionError if the class's own `__post_init__` refuses it; then the
        fields need examples: `field(metadata={"example": …})`.
        """
        try:
            return self.record.sample()
        except ValueError as exc:
            reason = f'no example of it: {exc}; give fields metadata={{"example": …}}'
            raise PayloadDefinitionError(self.cls.__qualname__, reason) from exc

    def example_xml(self) -> str:
        """Return the example as canonical XML."""
        return canonical(self.to_element(self.example())).decode()

    def to_element(self, obj: object) -> etree._Element:
        """Return `obj` as an element. Raises InvalidPayloadError: it breaks its annotations."""
        faults: list[str] = []
        element = new_element(self.tag, self._nsmap)
        self.record.write(element, obj, "", faults)
        self._raise(faults)
        return without_stand_ins(element)

    def faults(self, element: etree._Element) -> tuple[str, ...]:
        """Return why `element` breaks the schema; empty if it does not."""
        return schema_faults(self._schema, element)

    def from_element(self, element: etree._Element) -> Any:
        """Return the object of an element, checked by the schema first.

        Raises InvalidPayloadError.
        """
        self._raise(self.faults(element))
        return self.from_valid_element(element)

    def from_valid_element(self, element: etree._Element) -> Any:
        """Return the object of an element for which `faults` was empty.

        Raises InvalidPayloadError for what a schema cannot say: a key that stands there twice,
        a number too long for Python, or the class's own `__post_init__`.
        """
        faults: list[str] = []
        obj = self.record.read(element, "", faults)
        self._raise(faults)
        return obj

    def to_json(self, obj: object) -> dict[str, Any]:
        """Return `obj` as JSON-ready values: dates ISO, bytes base64, Decimal and XML as strings.

        Raises InvalidPayloadError: it breaks its annotations.
        """
        faults: list[str] = []
        values: dict[str, Any] = self.record.to_json(obj, "", faults)
        self._raise(faults)
        return values

    def from_json(self, values: Mapping[str, object]) -> Any:
        """Return the object for what `to_json` made, or for Python values of the fields' types.

        Raises InvalidPayloadError: unknown keys, missing fields, wrong types.
        """
        faults: list[str] = []
        obj = self.record.from_json(values, "", faults)
        self._raise(faults)
        return obj

    def _raise(self, faults: list[str] | tuple[str, ...]) -> None:
        if faults:
            raise InvalidPayloadError(self.name, limited(list(faults)))
