"""What Celery's callers and canvases hand to a listener: fields, results, and lists of either.

A result is what a conversation's injector gets: `{"type", "payload", "thread"}`, with `huh` if its
XML was repaired. Whether a mapping is a result or the fields of a class is decided by its keys
alone: its values may have been written by somebody who must not decide that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from threadloom.routing.errors import InvalidPayloadError
from threadloom.routing.payloads.payload import PayloadType
from threadloom.routing.payloads.scalars import show
from threadloom.routing.payloads.wire import Codec, Listed, Nullable, Raw, Record

_RESULT = frozenset({"type", "payload", "thread", "huh"})


def is_result(values: Mapping[Any, Any]) -> bool:
    """Whether a mapping has the keys of a conversation's result, or those that name a class."""
    return {"type", "payload"} <= values.keys() <= _RESULT


def are_fields(values: Mapping[Any, Any], record: Record) -> bool:
    """Whether all keys of a mapping are fields of a class."""
    return values.keys() <= record.by_name.keys()


def fields_of_list(items: Sequence[Any], accepts: Mapping[str, PayloadType]) -> dict[str, Any]:
    """Return a list, as a chord's body gets, as the fields of the one class that takes it.

    That class has one field that is a list, and no other that it requires. Raises
    InvalidPayloadError if there is not exactly one such class, or for an item that is a result
    of another class.
    """
    fields = [found for kind in accepts.values() if (found := _list_field(kind.record))]
    if len(fields) != 1:
        how_many = "none" if not fields else "several"
        names = ", ".join(sorted(accepts)) or "nothing"
        reason = (
            "a list, as the results of a group, is for a class with one list field and no other "
            f"required field; of the accepted classes {how_many} are like that: {names}"
        )
        raise InvalidPayloadError("payload", [reason])
    [(name, codec)] = fields
    faults: list[str] = []
    values = [_item(each, codec, f"{name}[{i}]", faults) for i, each in enumerate(items)]
    if faults:
        raise InvalidPayloadError("payload", faults)
    return {name: values}


def _list_field(record: Record) -> tuple[str, Codec] | None:
    """Return the name and the items' codec of a class's only list field, if a list is enough."""
    lists = [f for f in record.fields if isinstance(_inner(f.codec), Listed)]
    if len(lists) != 1 or any(f.required for f in record.fields if f is not lists[0]):
        return None
    listed = _inner(lists[0].codec)
    assert isinstance(listed, Listed)
    return lists[0].name, _inner(listed.item)


def _item(item: Any, codec: Codec, path: str, faults: list[str]) -> Any:
    """Return a list's item; of a conversation's result, its payload."""
    if not isinstance(item, Mapping) or not is_result(item):
        return item
    kind, content = item["type"], item["payload"]
    if isinstance(codec, Record):
        if are_fields(item, codec):
            return item
        if kind == codec.cls.__name__:
            return content
        faults.append(f"{path}: expected a {codec.cls.__name__}, got a result of type {show(kind)}")
        return None
    if isinstance(codec, Raw):
        if isinstance(content, str):
            return content
        reason = f"a {show(kind)} is no XML text; its class may be the type of the list's items"
        faults.append(f"{path}: {reason}")
        return None
    return item


def _inner(codec: Codec) -> Codec:
    return codec.inner if isinstance(codec, Nullable) else codec
