"""Values in elements and in JSON: the containers around the scalars of `scalars.py`.

A payload class becomes a tree of codecs, one node per type in its annotations: `Leaf`, `Raw`,
`Nullable`, `Listed`, `Mapped`, and `Record` for the class itself. Each node writes a value into
an element that its parent made, reads it back from an element that passed the schema, and does
the same for JSON. Every fault is collected with its path, so that a sender can repair all of
them at once; what a codec returns is of no use once it has added a fault.

Recursion follows the annotations, which cannot be recursive, never the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Protocol

from lxml import etree

from threadloom.routing.errors import InvalidEnvelopeError, InvalidPayloadError
from threadloom.routing.payloads.grafting import append_exactly
from threadloom.routing.payloads.markup import XML
from threadloom.routing.payloads.scalars import Scalar, check_text, expected, show

XSI_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
_SAMPLE_XML = "<element>text</element>"

Faults = list[str]


class Codec(Protocol):
    """How values of one annotation travel. `path` is where the value stands, for faults."""

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        """Fill `element` with `value`."""

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        """Return the value of an element that is valid under the schema."""

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        """Return what JSON carries for `value`."""

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        """Return the value for what JSON carried."""

    def sample(self) -> Any:
        """Return a value for examples."""


@dataclass(frozen=True)
class Leaf:
    """An element with text and nothing else."""

    scalar: Scalar

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        try:
            element.text = self.scalar.to_text(self.scalar.check(value))
        except ValueError as exc:
            faults.append(f"{path}: {exc}")

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        return _tried(self.scalar.from_text, _text_of(element), path, faults)

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        return _tried(lambda v: self.scalar.to_json(self.scalar.check(v)), value, path, faults)

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        return _tried(self.scalar.from_json, value, path, faults)

    def sample(self) -> Any:
        return self.scalar.sample


@dataclass(frozen=True)
class Raw:
    """An element with exactly one element of any kind in it."""

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        if isinstance(value, XML):
            append_exactly(element, value.element)
        else:
            faults.append(f"{path}: {expected('XML', value)}")

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        try:
            return XML.of_parsed(next(_children(element)))
        except InvalidEnvelopeError as exc:  # a tree made by hand may have no canonical form
            faults.extend(f"{path}: {fault}" for fault in exc.faults)
            return None

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        if isinstance(value, XML):
            return value.text
        faults.append(f"{path}: {expected('XML', value)}")
        return None

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        if not isinstance(value, (str, XML)):
            faults.append(f"{path}: {expected('XML text', value)}")
            return None
        try:
            return XML(value)
        except InvalidPayloadError as exc:
            faults.extend(f"{path}: {fault}" for fault in exc.faults)
            return None

    def sample(self) -> Any:
        return XML(_SAMPLE_XML)


@dataclass(frozen=True)
class Nullable:
    """A value or None. None is `xsi:nil`, where the element is not simply left out."""

    inner: Codec

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        if value is None:
            element.set(XSI_NIL, "true")
        else:
            self.inner.write(element, value, path, faults)

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        nil = element.get(XSI_NIL)
        if nil is not None and nil.strip() in ("true", "1"):
            return None
        return self.inner.read(element, path, faults)

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        return None if value is None else self.inner.to_json(value, path, faults)

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        return None if value is None else self.inner.from_json(value, path, faults)

    def sample(self) -> Any:
        return self.inner.sample()


@dataclass(frozen=True)
class Listed:
    """`<item>` elements, in order."""

    item: Codec

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        for item, where in self._items(value, path, faults):
            self.item.write(etree.SubElement(element, "item"), item, where, faults)

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        read = self.item.read
        return [read(e, f"{path}[{i}]", faults) for i, e in enumerate(_children(element))]

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        items = self._items(value, path, faults)
        return [self.item.to_json(item, where, faults) for item, where in items]

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        items = self._items(value, path, faults)
        return [self.item.from_json(item, where, faults) for item, where in items]

    def sample(self) -> Any:
        return [self.item.sample()]

    def _items(self, value: object, path: str, faults: Faults) -> Iterator[tuple[object, str]]:
        if not isinstance(value, list):
            faults.append(f"{path}: {expected('list', value)}")
            return
        for index, item in enumerate(value):
            yield item, f"{path}[{index}]"


@dataclass(frozen=True)
class Mapped:
    """`<entry key="…">` elements, one per key, in the order of the dict."""

    value: Codec

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        for key, item, where in self._entries(value, path, faults):
            entry = etree.SubElement(element, "entry", {"key": key})
            self.value.write(entry, item, where, faults)

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        entries: dict[str, Any] = {}
        for entry in _children(element):
            key = entry.get("key", "")
            where = f"{path}[{show(key)}]"
            if key in entries:
                faults.append(f"{where}: this key stands there twice")
            entries[key] = self.value.read(entry, where, faults)
        return entries

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        entries = self._entries(value, path, faults)
        return {key: self.value.to_json(item, where, faults) for key, item, where in entries}

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        entries = self._entries(value, path, faults)
        return {key: self.value.from_json(item, where, faults) for key, item, where in entries}

    def sample(self) -> Any:
        return {"key": self.value.sample()}

    def _entries(
        self, value: object, path: str, faults: Faults
    ) -> Iterator[tuple[str, object, str]]:
        if not isinstance(value, Mapping):
            faults.append(f"{path}: {expected('dict', value)}")
            return
        for key, item in value.items():
            where = f"{path}[{show(key)}]"
            try:
                yield check_text(key), item, where
            except ValueError as exc:
                faults.append(f"{where}: as a key: {exc}")


@dataclass(frozen=True)
class Field:
    """One field of a payload class."""

    name: str
    #: its element, in Clark notation where the class has a namespace
    tag: str
    codec: Codec
    #: the default, or MISSING; a default factory counts as a default that is not shown
    default: Any
    required: bool
    #: the author's `field(metadata={"example": …})`, or MISSING
    example: Any

    @property
    def left_out_when_none(self) -> bool:
        return self.default is None


@dataclass(frozen=True)
class Record:
    """The fields of a payload class, as children in declaration order."""

    cls: type
    fields: tuple[Field, ...]
    by_tag: Mapping[str, Field] = field(init=False, repr=False, compare=False)
    by_name: Mapping[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_tag", {f.tag: f for f in self.fields})
        object.__setattr__(self, "by_name", {f.name: f for f in self.fields})

    def write(self, element: etree._Element, value: object, path: str, faults: Faults) -> None:
        for f, item, where in self._values(value, path, faults):
            if item is not None or not f.left_out_when_none:
                f.codec.write(etree.SubElement(element, f.tag), item, where, faults)

    def read(self, element: etree._Element, path: str, faults: Faults) -> Any:
        before, values = len(faults), {}
        for child in _children(element):
            f = self.by_tag[child.tag]
            values[f.name] = f.codec.read(child, _join(path, f.name), faults)
        return self._made(values, path, faults, before)

    def to_json(self, value: object, path: str, faults: Faults) -> Any:
        values = self._values(value, path, faults)
        return {f.name: f.codec.to_json(item, where, faults) for f, item, where in values}

    def from_json(self, value: object, path: str, faults: Faults) -> Any:
        if type(value) is self.cls:  # a payload object inside a mapping from the same process
            value = self.to_json(value, path, faults)
        if not isinstance(value, Mapping):
            faults.append(f"{_at(path)}{expected('a mapping of its fields', value)}")
            return None
        before, values = len(faults), {}
        for key in value:
            if key not in self.by_name:
                faults.append(f"{_at(path)}there is no field {show(key)}")
        for f in self.fields:
            if f.name in value:
                values[f.name] = f.codec.from_json(value[f.name], _join(path, f.name), faults)
            elif f.required:
                faults.append(f"{_join(path, f.name)}: missing")
        return self._made(values, path, faults, before)

    def sample(self) -> Any:
        """Return an instance with a value in every field, or ValueError when the class refuses it.

        An author's example comes first, then a telling default, then a value by type.
        """
        faults: Faults = []
        made = self._made({f.name: _sample_of(f) for f in self.fields}, "", faults, 0)
        if faults:
            raise ValueError("; ".join(faults))
        return made

    def _values(
        self, value: object, path: str, faults: Faults
    ) -> Iterator[tuple[Field, object, str]]:
        if type(value) is not self.cls:  # a subclass would lose its own fields
            faults.append(f"{_at(path)}{expected(self.cls.__name__, value)}")
            return
        for f in self.fields:
            yield f, getattr(value, f.name, MISSING), _join(path, f.name)

    def _made(self, values: dict[str, Any], path: str, faults: Faults, before: int) -> Any:
        if len(faults) > before:
            return None
        try:
            return self.cls(**values)
        except Exception as exc:  # whatever the class's own __post_init__ raises is a verdict
            faults.append(f"{_at(path)}{self.cls.__name__} refuses these values: {exc}")
            return None


def _sample_of(f: Field) -> Any:
    if f.example is not MISSING:
        return f.example
    return f.default if f.default not in (MISSING, None, "") else f.codec.sample()


def _children(element: etree._Element) -> Iterator[etree._Element]:
    return element.iterchildren("*")  # without comments, which a tree made by hand may have


def _text_of(element: etree._Element) -> str:
    if len(element):  # comments divide the text
        return str(element.xpath("string()"))
    return element.text or ""


def _tried(function: Callable[[Any], Any], value: Any, path: str, faults: Faults) -> Any:
    try:
        return function(value)
    except ValueError as exc:
        faults.append(f"{path}: {exc}")
        return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(path: str) -> str:
    return f"{path}: " if path else ""
