"""The system listeners that every organism has."""

from __future__ import annotations

from types import MappingProxyType

from threadloom.primitives.buffer import BUFFER, BufferStart, buffer
from threadloom.primitives.sequence import SEQUENCE, SequenceStart, sequence
from threadloom.routing import Listener
from threadloom.routing.payloads import payload_type

#: seconds a system listener may take, as any other by default: it reads and writes the registry, a
#: batch at a time
_TIMEOUT_S = 30.0


def _accepts(*classes: type) -> MappingProxyType[str, object]:
    return MappingProxyType({kind.name: kind for kind in map(payload_type, classes)})


SYSTEM_LISTENERS: tuple[Listener, ...] = (
    Listener(
        name=SEQUENCE,
        handler=sequence,
        accepts=_accepts(SequenceStart),  # type: ignore[arg-type]
        description="Runs listeners one after another, each on the reply of the one before.",
        timeout_s=_TIMEOUT_S,
        system=True,
    ),
    Listener(
        name=BUFFER,
        handler=buffer,
        accepts=_accepts(BufferStart),  # type: ignore[arg-type]
        description="Fans items out to a listener and collects the replies in order.",
        timeout_s=_TIMEOUT_S,
        system=True,
    ),
)
#: what peers may name though no organism file has such a listener
SYSTEM_NAMES: tuple[str, ...] = tuple(entry.name for entry in SYSTEM_LISTENERS)
