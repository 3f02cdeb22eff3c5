"""What single values of the organism file must look like: names, numbers, rates, URLs.

Each check takes a value and returns it, or raises ValueError with a text for whoever wrote the
file. Texts are passed on as they are, so that an EnvironmentText stays one.
"""

from __future__ import annotations

import inspect
import math
import re
from datetime import date
from urllib.parse import urlsplit

from threadloom.config.dotted import dotted_fault
from threadloom.config.secrets import described

#: names that mean somebody else in a call chain
_TAKEN_NAMES = frozenset({"console", "external", "system"})
_TAKEN_PREFIXES = ("celery.", "system.")
_RATE = re.compile(r"(?P<count>\d+(\.\d+)?)(/[smh])?", re.ASCII)
_REDIS_SCHEMES = ("redis", "rediss", "unix")


def text(value: object) -> str:
    """Return `value` if it is text; otherwise say how YAML came to read something else."""
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
    """A text without blanks and invisible characters: names, queues, prefixes."""
    if not value:
        raise ValueError("must not be empty")
    if not value.isprintable() or " " in value:
        raise ValueError(f"{described(value)} holds a blank or an invisible character")
    return value


def listener_name(value: str) -> str:
    """A name that can stand in XML and in a call chain, and that nobody else has."""
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
    """A listener's kind of name, which moreover is one part of every Redis key."""
    listener_name(value)
    if found := sorted(set(value) & set("{}:")):
        raise ValueError(f"{described(value)} holds {found[0]!r}, which parts Redis keys")
    return value


def key_prefix(value: str) -> str:
    """A prefix of Redis keys; braces would override the hash tag of each conversation."""
    label(value)
    if set(value) & set("{}"):
        raise ValueError("must not hold '{' or '}': they decide the Redis Cluster slot")
    return value


def filled(value: str) -> str:
    """A text that says something."""
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def dotted(value: str) -> str:
    """A dotted path; whether it can be imported is another question."""
    if fault := dotted_fault(value):
        raise ValueError(fault)
    return value


def redis_url(value: str) -> str:
    """A URL that redis-py takes. No error shows the URL's parts: any may be the password."""
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
    """Celery's form of a rate: `10/s`, `100/m`, `5/h`, or a number per second."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not (found := _RATE.fullmatch(value)):
        raise ValueError(f"must be like '10/s', '100/m', '5/h' or a number, not {described(value)}")
    if not float(found["count"]):
        raise ValueError("must be more than 0; leave it out for no limit")
    return value


def flag(value: object) -> bool:
    """True or false; also as text, since that is what the environment gives."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"must be true or false, not {described(value)}")


def number(value: object) -> object:
    """Anything but a boolean, which Python counts among the numbers."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {described(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def one_or_many(value: object) -> object:
    """One dotted path stands for a list of it."""
    return (value,) if isinstance(value, str) else value


def handler_fault(handler: object) -> str | None:
    """Return why this object cannot be a handler, or None."""
    if isinstance(handler, type):
        return "is a class; a handler is a function of (payload, metadata)"
    if not callable(handler):
        return f"is not callable but of type {type(handler).__name__}"
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        return "is a generator; return a list of responses instead of yielding them"
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return None  # written in C without a signature: the first call will tell
    try:
        signature.bind(None, None)
    except TypeError:
        return f"must take two positional arguments (payload, metadata), but takes {signature}"
    return None
