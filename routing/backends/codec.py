"""Rows as JSON: how records stand in a store that other processes, and Lua, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routing.records import (
    Branch,
    ConversationStatus,
    Delivery,
    Due,
    Ending,
    Frame,
    Join,
    JoinKind,
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


def delivery_row(delivery: Delivery) -> str:
    """Everything of a delivery but its envelope."""
    return dump(
        {
            "id": delivery.id,
            "thread": delivery.thread,
            "from": delivery.from_id,
            "to": delivery.to,
            "name": delivery.payload_name,
            "path": delivery.payload_path,
            "scope": delivery.scope,
            "parent": delivery.parent,
            "depth": delivery.depth,
            "held": delivery.held,
            "opens_branch": delivery.opens_branch,
            "answer_within_ms": delivery.answer_within_ms,
            "local_s": delivery.local_s,
        }
    )


def delivery_from(row: bytes | str, envelope: bytes = b"") -> Delivery:
    """The delivery of a row."""
    r = _loaded(row)
    return Delivery(
        id=r["id"],
        thread=r["thread"],
        from_id=r["from"],
        to=r["to"],
        payload_name=r["name"],
        payload_path=r["path"],
        envelope=envelope,
        scope=tuple(Branch(*b) for b in r["scope"]),
        parent=r["parent"],
        depth=r["depth"],
        held=r["held"],
        opens_branch=r["opens_branch"],
        answer_within_ms=r["answer_within_ms"],
        local_s=r["local_s"],
    )


def thread_row(thread: Thread) -> str:
    """A thread but its id."""
    return dump(
        {
            "chain": thread.chain,
            "parent": thread.parent,
            "branch": thread.branch,
            "repairs": thread.repairs,
        }
    )


def thread_from(thread_id: str, row: bytes | str) -> Thread:
    """The thread of a row."""
    r = _loaded(row)
    branch = Branch(*r["branch"]) if r["branch"] else None
    return Thread(thread_id, tuple(r["chain"]), r["parent"], branch, r.get("repairs", ""))


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
        kind=JoinKind(r["kind"]),
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
