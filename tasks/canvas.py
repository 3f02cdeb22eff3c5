"""Sequences and buffers as Celery sees them, and the canvas an injector waits in.

Ours: a sequence's messages are published as a `celery.chain`, a buffer's as the header of a
`celery.chord`, so that Flower and Celery's tools show what they are. What goes on and when is
the registry's decision, not that of Celery's chain link or chord counter: those act between
two effects that a crash can separate. `take_over` therefore clears them in the running task.

Theirs: a listener may stand in somebody else's canvas. While its conversation is not over, the
task's remainder (chain, chord, links) is parked in the registry as `canvas_options`, and a
message under the same id and with exactly these options resumes it once there is a value.
"""

from __future__ import annotations

import json
from typing import Any

import celery
from celery import Celery, Signature
from celery.app.task import Context

from routing.records import Join, JoinKind, Publication

#: argument that names the conversation in a message of ours
CONVERSATION = "conversation"
#: argument of a message that carries the injector's own canvas
INJECTED = "injected"


def canvas_options(request: Context) -> str:
    """What has to be said again to resume this task's canvas, as JSON for `resume_options`."""
    options = {
        "chain": request.chain,
        "chord": request.chord,
        "group_id": request.group,
        "group_index": request.group_index,
        "link": request.callbacks,
        "link_error": request.errbacks,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "reply_to": request.reply_to,
        "ignore_result": request.ignore_result,
        "priority": (request.delivery_info or {}).get("priority"),
        "headers": request.headers,
        "replaced_task_nesting": request.replaced_task_nesting,
    }
    kept = {name: value for name, value in options.items() if value not in (None, [], {})}
    return json.dumps(kept, default=str)


def resume_options(canvas: str) -> dict[str, Any]:
    """The options of `canvas_options`, for `send_task`."""
    options: dict[str, Any] = json.loads(canvas) if canvas else {}
    return options


def take_over(request: Context) -> None:
    """Keep Celery from continuing the canvas of this task; the registry does."""
    request.chain = request.chord = request.callbacks = request.errbacks = None


def message_signature(
    app: Celery, publication: Publication, *, summary: str, ignore_result: bool, **options: Any
) -> Signature[Any]:
    """The message of one delivery: its id and its conversation's, and nothing of its content."""
    return app.signature(
        publication.to,
        kwargs={CONVERSATION: publication.conversation},
        immutable=True,
        task_id=publication.id,
        argsrepr=summary,
        kwargsrepr="{}",
        ignore_result=ignore_result,
        **options,
    )


def sequence_chain(app: Celery, join: Join, first: Signature[Any], index: int) -> Signature[Any]:
    """The rest of a sequence from step `index`, as a chain that ends in the sequence's body."""
    rest = [
        _remainder(app, name, delivery)
        for name, delivery in zip(
            join.targets[index + 1 :], join.deliveries[index + 1 :], strict=True
        )
    ]
    return celery.chain(first, *rest, _body(app, join))


def buffer_item(app: Celery, join: Join, index: int, item: Signature[Any]) -> Signature[Any]:
    """One item of a buffer as what it is to Celery: a member of a group that heads a chord.

    The options are those that `chord.freeze()` gives its header. There is no chord object,
    which would number its members itself: a window publishes a header in parts, and a recovery
    any one of it.
    """
    item.options.update(
        group_id=join.id, group_index=index, chord=_body(app, join) if join.body else None
    )
    return item


def _remainder(app: Celery, name: str, delivery: str) -> Signature[Any]:
    return app.signature(name, immutable=True, task_id=delivery, ignore_result=True)


def _body(app: Celery, join: Join) -> Signature[Any]:
    return _remainder(app, f"system.{join.kind}", join.body or join.id)


def opens_canvas(publication: Publication, join: Join | None, kind: JoinKind) -> bool:
    """Whether a message is a branch of a join of this kind."""
    return publication.branch is not None and join is not None and join.kind is kind
