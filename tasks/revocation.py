"""Revocation and expiry: Celery's ways to end a task, as the endings of conversations.

Celery discards a revoked message in the worker that receives it and stores REVOKED. The registry
would not know: its sweep would publish the delivery again, and a worker that has not heard of the
revocation would run it. So a worker lets the message through to its pool with a mark, and there the
turn ends the conversation in the registry as `kill` does, and then tells its injector what the
registry holds. A revoked delivery of a conversation, such as a buffer's item, ends as an error that
its caller gets.

A conversation that has no message at hand, because it is parked, waits for input or runs in
another worker, is ended when the `revoke` command arrives, before Celery stores anything. Each
sweep looks at the worker's list of revoked ids once more: the registry may have been away, or
another worker may have passed the list on.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.consumer.control import Control
from kombu.utils.functional import maybe_list

from threadloom.config import RegistryUnavailableError
from threadloom.routing import UnknownConversationError
from threadloom.tasks.killing import kill

if TYPE_CHECKING:
    from celery.worker.request import Request

logger = logging.getLogger(__name__)

#: key of a request that is to be ended instead of performed: a `Cause`
ENDED = "threadloom_ended"
#: most conversations that one sweep ends
_LIMIT = 200


class Cause(StrEnum):
    """Why a message is not performed."""

    REVOKED = "revoked"
    EXPIRED = "expired"


def is_expired(request: Request) -> bool:
    """Whether a message came too late to be begun, by its sender's `expires`."""
    expires: datetime | None = request.expires
    return expires is not None and datetime.now(UTC if expires.tzinfo else None) > expires


class Revocations:
    """Ends the conversations that a worker was told to revoke, each once."""

    def __init__(self) -> None:
        self._done: set[str] = set()

    def sweep(self, app: Celery) -> int:
        """End what was revoked since the last sweep; return how many conversations ended.

        Ids that are no conversation's are those of other tasks, or of messages still on their way,
        which are ended on arrival. Raises RegistryUnavailableError; the next sweep goes on then.
        """
        revoked: dict[Any, Any] = state.revoked.as_dict()
        self._done &= revoked.keys()
        found = [each for each in revoked if each not in self._done][:_LIMIT]
        ended = 0
        for each in found:
            with suppress(UnknownConversationError):
                ended += kill(app, str(each))
            self._done.add(each)
        return ended


class RevokeCommand(bootsteps.StartStopStep):
    """Has the worker's `revoke` command end conversations in the registry first.

    Celery's own command then stores REVOKED for what is not running here. It is not told of a
    conversation that had ended before, because that ending may still be on its way to the injector.
    """

    requires = (Control,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        node = consumer.blueprint[Control.name].box.node
        command = node.handlers["revoke"]

        def revoke(state: Any, task_id: Any, **options: Any) -> Any:
            ids = [str(each) for each in maybe_list(task_id) or []]
            left = [each for each in ids if _end(consumer.app, each) is not False]
            return command(state, left, **options)

        node.handlers = {**node.handlers, "revoke": revoke}


def _end(app: Celery, conversation_id: str) -> bool | None:
    """Whether the conversation has ended by this; None if that is not known, or it is none."""
    try:
        return kill(app, conversation_id)
    except UnknownConversationError:
        return None
    except RegistryUnavailableError as exc:
        logger.warning("revocation.postponed id=%r reason=%s", conversation_id, exc)
        return None
    except Exception:  # any text may be sent as an id
        logger.exception("revocation.failed id=%r", conversation_id)
        return None
