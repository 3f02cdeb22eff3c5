"""The system listeners: what an organism can do beyond single calls."""

from primitives.boot import SYSTEM_LISTENERS
from primitives.buffer import (
    BUFFER,
    BufferComplete,
    BufferDispatched,
    BufferError,
    BufferStart,
)
from primitives.call import SystemCall
from primitives.sequence import (
    SEQUENCE,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)

__all__ = [
    "BUFFER",
    "SEQUENCE",
    "SYSTEM_LISTENERS",
    "BufferComplete",
    "BufferDispatched",
    "BufferError",
    "BufferStart",
    "SequenceComplete",
    "SequenceError",
    "SequenceStart",
    "SystemCall",
]
