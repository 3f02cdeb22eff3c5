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

from celery import Celery, Signature
from celery.app.task import Context

from threadloom.routing.records import Join, Publication

#: argument that names the conversation in a message of ours
CONVERSATION = "conversation"
#: argument of a message that carries the injector's own canvas
INJECTED = "injected"
#: argument of a message that carries several injected conversations: their ids
TOGETHER = "conversations"


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
    """The options of `canvas_options`, as `celery.app.amqp` names them in a message."""
    options: dict[str, Any] = json.loads(canvas) if canvas else {}
    for ours, celerys in (("link", "callbacks"), ("link_error", "errbacks")):
        if ours in options:
            options[celerys] = options.pop(ours)
    return options


def take_over(request: Context) -> None:
    """Keep Celery from continuing the canvas of this task; the registry does."""
    request.chain = request.chord = request.callbacks = request.errbacks = None


def join_options(app: Celery, publication: Publication, join: Join | None) -> dict[str, Any]:
    """What makes a branch's first message part of its join's canvas; nothing for any other.

    A chained branch carries those behind it as a chain, the next one last, as Celery has it. Any
    other branch is a member of a group that heads a chord, with the options that `chord.freeze()`
    gives its header. There is no chord object, which would number its members itself: a window
    publishes a header in parts, and a recovery any one of it.
    """
    if publication.branch is None or join is None:
        return {}
    index = publication.branch.index
    if not join.is_chained:
        chord = _body(app, join) if join.body else None
        return {"group_id": join.id, "group_index": index, "chord": chord}
    steps = zip(join.targets[index + 1 :], join.deliveries[index + 1 :], strict=True)
    rest = [_remainder(app, name, delivery) for name, delivery in steps]
    return {"chain": [*rest, _body(app, join)][::-1]}


def _remainder(app: Celery, name: str, delivery: str) -> Signature[Any]:
    return app.signature(name, immutable=True, task_id=delivery, ignore_result=True)


def _body(app: Celery, join: Join) -> Signature[Any]:
    return _remainder(app, join.kind, join.body or join.id)
