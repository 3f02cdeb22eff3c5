"""What handler authors import, and what `primitives`, `tasks` and `service` build on.

from threadloom.routing import HandlerMetadata, HandlerResponse, payload
"""

from threadloom.routing.context import ContextBuffer, ContextSlot
from threadloom.routing.envelope import build_envelope, parse_envelope
from threadloom.routing.errors import (
    ConversationError,
    IdTakenError,
    InvalidEnvelopeError,
    InvalidPayloadError,
    PayloadDefinitionError,
    RegistryFormatError,
    RetryLater,
    UnknownConversationError,
    UnknownResultsError,
    UnknownThreadError,
)
from threadloom.routing.faults import Huh, SystemError  # the wire format's name
from threadloom.routing.handler import Handler, HandlerMetadata, HandlerResponse
from threadloom.routing.intake import Admitted, admit, receive
from threadloom.routing.organism import Listener, Organism, build_organism
from threadloom.routing.outgoing import content_of, ending_of
from threadloom.routing.payloads import XML, PayloadType, payload, payload_type
from threadloom.routing.planner import open_conversation, plan
from threadloom.routing.results import BufferItem, StoredItems, StoredResults, items_of
from threadloom.routing.retry import backoff_ms
from threadloom.routing.rights import refusal

__all__ = [
    "XML",
    "Admitted",
    "BufferItem",
    "ContextBuffer",
    "ContextSlot",
    "ConversationError",
    "Handler",
    "HandlerMetadata",
    "HandlerResponse",
    "Huh",
    "IdTakenError",
    "InvalidEnvelopeError",
    "InvalidPayloadError",
    "Listener",
    "Organism",
    "PayloadDefinitionError",
    "PayloadType",
    "RegistryFormatError",
    "RetryLater",
    "StoredItems",
    "StoredResults",
    "SystemError",
    "UnknownConversationError",
    "UnknownResultsError",
    "UnknownThreadError",
    "admit",
    "backoff_ms",
    "build_envelope",
    "build_organism",
    "content_of",
    "ending_of",
    "items_of",
    "open_conversation",
    "parse_envelope",
    "payload",
    "payload_type",
    "plan",
    "receive",
    "refusal",
]

#: modules that others import from by their own names: the data, the words for its states, what an
#: attempt asks for, what errors tell, which messages are let in, what a registry promises; and the
#: two packages in this one
PUBLIC_MODULES = (
    "actions", "backends", "faults", "gate", "payloads", "records", "states", "store",
)  # fmt: skip
