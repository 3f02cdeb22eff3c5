"""What handler authors import, and what carries an organism out builds on.

from routing import HandlerMetadata, HandlerResponse, payload
"""

from routing.context import ContextSlot
from routing.errors import (
    ConversationError,
    InvalidEnvelopeError,
    InvalidPayloadError,
    PayloadDefinitionError,
    RetryLater,
    UnknownConversationError,
    UnknownResultsError,
    UnknownThreadError,
)
from routing.faults import Huh, SystemError  # the wire format's name
from routing.handler import Handler, HandlerMetadata, HandlerResponse
from routing.markup import XML
from routing.organism import Listener, Organism, build_organism
from routing.payload import PayloadType, payload, payload_type
from routing.results import BufferItem

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
