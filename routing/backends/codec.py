"""Rows as JSON: how records stand in a store that other processes, and Lua, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from threadloom.routing.records import (
    Branch,
    ConversationStatus,
    Delivery,
    Due,
    Ending,
    Frame,
    Join,
    Thread,
    Wait,
)

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()


def dump(value: object) -> str:
    """Compact JSON."""
    return _ENCODER.encode(value).decode()


_loaded = _DECODER.decode


def due_member(kind: str, conversation: str, thing: str) -> str:
    """The name under which a thing falls due; ids may hold any character, so it says how long."""
    return f"{kind}|{len(conversation.encode())}|{conversation}|{thing}"


def due_parts(member: bytes) -> tuple[str, str]:
    """The conversation and the thing that a `due_member` names."""
    _, size_bytes, rest = member.split(b"|", 2)
    size = int(size_bytes)
    return rest[:size].decode(), rest[size + 1 :].decode()


def due_from(member: bytes) -> Due:
    """A `due_member` with its conversation."""
    return Due(due_parts(member)[0], member.decode())


class _DeliveryRow(
    Struct,
    omit_defaults=True,
    rename={"from_id": "from", "payload_name": "name", "payload_path": "path"},
):
    """A delivery but its envelope. What is as it is with most is not said: scripts read it too."""

    id: str
    thread: str
    from_id: str
    to: str
    payload_name: str
    payload_path: str = ""
    scope: tuple[Branch, ...] = ()
    parent: str | None = None
    depth: int = 1
    held: bool = False
    opens_branch: bool = False
    answer_within_ms: int = 0
    local_s: float = 0.0


class _ThreadRow(Struct, omit_defaults=True):
    """A thread but its id."""

    chain: tuple[str, ...]
    parent: str | None = None
    branch: Branch | None = None
    repairs: str = ""


_read_delivery = msgspec.json.Decoder(_DeliveryRow).decode
_read_thread = msgspec.json.Decoder(_ThreadRow).decode


def delivery_row(delivery: Delivery) -> str:
    """Everything of a delivery but its envelope."""
    row = _DeliveryRow(
        delivery.id, delivery.thread, delivery.from_id, delivery.to, delivery.payload_name,
        delivery.payload_path, delivery.scope, delivery.parent, delivery.depth, delivery.held,
        delivery.opens_branch, delivery.answer_within_ms, delivery.local_s,
    )  # fmt: skip
    return dump(row)


def delivery_from(row: bytes | str, envelope: bytes = b"") -> Delivery:
    """The delivery of a row."""
    r = _read_delivery(row)
    return Delivery(
        r.id, r.thread, r.from_id, r.to, r.payload_name, r.payload_path, envelope, r.scope,
        r.parent, r.depth, r.held, r.opens_branch, r.answer_within_ms, r.local_s,
    )  # fmt: skip


def thread_row(thread: Thread) -> str:
    """A thread but its id."""
    return dump(_ThreadRow(thread.chain, thread.parent, thread.branch, thread.repairs))


def thread_from(thread_id: str, row: bytes | str) -> Thread:
    """The thread of a row."""
    r = _read_thread(row)
    return Thread(thread_id, r.chain, r.parent, r.branch, r.repairs)


def join_row(join: Join) -> str:
    """A join; its thresholds are read by Lua."""
    return dump(
        {
            "id": join.id,
            "kind": join.kind,
            "thread": join.thread,
            "total": join.total,
            "need_ok": join.need_ok,
            "need_failed": join.need_failed,
            "body": join.body or "",
            "deliveries": join.deliveries,
            "targets": join.targets,
            "window": join.window,
            "released": join.released,
            "deadline_ms": join.deadline_ms,
            "item_timeout_ms": join.item_timeout_ms,
            "label": join.label,
            "memo": join.memo,
        }
    )


def join_from(row: bytes | str) -> Join:
    """The join of a row."""
    r = _loaded(row)
    return Join(
        id=r["id"],
        kind=r["kind"],
        thread=r["thread"],
        total=r["total"],
        need_ok=r["need_ok"],
        need_failed=r["need_failed"],
        body=r["body"] or None,
        deliveries=tuple(r["deliveries"]),
        targets=tuple(r["targets"]),
        window=r["window"],
        released=r["released"],
        deadline_ms=r["deadline_ms"],
        item_timeout_ms=r["item_timeout_ms"],
        label=r["label"],
        memo=r["memo"],
    )


def wait_row(wait: Wait) -> str:
    """A wait, as the log shows it."""
    return dump(
        {
            "id": wait.id,
            "thread": wait.thread,
            "to": wait.listener,
            "prompt": wait.prompt,
            "scope": wait.scope,
        }
    )


def wait_from(row: bytes | str) -> Wait:
    """The wait of a row."""
    r = _loaded(row)
    scope = tuple(Branch(*b) for b in r["scope"])
    return Wait(r["id"], r["thread"], r["to"], r["prompt"], scope)


def ending_from(status: bytes | str, value: bytes | str) -> Ending:
    """An ending as a conversation row holds it."""
    text = status.decode() if isinstance(status, bytes) else status
    decoded: Mapping[str, Any] | None = _loaded(value)
    return Ending(ConversationStatus(text), decoded)


def frame_from(conversation: str, reply: list[Any], delivery: Delivery | None = None) -> Frame:
    """The frame of a `begun` reply; `delivery`: known already, and not in it."""
    _, attempt, row, envelope, thread, children, join, count, abandoned, tries = reply
    delivery = delivery or delivery_from(row, envelope)
    known: dict[str, str] = _loaded(children)
    return Frame(
        conversation=conversation,
        delivery=delivery,
        thread=thread_from(delivery.thread, thread),
        children={(delivery.thread, name): child for name, child in known.items()},
        join=join_from(join) if join else None,
        deliveries=count,
        attempt=attempt,
        tries=tries,
        abandoned=abandoned.decode() if abandoned else "",
    )
