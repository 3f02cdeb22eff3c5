"""The release of an ending: a conversation's value or error as its injector's Celery result."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task, states
from celery.app.task import Context

from threadloom.config import RegistryUnavailableError
from threadloom.routing import ConversationError
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.patience import patiently
from threadloom.tasks.runtime import Point, Runtime

logger = logging.getLogger(__name__)


def value_of(ending: Ending) -> Any:
    """Return the value for the injector's `AsyncResult.get()`; ConversationError for a fault."""
    if ending.status is ConversationStatus.COMPLETED:
        return ending.value
    value = ending.value or {}
    raise ConversationError(value["code"], value["message"], value["retry_allowed"]) from None


def was_revoked(ending: Ending) -> bool:
    """Whether somebody ended the conversation, by `kill` or Celery's `revoke`; not a limit."""
    is_killed = ending.status is ConversationStatus.KILLED
    return is_killed and (ending.value or {}).get("code") == "killed"


def hand_over(
    task: Task[Any, Any],
    conversation_id: str,
    ending: Ending,
    runtime: Runtime,
    *,
    request: Context | None = None,
) -> None:
    """Store a conversation's result and continue its injector's canvas, as Celery does for a task.

    `request` is the injector's; None for a conversation that has no message of its own. A killed
    or revoked conversation is REVOKED for Celery. If the result store does not answer, the sweep
    repeats the release.
    """
    request = request or Context(
        id=conversation_id, root_id=conversation_id, task=task.name, hostname=task.request.hostname
    )
    try:
        try:
            task.backend.mark_as_done(conversation_id, value_of(ending), request=request)
        except ConversationError as exc:
            task.backend.mark_as_failure(
                conversation_id, exc, request=request,
                store_result=not request.ignore_result,
                state=states.REVOKED if was_revoked(ending) else states.FAILURE,
            )  # fmt: skip
    except Exception as exc:  # any error of a result backend that does not answer
        logger.warning("result.not_stored conversation=%s reason=%r", conversation_id, exc)
        return
    runtime.reached(Point.RETURNED, None)
    note_release(conversation_id, runtime)


def note_release(conversation_id: str, runtime: Runtime) -> None:
    """Note in the registry that the injector was told, so that nobody tells it again.

    Waits for a registry that does not answer. If this process ends before, the sweep repeats the
    release.
    """
    try:
        patiently(lambda: runtime.backend.released(conversation_id), runtime)
    except RegistryUnavailableError as exc:
        logger.warning("release.not_noted conversation=%s reason=%s", conversation_id, exc)
