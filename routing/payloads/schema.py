"""What a payload class tells others about itself: its XSD, and a usage text for language models.

Nested classes become `xs:group`s and restricted simple types get a name, so that each is
written once however often it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import MISSING

from lxml import etree

from threadloom.routing.payloads.markup import new_element
from threadloom.routing.payloads.scalars import Restriction, Scalar
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

_XS = "http://www.w3.org/2001/XMLSchema"
_INDENT = "  "


def xsd_for(record: Record, tag: str, namespace: str | None) -> str:
    """Return the schema, as XML text, of documents whose root `tag` holds the record's fields."""
    return _Schema(namespace).text(record, tag)


class _Schema:
    """One schema while it is written."""

    def __init__(self, namespace: str | None) -> None:
        nsmap: dict[str | None, str] = {"xs": _XS}
        if namespace is not None:
            nsmap["own"] = namespace
        self._root = new_element(f"{{{_XS}}}schema", nsmap)
        if namespace is not None:
            self._root.set("targetNamespace", namespace)
            self._root.set("elementFormDefault", "qualified")
        self._prefix = "" if namespace is None else "own:"
        self._names: dict[object, str] = {}

    def text(self, record: Record, tag: str) -> str:
        element = _add(self._root, "element", name=tag)
        self._fields(_add(_add(element, "complexType"), "sequence"), record)
        return etree.tostring(self._root, pretty_print=True, encoding="unicode")

    def _fields(self, sequence: etree._Element, record: Record) -> None:
        for f in record.fields:
            element = _add(sequence, "element", name=etree.QName(f.tag).localname)
            if not f.required:
                element.set("minOccurs", "0")
            self._describe(element, f.codec)

    def _describe(self, element: etree._Element, codec: Codec, *, keyed: bool = False) -> None:
        """Give an `xs:element` its type, and with `keyed` a key attribute."""
        if isinstance(codec, Nullable):
            element.set("nillable", "true")
            codec = codec.inner
        if isinstance(codec, Leaf):
            self._simple(element, codec.scalar, keyed=keyed)
            return
        kind = _add(element, "complexType")
        self._content(kind, codec)
        if keyed:
            _add(kind, "attribute", name="key", type="xs:string", use="required")

    def _simple(self, element: etree._Element, scalar: Scalar, *, keyed: bool) -> None:
        name = self._type_name(scalar.xsd)
        if not keyed:
            element.set("type", name)
            return
        extension = _add(_add(_add(element, "complexType"), "simpleContent"), "extension")
        extension.set("base", name)
        _add(extension, "attribute", name="key", type="xs:string", use="required")

    def _content(self, kind: etree._Element, codec: Codec) -> None:
        if isinstance(codec, Record):
            _add(kind, "group", ref=self._group_name(codec))
            return
        sequence = _add(kind, "sequence")
        many = {"minOccurs": "0", "maxOccurs": "unbounded"}
        if isinstance(codec, Raw):
            _add(sequence, "any", namespace="##any", processContents="skip")
        elif isinstance(codec, Listed):
            self._describe(_add(sequence, "element", name="item", **many), codec.item)
        elif isinstance(codec, Mapped):
            entry = _add(sequence, "element", name="entry", **many)
            self._describe(entry, codec.value, keyed=True)

    def _type_name(self, xsd: str | Restriction) -> str:
        if isinstance(xsd, str):
            return xsd
        if xsd not in self._names:
            name = self._claim(xsd, xsd.name)
            kind = _add(_add(self._root, "simpleType", name=name), "restriction", base=xsd.base)
            if xsd.pattern is not None:
                _add(kind, "pattern", value=xsd.pattern)
            for value in xsd.enumeration:
                _add(kind, "enumeration", value=value)
        return self._prefix + self._names[xsd]

    def _group_name(self, record: Record) -> str:
        if record.cls not in self._names:
            name = self._claim(record.cls, record.cls.__name__)
            self._fields(_add(_add(self._root, "group", name=name), "sequence"), record)
        return self._prefix + self._names[record.cls]

    def _claim(self, owner: object, wanted: str) -> str:
        """Return a name of its own: two modules may each have a class called Address."""
        taken = set(self._names.values())
        candidates = (wanted if n == 1 else f"{wanted}.{n}" for n in range(1, len(taken) + 2))
        self._names[owner] = next(name for name in candidates if name not in taken)
        return self._names[owner]


def _add(parent: etree._Element, kind: str, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{_XS}}}{kind}", attributes)


def usage_text(record: Record, tag: str, example: str) -> str:
    """Return what a language model needs to write this payload: purpose, fields, example."""
    lines = [f"<{tag}>", *description(record.cls)]
    if record.fields:
        lines += ["Child elements, in this order:", *_field_lines(record, "- ")]
    else:
        lines.append("It has no child elements.")
    return "\n".join([*lines, "Example:", example])


def description(cls: type) -> list[str]:
    """Return the lines of the class's docstring, none if it has only the one dataclass made up."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return [] if not text or text.startswith(f"{cls.__name__}(") else text.splitlines()


def _field_lines(record: Record, indent: str) -> Iterator[str]:
    for f in record.fields:
        yield f"{indent}{etree.QName(f.tag).localname}: {_kind(f.codec)}{_presence(f)}"
        inner = _record_in(f.codec)
        if inner is not None:
            yield from _field_lines(inner, _INDENT + indent)


def _presence(f: Field) -> str:
    if f.required:
        return ""
    if f.default is MISSING:
        return "; may be absent"
    return f"; may be absent, then {_default_text(f)}"


def _default_text(f: Field) -> str:
    if f.default is None:
        return "none"
    faults: list[str] = []
    return repr(f.codec.to_json(f.default, f.name, faults))


def _kind(codec: Codec) -> str:
    """Return the type in words."""
    if isinstance(codec, Leaf):
        return f"{codec.scalar.label}{' in base64' if codec.scalar.label == 'bytes' else ''}"
    if isinstance(codec, Raw):
        return "exactly one XML element of any kind"
    if isinstance(codec, Nullable):
        return f'{_kind(codec.inner)}, or empty with xsi:nil="true"'
    if isinstance(codec, Listed):
        return f"any number of <item>, each {_kind(codec.item)}"
    if isinstance(codec, Mapped):
        return f'any number of <entry key="…">, each {_kind(codec.value)}'
    return "with child elements, in this order:"


def _record_in(codec: Codec) -> Record | None:
    while isinstance(codec, (Nullable, Listed, Mapped)):
        codec = codec.value if isinstance(codec, Mapped) else _inner(codec)
    return codec if isinstance(codec, Record) else None


def _inner(codec: Nullable | Listed) -> Codec:
    return codec.inner if isinstance(codec, Nullable) else codec.item
