"""Simple types on the wire: how each is checked, written as text or JSON, and read back.

A `Scalar` says what a Python value must be and what its text looks like; `wire.py` puts
scalars into elements. Every function here raises ValueError with a fault meant for the sender.
Text is exact for `str`; for the others surrounding blanks are not part of the value.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum, Flag
from typing import Any

from threadloom.routing.payloads.markup import ILLEGAL_CHARACTER

#: digits of an int, and of a Decimal written without exponent; Python converts no longer text
MAX_DIGITS = 4299
_MAX_INT_BITS = 14_280  # what certainly fits into that many digits
_SHOWN_CHARS = 60
_WIDEST_OFFSET = timedelta(hours=14)  # XSD knows no wider one


@dataclass(frozen=True)
class Restriction:
    """An XSD simple type narrower than a built-in one."""

    #: its name in the schema
    name: str
    #: the built-in type it restricts, e.g. `xs:date`
    base: str
    pattern: str | None = None
    enumeration: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scalar:
    """One simple type."""

    #: what people call it, e.g. `int`
    label: str
    #: the XSD type: a built-in name, or a restriction
    xsd: str | Restriction
    #: the value itself if it is one of this type, else ValueError
    check: Callable[[object], Any]
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]
    #: what JSON carries for a checked value
    to_json: Callable[[Any], Any]
    #: the value for what JSON carried; takes a Python value of the type as well
    from_json: Callable[[object], Any]
    #: a value for examples
    sample: Any


def show(value: object) -> str:
    """Return a short name for a wrong value, safe for values of any size and depth."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"{kind} {value[:_SHOWN_CHARS]!r}{'…' if len(value) > _SHOWN_CHARS else ''}"
    if isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**18):
        return f"{kind} {value!r}"
    return kind


def expected(label: str, value: object) -> ValueError:
    return ValueError(f"expected {label}, got {show(value)}")


def check_text(value: object) -> str:
    """Return `value` if it is a string that XML can carry."""
    if not isinstance(value, str):
        raise expected("str", value)
    illegal = ILLEGAL_CHARACTER.search(value)
    if illegal:
        code = f"U+{ord(illegal[0]):04X}"
        raise ValueError(f"character {illegal.start()} is {code}, which XML cannot carry")
    return str.__str__(value)  # of a StrEnum, its value


def _check_int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise expected("int", value)
    if value.bit_length() > _MAX_INT_BITS:
        raise ValueError(f"an int may have {MAX_DIGITS} digits")
    return int(value)


def _int_from_text(text: str) -> int:
    return _check_int(int(text))


def _check_float(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise expected("float", value)
    try:
        return float(value)
    except OverflowError as exc:
        raise ValueError("the number is too large for a float") from exc


def _float_from_text(text: str) -> float:
    """Return the number, or its nearest float; one out of a float's range is refused."""
    number, written = float(text), text.strip()
    if math.isinf(number) and not written.endswith("INF"):
        raise ValueError("the number is too large for a float")
    if not number and re.search("[1-9]", re.split("[eE]", written)[0]):
        raise ValueError("the number is too small for a float")
    return number


def _check_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise expected("bool", value)
    return value


def _check_decimal(value: object) -> Decimal:
    if not isinstance(value, Decimal):
        raise expected("Decimal", value)
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):  # a letter for infinities and NaN
        raise ValueError(f"a Decimal must be finite, got {value}")
    if value and max(abs(value.adjusted()), abs(exponent)) > MAX_DIGITS:
        raise ValueError(f"a Decimal may have {MAX_DIGITS} digits, written without exponent")
    return value if value or abs(exponent) <= MAX_DIGITS else Decimal(0)


def _check_date(value: object) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise expected("date", value)
    return value


def _check_datetime(value: object) -> datetime:
    """Return the instant, in UTC where its own offset is one that XSD cannot write."""
    if not isinstance(value, datetime):
        raise expected("datetime", value)
    offset = value.utcoffset()
    if offset is None or (abs(offset) <= _WIDEST_OFFSET and not offset % timedelta(minutes=1)):
        return value
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{value.isoformat()} lies outside the years 1 to 9999 in UTC") from exc


def _check_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise expected("bytes", value)
    return value


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(value) if math.isfinite(value) else ("INF" if value > 0 else "-INF")


def _float_json(value: float) -> float | str:
    return value if math.isfinite(value) else _float_text(value)  # JSON has no infinities


def _float_from_json(value: object) -> float:
    if isinstance(value, str) and value in ("INF", "-INF", "NaN"):
        return float(value)
    return _check_float(value)


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


