"""The Celery canvas options of our own messages, and the parked canvas of an injector.

Our messages: a sequence's messages are published as a `celery.chain`, a buffer's as the header of
a `celery.chord`, so that Flower and Celery's tools show what they are. The registry decides what
continues and when. Celery's chain link and chord counter must not: they act between two effects
that a crash can separate. `take_over` therefore clears them in the running task.

An injector's canvas: a listener may be a step of a canvas that another application built. While
its conversation runs, the task's remainder (chain, chord, links) is parked in the registry as
`canvas_options`. Once there is a value, a message with the same id and these options resumes it.
"""

from __future__ import annotations

import json
from typing import Any

from celery import Celery, Signature
from celery.app.task import Context
from kombu.utils.json import JSONEncoder, object_hook

from threadloom.routing.gate import custom_headers
from threadloom.routing.records import Join, Publication

#: keyword argument of our messages: the conversation's id
CONVERSATION = "conversation"
#: keyword argument of a message that carries the injector's own canvas
INJECTED = "injected"
#: keyword argument of a message for several injected conversations: their ids
TOGETHER = "conversations"
#: what Celery calls parts of a running task; as headers of a message they would overwrite those
RESERVED = frozenset(vars(Context)) | {"released"}


def canvas_options(request: Context) -> str:
    """Return this task's canvas as JSON, from which `resume_options` can resume it."""
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
        "replaced_task_nesting": request.replaced_task_nesting,
    }
    options["headers"] = custom_headers(request.headers, RESERVED)
    kept = {name: value for name, value in options.items() if value not in (None, [], {})}
    return json.dumps(kept, cls=_Encoder)


class _Encoder(JSONEncoder):
    """Kombu's JSON, which keeps dates, Decimals, UUIDs and bytes; what it does not know as text."""

    def default(self, o: Any) -> Any:
        try:
            return super().default(o)
        except TypeError:
            return str(o)


def _decoded(value: dict[str, Any]) -> Any:
    """Return what kombu's JSON makes of a mapping; one that only looks encoded stays as it is."""
    try:
        return object_hook(value)
    except Exception:  # a decoder raises anything for a value that no encoder has written
        return value


def resume_options(canvas: str) -> dict[str, Any]:
    """Return the options that `canvas_options` has saved, under `celery.app.amqp`'s names."""
    options: dict[str, Any] = json.loads(canvas, object_hook=_decoded) if canvas else {}
    if "headers" in options:  # an earlier version parked whatever the injector had sent
        options["headers"] = custom_headers(options["headers"], RESERVED)
    for ours, celerys in (("link", "callbacks"), ("link_error", "errbacks")):
        if ours in options:
            options[celerys] = options.pop(ours)
    return options


def take_over(request: Context) -> None:
    """Keep Celery from continuing the canvas of this task; the registry continues it."""
    request.chain = request.chord = request.callbacks = request.errbacks = None


def join_options(app: Celery, publication: Publication, join: Join | None) -> dict[str, Any]:
    """Return the options that make a branch's first message part of its join's canvas, else {}.

    A chained branch carries the later branches as a chain in Celery's order, the next one last.
    Any other branch is a member of a group that is a chord's header, with the options that
    `chord.freeze()` gives its header. No chord object is used, because it would number its
    members itself, while lanes publish a header in parts and recovery any single member.
    """
    if publication.branch is None or join is None:
        return {}
    index = publication.branch.index
    if not join.is_chained:
        chord = _body(app, join) if join.body_id else None
        return {"group_id": join.id, "group_index": index, "chord": chord}
    steps = zip(join.targets[index + 1 :], join.delivery_ids[index + 1 :], strict=True)
    rest = [_remainder(app, name, delivery) for name, delivery in steps]
    return {"chain": [*rest, _body(app, join)][::-1]}


def _remainder(app: Celery, name: str, delivery_id: str) -> Signature[Any]:
    return app.signature(name, immutable=True, task_id=delivery_id, ignore_result=True)


def _body(app: Celery, join: Join) -> Signature[Any]:
    return _remainder(app, join.kind, join.body_id or join.id)
