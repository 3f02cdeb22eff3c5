"""Killing a conversation: ending it from outside."""

from __future__ import annotations

from celery import Celery
from msgspec.structs import replace

from threadloom.routing import UnknownConversationError, content_of, ending_of
from threadloom.routing.faults import killed_fault
from threadloom.routing.states import ConversationStatus
from threadloom.tasks.publisher import Publisher
from threadloom.tasks.runtime import runtime_of


def kill(app: Celery, conversation_id: str) -> bool:
    """End a conversation now; False if it had already ended.

    Its injector gets a ConversationError with the code `killed`. None of its deliveries starts
    any more; a running handler is not interrupted, but its response is logged as late. After a
    RegistryUnavailableError call it again. Raises UnknownConversationError.
    """
    runtime = runtime_of(app)
    ending = ending_of(content_of(killed_fault()), thread_id="")
    ending = replace(ending, status=ConversationStatus.KILLED)
    publication = runtime.backend.kill(conversation_id, ending)
    if publication is not None:
        Publisher(app, runtime).publish([publication])
        return True
    if runtime.backend.conversation(conversation_id) is None:
        raise UnknownConversationError(conversation_id)
    return False
