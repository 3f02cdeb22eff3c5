"""Checks of single values of the organism file: names, numbers, rates, URLs.

Each check returns its value or raises ValueError with a message for the author of the file. A
string is returned as the same object, so that an EnvironmentText remains an EnvironmentText.
"""

from __future__ import annotations

import inspect
import math
import re
from datetime import date
from urllib.parse import urlsplit

from threadloom.config.dotted import dotted_fault
from threadloom.config.secrets import described

#: names with a fixed meaning in a call chain, which no listener may bear
_TAKEN_NAMES = frozenset({"console", "external", "system"})
_TAKEN_PREFIXES = ("celery.", "system.")
_RATE = re.compile(r"(?P<count>\d+(\.\d+)?)(/[smh])?", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")


def text(value: object) -> str:
    """Return `value` if it is text; the error says as which type YAML has read it."""
    if isinstance(value, str):
        return value
    match value:
        case None:
            raise ValueError("is empty")
        case bool():
            kind = f"the boolean {described(value)}"
        case int() | float():
            kind = f"the number {value}"
        case date():
            kind = f"the date {value.isoformat()}"
        case _:
            raise ValueError(f"must be text, not {described(value)}")
    raise ValueError(f"YAML reads this as {kind}, not as text; quote it")


def label(value: str) -> str:
    """Return a name, queue or prefix; it must hold no blanks and no invisible characters."""
    if not value:
        raise ValueError("must not be empty")
    if not value.isprintable() or " " in value:
        raise ValueError(f"{described(value)} holds a blank or an invisible character")
    return value


def listener_name(value: str) -> str:
    """Return a name that needs no escaping in XML and is not reserved."""
    label(value)
    if found := sorted(set(value) & set("<>&")):
        raise ValueError(f"{described(value)} holds {found[0]!r}, which XML would have to escape")
    if value in _TAKEN_NAMES:
        raise ValueError(f"{described(value)} is reserved")
    for prefix in _TAKEN_PREFIXES:
        if value.startswith(prefix):
            raise ValueError(
                f"{described(value)} is reserved: names must not begin with {prefix!r}"
            )
    return value


def organism_name(value: str) -> str:
    """Return a name that is valid for a listener and also as a part of every Redis key."""
    listener_name(value)
    if found := sorted(set(value) & set("{}:")):
        raise ValueError(f"{described(value)} holds {found[0]!r}, which parts Redis keys")
    return value


def key_prefix(value: str) -> str:
    """Return a prefix of Redis keys; braces would override the hash tag of each conversation."""
    label(value)
    if set(value) & set("{}"):
        raise ValueError("must not hold '{' or '}': they decide the Redis Cluster slot")
    return value


def filled(value: str) -> str:
    """Return a text that is not blank."""
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def dotted(value: str) -> str:
    """Return a well-formed dotted path; the loader finds out whether it can be imported."""
    if fault := dotted_fault(value):
        raise ValueError(fault)
    return value


def redis_url(value: str) -> str:
    """Return a URL that redis-py accepts. No error quotes it: any part may be the password."""
    if not value.isprintable() or " " in value:
        raise ValueError("must not hold blanks or invisible characters")
    try:
        parts = urlsplit(value)
        reachable = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a valid URL; escape special characters of a password") from None
    if parts.scheme not in _REDIS_SCHEMES or "://" not in value:
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if not reachable:
        raise ValueError("names no server, as in redis://localhost:6379/0")
    return value


def rate_limit(value: object) -> str:
    """Return a rate in Celery's form: `10/s`, `100/m`, `5/h`, or a number per second."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not (found := _RATE.fullmatch(value)):
        raise ValueError(f"must be like '10/s', '100/m', '5/h' or a number, not {described(value)}")
    if not float(found["count"]):
        raise ValueError("must be more than 0; leave it out for no limit")
    return value


def flag(value: object) -> bool:
    """Return a boolean; the texts `true` and `false` count, since the environment holds text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"must be true or false, not {described(value)}")


def number(value: object) -> object:
    """Return any value except a boolean (an int in Python) and a float that is not finite."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {described(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def given(value: object) -> object:
    """Return any value except None, as which YAML reads a key with nothing under it.

    A key whose absence means "no limit" must not mean that because its last entry was removed.
    """
    if value is None:
        raise ValueError("is empty; write a value, or leave the key out for its default")
    return value


def peers(value: object) -> object:
    """Return any value except None, which would grant every right by mistake."""
    if value is None:
        raise ValueError(
            "is empty; write [] for a listener that may call nobody, or leave the key out "
            "for one that may call everybody"
        )
    return value


def one_or_many(value: object) -> object:
    """Return a tuple of one for a single dotted path, and any other value as it is."""
    return (value,) if isinstance(value, str) else value


def handler_fault(handler: object) -> str | None:
    """Return the reason why this object cannot be a handler, or None."""
    if isinstance(handler, type):
        return "is a class; a handler is a function of (payload, metadata)"
    if not callable(handler):
        return f"is not callable but of type {type(handler).__name__}"
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        return "is a generator; return a list of responses instead of yielding them"
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return None  # written in C without a signature: a fault appears at the first call
    try:
        signature.bind(None, None)
    except TypeError:
        return f"must take two positional arguments (payload, metadata), but takes {signature}"
    return None
