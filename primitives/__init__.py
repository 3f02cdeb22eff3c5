"""The system listeners: what an organism can do beyond single calls."""

from threadloom.primitives.boot import SYSTEM_LISTENERS, SYSTEM_NAMES
from threadloom.primitives.buffer import (
    BUFFER,
    BufferComplete,
    BufferDispatched,
    BufferError,
    BufferStart,
)
from threadloom.primitives.call import SystemCall
from threadloom.primitives.sequence import (
    SEQUENCE,
    SequenceComplete,
    SequenceError,
    SequenceStart,
)

__all__ = [
    "BUFFER",
    "SEQUENCE",
    "SYSTEM_LISTENERS",
    "SYSTEM_NAMES",
    "BufferComplete",
    "BufferDispatched",
    "BufferError",
    "BufferStart",
    "SequenceComplete",
    "SequenceError",
    "SequenceStart",
    "SystemCall",
]
