"""What a message has to be before anything else touches it: rules over plain data.

Whoever can write to a queue chooses every part of a message. Celery's main process reads most of
them without looking: a header that is a list where a text is expected raises there, and ends the
worker. So each part has a rule here, and a message that breaks one is put aside with the cause.
Parts that no rule names are the sender's own headers; they may hold anything of bounded depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

#: bytes of an id: what AMQP's short strings, and so a correlation id, can hold
MAX_ID_BYTES = 255
#: levels of a body and of its headers. Celery pickles both for its pool, at about two Python calls
#: per level, and Python allows a thousand.
MAX_DEPTH = 200
#: characters of a header that is a text, e.g. `argsrepr`
MAX_TEXT = 65_536
#: s of a time limit: some clocks and timers hold no more
MAX_LIMIT_S = 1e9
#: characters of a cause, and bytes of a message that are kept with it
MAX_CAUSE, MAX_KEPT_BYTES = 2_000, 2_048


class Refused(Struct, frozen=True, gc=False):
    """A message that was put aside; it is no delivery, and nothing of it was run."""

    id: str
    #: when, ms since 1970; the registry's clock
    at_ms: int
    queue: str
    #: as the message says it, where that is a text
    message_id: str
    task: str
    cause: str
    #: how the message began, for people
    excerpt: str


def id_fault(value: object) -> str:
    """Why a value is no id; empty if it is one."""
    if not isinstance(value, str):
        return f"is {_kind(value)}, not a text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "holds half a surrogate pair, which nothing can encode"
    if not 1 <= size <= MAX_ID_BYTES:
        return f"has {size} bytes, not 1 to {MAX_ID_BYTES}"
    if not value.isprintable():
        return "holds a character that cannot be printed"
    return ""


def too_deep(value: object, most: int = MAX_DEPTH) -> bool:
    """Whether lists and mappings are nested more than `most` levels deep; cycles are."""
    level = _containers([value])
    for _ in range(most):
        if not level:
            return False
        level = _containers(
            child
            for each in level
            for child in (each.values() if isinstance(each, Mapping) else each)
        )
    return bool(level)


def header_fault(headers: Mapping[Any, Any]) -> str:
    """Why the headers are none that a worker's main process can handle; empty if they are."""
    if not all(isinstance(name, str) for name in headers):
        return "a header's name is not a text"
    for name, (check, expected) in _VITAL.items():
        if name in headers and not check(headers[name]):
            return _fault(f"header {name!r}", headers[name], expected)
    return ""


def task_fault(parts: Mapping[str, Any], reserved: frozenset[str]) -> str:
    """Why these parts are no message for a listener; empty if they are.

    `parts` are the headers, with the canvas that stands in the body. `reserved` are the names that
    Celery gives to parts of a running task that are no headers, so nobody may send them.
    """
    if parts.get("id") is None:
        return "there is no id"
    fault = header_fault(parts) or ("the headers are nested too deep" if too_deep(parts) else "")
    if fault:
        return fault
    for name, value in parts.items():
        if name in _TASK:
            check, expected = _TASK[name]
            if not check(value):
                return _fault(f"header {name!r}", value, expected)
        elif name in reserved:
            return f"a header named {name!r}, which is Celery's own name"
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            return f"header {name!r} has {len(value)} characters, more than {MAX_TEXT}"
    return ""


def property_fault(properties: Mapping[str, Any]) -> str:
    """Why AMQP's properties of a message cannot be handled; empty if they can."""
    for name, (check, expected) in _PROPERTIES.items():
        if name in properties and not check(properties[name]):
            return _fault(f"property {name!r}", properties[name], expected)
    return ""


def body_fault(body: object) -> str:
    """Why a body is not a task's; empty if it is one."""
    return shape_fault(body) or ("the body is nested too deep" if too_deep(body) else "")


def shape_fault(body: object) -> str:
    """Why a body has not the parts of a task's; empty if it has. They are not looked into."""
    match body:
        case {
            "args": list() | tuple(),
            "kwargs": Mapping(),
        }:  # protocol 1, which Celery still reads
            pass
        case [list() | tuple(), Mapping(), Mapping() | None as embed]:
            strangers = sorted(set(map(str, embed or {})) - _CANVAS.keys())
            if strangers:
                return f"the body's third part holds {strangers[0][:80]!r}, which is no canvas"
        case _:
            return "the body is not [args, kwargs, embed]"
    return ""


def custom_headers(headers: object, reserved: frozenset[str]) -> dict[str, Any]:
    """The sender's own headers that may be sent again with another message of ours."""
    if not isinstance(headers, Mapping):
        return {}
    return {
        name: value
        for name, value in headers.items()
        if isinstance(name, str)
        and name not in reserved
        and name not in _TASK
        and not name.startswith("threadloom_")
        and not too_deep(value)
    }


def canvas_fault(name: str, value: object) -> str:
    """Why a part of a canvas cannot be continued; empty if it can."""
    check, expected = _CANVAS[name]
    return "" if check(value) else _fault(f"{name!r}", value, expected)


# --- rules -----------------------------------------------------------------------------------

Check = Callable[[Any], bool]


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _fault(what: str, value: object, expected: str) -> str:
    return f"{what} is {_kind(value)} that is not {expected}"


