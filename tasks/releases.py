"""How whoever injected a conversation is told of its end: through Celery's result store."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task
from celery.app.task import Context

from threadloom.config import RegistryUnavailableError
from threadloom.routing import ConversationError
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.runtime import Point, Runtime

logger = logging.getLogger(__name__)


def value_of(ending: Ending) -> Any:
    """What an injector's `AsyncResult.get()` gives. Raises ConversationError for a fault."""
    if ending.status is ConversationStatus.COMPLETED:
        return ending.value
    value = ending.value or {}
    raise ConversationError(value["code"], value["message"], value["retry_allowed"]) from None


def hand_over(task: Task[Any, Any], conversation: str, ending: Ending, runtime: Runtime) -> None:
    """Store a result as Celery does for the task of a message, where there is no such message.

    With a result store or a registry that does not answer, the sweep has it done again.
    """
    request = Context(
        id=conversation, root_id=conversation, task=task.name, hostname=task.request.hostname
    )
    try:
        try:
            task.backend.mark_as_done(conversation, value_of(ending), request=request)
        except ConversationError as exc:
            task.backend.mark_as_failure(conversation, exc, request=request)
    except Exception as exc:  # whatever a result backend raises that is away
        logger.warning("result.not_stored conversation=%s reason=%r", conversation, exc)
        return
    runtime.reached(Point.RETURNED, None)
    try:
        runtime.backend.released(conversation)
    except RegistryUnavailableError as exc:
        logger.warning("release.not_noted conversation=%s reason=%s", conversation, exc)
