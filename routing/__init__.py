"""What handler authors import, and what carries an organism out builds on.

from threadloom.routing import HandlerMetadata, HandlerResponse, payload
"""

from threadloom.routing.context import ContextSlot
from threadloom.routing.errors import (
    ConversationError,
    InvalidEnvelopeError,
    InvalidPayloadError,
    PayloadDefinitionError,
    RetryLater,
    UnknownConversationError,
    UnknownResultsError,
    UnknownThreadError,
)
from threadloom.routing.faults import Huh, SystemError  # the wire format's name
from threadloom.routing.handler import Handler, HandlerMetadata, HandlerResponse
from threadloom.routing.organism import Listener, Organism, build_organism
from threadloom.routing.payloads import XML, PayloadType, payload, payload_type
from threadloom.routing.results import BufferItem

__all__ = [
    "XML",
    "BufferItem",
    "ContextSlot",
    "ConversationError",
    "Handler",
    "HandlerMetadata",
    "HandlerResponse",
    "Huh",
    "InvalidEnvelopeError",
    "InvalidPayloadError",
    "Listener",
    "Organism",
    "PayloadDefinitionError",
    "PayloadType",
    "RetryLater",
    "SystemError",
    "UnknownConversationError",
    "UnknownResultsError",
    "UnknownThreadError",
    "build_organism",
    "payload",
    "payload_type",
]