def _decimal_from_json(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise expected("a number, or a string of digits", value)
    if isinstance(value, str) and not _DECIMAL_TEXT.fullmatch(value):
        raise expected("a number, or a string of digits", value)
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation as exc:
        raise expected("a number, or a string of digits", value) from exc
    return _check_decimal(number)


def _date_from_json(value: object) -> date:
    if not isinstance(value, str):
        return _check_date(value)
    if not _DATE_TEXT.fullmatch(value):  # Python would read week dates as well
        raise expected("a date as YYYY-MM-DD", value)
    return date.fromisoformat(value)


def _datetime_from_json(value: object) -> datetime:
    if not isinstance(value, str):
        return _check_datetime(value)
    if not _DATETIME_TEXT.fullmatch(value):
        raise expected("a datetime as YYYY-MM-DDThh:mm:ss, perhaps with Z or an offset", value)
    return _datetime_from_text(value)


def _datetime_from_text(text: str) -> datetime:
    """Return the instant. Python would cut a fraction of a second after six digits."""
    fraction = re.search(r"\.([0-9]+)", text)
    if fraction and fraction[1][6:].strip("0"):
        raise ValueError(f"a datetime holds microseconds, and no more digits: {show(text)}")
    return _check_datetime(datetime.fromisoformat(text.strip()))


def _bytes_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes_from_text(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as exc:  # ValueError: not ASCII
        raise ValueError(f"not base64: {exc}") from exc


def _bytes_from_json(value: object) -> bytes:
    return _bytes_from_text(value) if isinstance(value, str) else _check_bytes(value)


def _same(value: Any) -> Any:
    return value


_YEAR = "[0-9]{4}-[0-9]{2}-[0-9]{2}"  # Python's years have four digits, and its dates no zone
_DATE = Restriction("date", "xs:date", _YEAR)
_DATETIME = Restriction("datetime", "xs:dateTime", _YEAR + r"T[0-9:.]+(Z|[+\-][0-9:]{5})?")
# JSON's texts have the forms that the schema asks for in XML.
_DATE_TEXT = re.compile(_YEAR)
_DATETIME_TEXT = re.compile(
    _YEAR + r"T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_DECIMAL_TEXT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")

TEXT = Scalar("str", "xs:string", check_text, _same, _same, _same, check_text, "text")
INT = Scalar("int", "xs:integer", _check_int, str, _int_from_text, _same, _check_int, 1)
FLOAT = Scalar(
    "float",
    "xs:double",
    _check_float,
    _float_text,
    _float_from_text,
    _float_json,
    _float_from_json,
    1.5,
)
BOOL = Scalar(
    "bool",
    "xs:boolean",
    _check_bool,
    lambda value: "true" if value else "false",
    lambda text: text.strip() in ("true", "1"),
    _same,
    _check_bool,
    True,
)
DECIMAL = Scalar(
    "Decimal",
    "xs:decimal",
    _check_decimal,
    _decimal_text,
    lambda text: _check_decimal(Decimal(text.strip())),
    _decimal_text,
    _decimal_from_json,
    Decimal("1.50"),
)
DATE = Scalar(
    "date",
    _DATE,
    _check_date,
    date.isoformat,
    lambda text: date.fromisoformat(text.strip()),
    date.isoformat,
    _date_from_json,
    date(2024, 1, 31),
)
DATETIME = Scalar(
    "datetime",
    _DATETIME,
    _check_datetime,
    datetime.isoformat,
    _datetime_from_text,
    datetime.isoformat,
    _datetime_from_json,
    datetime(2024, 1, 31, 12, tzinfo=UTC),
)
BYTES = Scalar(
    "bytes",
    "xs:base64Binary",
    _check_bytes,
    _bytes_text,
    _bytes_from_text,
    _bytes_text,
    _bytes_from_json,
    b"bytes",
)

_BY_TYPE: dict[object, Scalar] = {
    str: TEXT,
    int: INT,
    float: FLOAT,
    bool: BOOL,
    Decimal: DECIMAL,
    date: DATE,
    datetime: DATETIME,
    bytes: BYTES,
}


def scalar_for(annotation: object) -> Scalar | None:
    """Return the scalar of a built-in simple type, None for any other annotation."""
    return _BY_TYPE.get(annotation) if isinstance(annotation, type) else None


def enum_scalar(cls: type[Enum]) -> Scalar:
    """Return the scalar of an enumeration, carried by value. Raises ValueError if it has none."""
    if issubclass(cls, Flag):
        raise ValueError("a Flag has values that are no members; carry it as int")
    plain = _plain_type([member.value for member in cls])
    members = {plain.check(member.value): member for member in cls}

    def check(value: object) -> Enum:
        if not isinstance(value, cls):
            raise expected(f"a {cls.__name__}", value)
        return value

    def from_json(value: object) -> Enum:
        return value if isinstance(value, cls) else _pick(members, value, plain)

    return Scalar(
        label=f"{cls.__name__}: {_one_of(list(members))}",
        xsd=_enumeration(cls.__name__, list(members), plain),
        check=check,
        to_text=lambda member: plain.to_text(plain.check(member.value)),
        from_text=lambda text: members[plain.from_text(text)],
        to_json=lambda member: plain.check(member.value),
        from_json=from_json,
        sample=next(iter(cls)),
    )


def literal_scalar(values: Sequence[object]) -> Scalar:
    """Return the scalar of a Literal. Raises ValueError: its values are not all str or all int."""
    plain = _plain_type(values)
    members = {plain.check(value): value for value in values}

    def check(value: object) -> object:
        return _pick(members, value, plain)

    return Scalar(
        label=_one_of(list(members)),
        xsd=_enumeration("choice", list(members), plain),
        check=check,
        to_text=plain.to_text,
        from_text=lambda text: members[plain.from_text(text)],
        to_json=_same,
        from_json=check,
        sample=values[0],
    )


def _plain_type(values: Sequence[object]) -> Scalar:
    """Return TEXT or INT, whichever carries all of the values."""
    for plain, kind in ((TEXT, str), (INT, int)):
        if values and all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
            return plain
    raise ValueError("its values must be all str or all int, at least one")


def _pick(members: dict[Any, Any], value: object, plain: Scalar) -> Any:
    try:
        return members[plain.check(value)]
    except (ValueError, KeyError) as exc:
        raise expected(_one_of(list(members)), value) from exc


def _one_of(values: Sequence[object]) -> str:
    return "one of " + ", ".join(repr(value) for value in values)


def _enumeration(name: str, values: Sequence[Any], plain: Scalar) -> Restriction:
    texts = tuple(plain.to_text(value) for value in values)
    return Restriction(name, str(plain.xsd), enumeration=texts)
