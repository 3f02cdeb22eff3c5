"""Killing a conversation: ending it from outside."""

from __future__ import annotations

from celery import Celery
from msgspec.structs import replace

from threadloom.routing import UnknownConversationError, content_of, ending_of
from threadloom.routing.faults import killed_fault
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import runtime_of


def killed_ending() -> Ending:
    """Return the ending of a conversation that was ended from outside."""
    ending = ending_of(content_of(killed_fault()), thread_id="")
    return replace(ending, status=ConversationStatus.KILLED)


def kill(app: Celery, conversation_id: str) -> bool:
    """End a conversation now; False if it had already ended.

    Its injector's Celery result is REVOKED, with a ConversationError of the code `killed`. None of
    its deliveries starts any more; a running handler is not interrupted, but its response is logged
    as late. After a RegistryUnavailableError call it again. Raises UnknownConversationError.
    """
    runtime = runtime_of(app)
    publication = runtime.backend.kill(conversation_id, killed_ending())
    if publication is not None:
        Publisher(app, runtime).publish([publication])
        return True
    if runtime.backend.conversation(conversation_id) is None:
        raise UnknownConversationError(conversation_id)
    return False
