"""A commit as its script takes it, and what the script answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis import replies
from threadloom.routing.records import (
    Begun,
    BranchResult,
    CommitResult,
    Committed,
    Delivery,
    Fenced,
    Frame,
    Join,
    Publication,
    Replan,
    Transition,
    Turn,
)
from threadloom.routing.states import Abandonment

#: the position in ARGV of the first delivery's row: behind conversation, grace and header
_FIRST_ROW = 4
#: what a commit says even if it is nothing
_ALWAYS = ("delivery", "attempt", "created", "bytes")


def commit_args(transition: Transition, turn: Turn | None) -> list[str | bytes]:
    """The arguments of `commit.lua` behind the conversation and the grace."""
    later = [(r, r.then_delivery) for r in transition.results if r.then_delivery is not None]
    created = [*transition.deliveries, *(delivery for _, delivery in later)]
    position = {
        id(result): _FIRST_ROW + 2 * (len(transition.deliveries) + n)
        for n, (result, _) in enumerate(later)
    }
    ending = transition.ending
    header: dict[str, Any] = {
        "delivery": transition.delivery_id,
        "attempt": transition.attempt,
        "max_deliveries": transition.max_deliveries,
        "bytes": transition.stored_bytes,
        "max_bytes": transition.max_bytes,
        "created": len(created),
        "threads": [(t.id, codec.thread_row(t)) for t in transition.threads],
        "children": transition.children,
        "joins": [_join(join) for join in transition.joins],
        "results": [_result(r, position.get(id(r), 0)) for r in transition.results],
        "waits": [(w.id, codec.dump(w)) for w in transition.waits],
        "refills": [refill._asdict() for refill in transition.refills],
        "ending": (ending.status, codec.dump(ending.value)) if ending else None,
        "silent": transition.silent_branch.decode(),
        "note": transition.note,
        "dead_letter": transition.dead_letter,
        "turn": turn,
    }
    said = {name: value for name, value in header.items() if value or name in _ALWAYS}
    args: list[str | bytes] = [codec.dump(said)]
    for delivery in created:
        args += (codec.delivery_row(delivery), delivery.envelope)
    return args


def _join(join: Join) -> dict[str, Any]:
    return {
        "id": join.id,
        "row": codec.dump(join),
        "label": f"{join.kind}:{join.label}" if join.label else "",
        "released": join.released or join.total,
    }


def _result(result: BranchResult, position: int) -> dict[str, Any]:
    thread = result.then_thread
    return {
        "join": result.branch.join_id,
        "index": result.branch.index,
        "success": result.success,
        "path": result.payload_path,
        "payload": result.payload.decode(),
        "next": position,
        "thread": (thread.id, codec.thread_row(thread)) if thread else None,
    }


def commit_result(transition: Transition, reply: list[Any]) -> CommitResult:
    """What a commit came to."""
    conversation = transition.conversation_id
    match replies.read(reply):
        case replies.CommittedReply(rows, ending, begun):
            release, resume = None, None
            if ending:
                ended = replies.read(ending)
                release = codec.ending_from(ended.status, ended.value)
                resume = resumption(conversation, ended)
            return Committed(
                publications(conversation, rows),
                release,
                resume,
                begun=_taken(transition, begun) if begun else None,
            )
        case replies.AdoptedReply(rows, begun):
            return Committed(
                publications(conversation, rows),
                adopted=True,
                begun=_taken(transition, begun) if begun else None,
            )
        case replies.ReplanReply(deliveries, children, over_limit, label_taken, too_large):
            clashes = json.loads(children or "[]")
            return Replan(
                deliveries,
                {(parent, name): child for parent, name, child in clashes},
                bool(over_limit),
                bool(label_taken),
                bool(too_large),
            )
    return Fenced()


def _taken(transition: Transition, reply: list[Any]) -> Begun:
    """What the turn goes on with; the reply leaves out what this commit has created itself."""
    begun: replies.BegunReply = replies.read(reply)
    if begun.row is not None:
        return Begun(frame_of(transition.conversation_id, begun))
    name = begun.delivery_id.decode()
    later = (result.then_delivery for result in transition.results)
    created = (*transition.deliveries, *(d for d in later if d is not None))
    delivery = next(delivery for delivery in created if delivery.id == name)
    return Begun(frame_of(transition.conversation_id, begun, delivery))


def frame_of(
    conversation_id: str, begun: replies.BegunReply, delivery: Delivery | None = None
) -> Frame:
    """The frame of a delivery whose lease was granted.

    `delivery` is what the caller created with the same operation: its row is not in the reply.
    """
    if begun.row is not None:
        delivery = codec.delivery_from(begun.row, begun.envelope or b"")
    assert delivery is not None
    known: dict[str, str] = json.loads(begun.children)
    return Frame(
        conversation_id=conversation_id,
        delivery=delivery,
        thread=codec.thread_from(delivery.thread_id, begun.thread),
        children={(delivery.thread_id, name): child for name, child in known.items()},
        join=codec.read_join(begun.join) if begun.join else None,
        deliveries=begun.deliveries,
        attempt=begun.attempt,
        tries=begun.tries,
        abandoned=Abandonment(begun.reason.decode()),
    )


def publications(conversation_id: str, rows: Iterable[bytes]) -> tuple[Publication, ...]:
    """The messages of these rows of deliveries."""
    return tuple(Publication.of(conversation_id, codec.delivery_from(row)) for row in rows)


def resumption(
    conversation_id: str, reply: replies.ResumeReply | replies.EndingReply
) -> Publication:
    """The message that tells an injector of the ending."""
    return Publication.of(conversation_id, codec.delivery_from(reply.entry), reply.canvas.decode())
