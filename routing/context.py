"""The context buffer: a thread's messages as immutable, gap-free slots.

A slot is written when a delivery for the thread is created, in the same atomic step, and never
changes. Reading costs two round trips and happens only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from threadloom.routing.envelope import parse_envelope
from threadloom.routing.records import Delivery
from threadloom.routing.store import ReadingStore

#: slots that one look loads at most: the newest ones
DEFAULT_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class ContextSlot:
    """One message of a thread."""

    #: position in the thread, from 0, without gaps
    slot: int
    message_id: str
    from_id: str
    to: str
    #: root element of the payload
    payload_name: str
    #: the whole envelope, canonical XML
    envelope: bytes

    @property
    def payload(self) -> Any:
        """The payload as an lxml element."""
        return parse_envelope(self.envelope).payload


class ContextBuffer:
    """The threads' messages of one conversation."""

    def __init__(self, backend: ReadingStore, conversation_id: str) -> None:
        self._backend = backend
        self._conversation = conversation_id

    def read(
        self,
        thread_id: str,
        *,
        limit: int = DEFAULT_LIMIT,
        payload_name: str | None = None,
        from_id: str | None = None,
    ) -> tuple[ContextSlot, ...]:
        """The newest `limit` slots of a thread, oldest first, of one type or sender if asked.

        The filters choose among those `limit` slots. Raises ValueError for `limit` < 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        found = self._backend.context(self._conversation, thread_id, limit=limit)
        return tuple(
            _slot(number, delivery)
            for number, delivery in found
            if payload_name in (None, delivery.payload_name) and from_id in (None, delivery.from_id)
        )

    def up_to(self, delivery: Delivery) -> Sequence[ContextSlot]:
        """The messages of a delivery's thread up to and with it, loaded at the first look.

        Not the later ones, though they may be there: so every attempt at a delivery sees the same,
        and of several replies that arrive together exactly one sees all of them.
        """
        return LazyContext(lambda: self._read_up_to(delivery))

    def _read_up_to(self, delivery: Delivery) -> tuple[ContextSlot, ...]:
        limit = DEFAULT_LIMIT
        while True:
            slots = self.read(delivery.thread_id, limit=limit)
            for position, slot in enumerate(slots):
                if slot.message_id == delivery.id:
                    return slots[: position + 1]
            if len(slots) < limit:
                return slots
            limit *= 10  # more than the limit have arrived since


class LazyContext(Sequence[ContextSlot]):
    """A thread's slots, loaded at the first look: a handler that never looks pays nothing."""

    def __init__(self, load: Callable[[], tuple[ContextSlot, ...]]) -> None:
        self._load = load
        self._slots: tuple[ContextSlot, ...] | None = None

    def _loaded(self) -> tuple[ContextSlot, ...]:
        if self._slots is None:
            self._slots = self._load()
        return self._slots

    @overload
    def __getitem__(self, index: int) -> ContextSlot: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ContextSlot]: ...
    def __getitem__(self, index: int | slice) -> ContextSlot | Sequence[ContextSlot]:
        return self._loaded()[index]

    def __len__(self) -> int:
        return len(self._loaded())

    def __iter__(self) -> Iterator[ContextSlot]:
        return iter(self._loaded())

    def __repr__(self) -> str:
        return "<context, not loaded>" if self._slots is None else repr(self._slots)


def _slot(number: int, delivery: Delivery) -> ContextSlot:
    return ContextSlot(
        number, delivery.id, delivery.from_id, delivery.to, delivery.payload_name, delivery.envelope
    )
