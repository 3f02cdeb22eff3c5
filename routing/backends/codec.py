"""Rows as JSON: how records stand in a store that other processes, and Lua, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import force_setattr, replace

from threadloom.routing.gate import Refused
from threadloom.routing.records import (
    Delivery,
    Due,
    Ending,
    Join,
    Thread,
    Wait,
)
from threadloom.routing.states import ConversationStatus

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()


def dump(value: object) -> str:
    """Compact JSON."""
    return _ENCODER.encode(value).decode()


_loaded = _DECODER.decode


def due_member(kind: str, conversation_id: str, thing: str) -> str:
    """The name under which a thing falls due; ids may hold any character, so it says how long."""
    return f"{kind}|{len(conversation_id.encode())}|{conversation_id}|{thing}"


def due_parts(member: bytes) -> tuple[str, str]:
    """The conversation and the thing that a `due_member` names."""
    _, size_bytes, rest = member.split(b"|", 2)
    size = int(size_bytes)
    return rest[:size].decode(), rest[size + 1 :].decode()


def due_from(member: bytes) -> Due:
    """A `due_member` with its conversation."""
    return Due(due_parts(member)[0], member.decode())


_read_delivery = msgspec.json.Decoder(Delivery).decode
_read_thread = msgspec.json.Decoder(Thread).decode
read_join = msgspec.json.Decoder(Join).decode
read_refused = msgspec.json.Decoder(Refused).decode
read_wait = msgspec.json.Decoder(Wait).decode


def thread_row(thread: Thread) -> str:
    """A thread as its row, which leaves its id out: that is the name of the row."""
    return dump(replace(thread, id=""))


def thread_from(thread_id: str, row: bytes | str) -> Thread:
    """The thread of a row and its name."""
    thread = _read_thread(row)
    force_setattr(thread, "id", thread_id)  # nobody else has seen it yet
    return thread


def delivery_row(delivery: Delivery) -> str:
    """A delivery as its row, which leaves the envelope out."""
    return dump(replace(delivery, envelope=b""))


def delivery_from(row: bytes | str, envelope: bytes = b"") -> Delivery:
    """The delivery of a row and its envelope."""
    delivery = _read_delivery(row)
    if envelope:
        force_setattr(delivery, "envelope", envelope)  # nobody else has seen it yet
    return delivery


def ending_from(status: bytes | str, value: bytes | str) -> Ending:
    """An ending as a conversation row holds it."""
    text = status.decode() if isinstance(status, bytes) else status
    decoded: Mapping[str, Any] | None = _loaded(value)
    return Ending(ConversationStatus(text), decoded)