def _containers(values: Any) -> list[Any]:
    """The lists and mappings among some values, each object once."""
    return list({id(v): v for v in values if isinstance(v, Mapping | list | tuple)}.values())


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _id(value: object) -> bool:
    return not id_fault(value)


def _short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_ID_BYTES


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _limit(value: object) -> bool:
    return value is None or (_number(value) and 0 <= value <= MAX_LIMIT_S)  # type: ignore[operator]


def _limits(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_limit, value))


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_short_text, value))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _signature(value: object) -> bool:
    """Whether it is a Celery signature that can be sent."""
    if not _mapping(value):
        return False
    assert isinstance(value, Mapping)
    options = value.get("options")
    return (
        _id(value.get("task"))
        and isinstance(value.get("args", ()), list | tuple)
        and _mapping(value.get("kwargs", {}))
        and (options is None or _mapping(options))
        and all(
            check(options[name]) for name, check in _OPTIONS.items() if options and name in options
        )
    )


def _signatures(value: object) -> bool:
    if isinstance(value, Mapping):  # Celery takes one for a list of one
        return _signature(value)
    return isinstance(value, list | tuple) and all(map(_signature, value))


_ID = (_or_none(_id), f"a printable text of 1 to {MAX_ID_BYTES} bytes")
_SHORT = (_or_none(_short_text), f"a text of at most {MAX_ID_BYTES} characters")
_LONG = (_or_none(_text), f"a text of at most {MAX_TEXT} characters")
_WHOLE = (_or_none(_whole), "a whole number")
#: what a worker's main process stumbles over, whichever task it is for
_VITAL: dict[str, tuple[Check, str]] = {
    "id": (lambda value: isinstance(value, str), "a text"),
    "task": (lambda value: isinstance(value, str), "a text"),
    "timelimit": (_or_none(_limits), "a pair of numbers of seconds"),
    "stamped_headers": (_or_none(_texts), "a list of texts"),
    "stamps": (_or_none(_mapping), "a mapping"),
}
_CANVAS: dict[str, tuple[Check, str]] = {
    "callbacks": (_or_none(_signatures), "a list of signatures"),
    "errbacks": (_or_none(_signatures), "a list of signatures"),
    "chain": (_or_none(_signatures), "a list of signatures"),
    "chord": (_or_none(_signature), "a signature"),
}
#: what a listener's task reads beyond that
_TASK: dict[str, tuple[Check, str]] = {
    **_VITAL,
    **_CANVAS,
    "id": _ID,
    "task": _ID,
    "root_id": _ID,
    "parent_id": _ID,
    "shadow": _SHORT,
    "retries": _WHOLE,
    "lang": _SHORT,
    "group": _ID,
    "group_index": _WHOLE,
    "replaced_task_nesting": _WHOLE,
    "ignore_result": (_or_none(_flag), "true or false"),
    "argsrepr": _LONG,
    "kwargsrepr": _LONG,
    "origin": _SHORT,
    "eta": (lambda _value: True, ""),  # times are for Celery to read
    "expires": (lambda _value: True, ""),
    "headers": (_or_none(_mapping), "a mapping"),
    "compression": _SHORT,
}
_PROPERTIES: dict[str, tuple[Check, str]] = {
    "correlation_id": (_or_none(_text), _LONG[1]),
    "reply_to": _SHORT,
    "priority": (_or_none(lambda v: _whole(v) and 0 <= v <= 255), "a number from 0 to 255"),
}
#: options of a signature without which it cannot be sent
_OPTIONS: dict[str, Check] = {
    "task_id": _ID[0],
    "group_id": _ID[0],
    "root_id": _ID[0],
    "parent_id": _ID[0],
    "routing_key": _SHORT[0],
    "reply_to": _SHORT[0],
    "serializer": _SHORT[0],
    "countdown": _or_none(_number),
    "headers": _or_none(_mapping),
    "priority": _or_none(_whole),
    "link": _or_none(_signatures),
    "link_error": _or_none(_signatures),
    "chord": _or_none(_signature),
    "stamped_headers": _or_none(_texts),
}


def excerpt_of(parts: Sequence[object]) -> str:
    """How a message began, for people: what of it can be written, cut."""
    texts = [
        part.decode(errors="backslashreplace") if isinstance(part, bytes) else _shown(part)
        for part in (p[:MAX_KEPT_BYTES] if isinstance(p, bytes | str) else p for p in parts)
    ]
    return " ".join(texts)[:MAX_KEPT_BYTES]


def _shown(part: object) -> str:
    if isinstance(part, Mapping):
        shown = (f"{_cut(name)}: {_cut(value)}" for name, value in list(part.items())[:40])
        return f"{{{', '.join(shown)}}}"
    return _cut(part)


def _cut(value: object) -> str:
    """A value in a few words; what is large or deep is not looked into."""
    if isinstance(value, str | bytes):
        text = repr(value[:200])
    elif isinstance(value, Mapping | list | tuple):
        if too_deep(value, 8) or len(value) > 40:
            return f"<{type(value).__name__} of {len(value)}>"
        text = repr(value)[:300]
    else:
        text = (
            type(value).__name__ if isinstance(value, int) and abs(value) > 2**64 else repr(value)
        )
    return text.encode(errors="backslashreplace").decode()[:300]
