"""A buffer's items and results where they are too many for one payload: by reference.

    BufferStart("measure", meta.items(measurable()))
    for item in meta.results(complete): ...

`<results>` holds an `<item>` per index. Where that would not fit into one payload it is
`<results ref="…" total="N"/>` instead, and the items are read from the registry a page at a
time. Items go the other way: a list of any length is written to the registry a page at a time,
and stands in the message as one `<stored ref="…" total="N"/>`. A reference is worth something only
inside its conversation, and as long as that is kept.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from threadloom.routing.envelope import CORE_NAMESPACE
from threadloom.routing.errors import (
    InvalidEnvelopeError,
    InvalidPayloadError,
    UnknownResultsError,
)
from threadloom.routing.faults import fault_text
from threadloom.routing.outgoing import content_of
from threadloom.routing.payloads import XML, canonical, local_name, new_element, parse_canonical
from threadloom.routing.records import JoinState, StoredResult
from threadloom.routing.store import JoinStore

#: the error of an index without an answer
MISSING = "no answer in time, or not needed any more"
_STORED = f"{{{CORE_NAMESPACE}}}stored"
#: bytes that a page should have
_PAGE_BYTES = 1_048_576
#: results in the first page, and at most in any
_FIRST_PAGE, _LARGEST_PAGE = 16, 1_000


@dataclass(frozen=True, slots=True)
class BufferItem:
    """What became of one item."""

    index: int
    success: bool
    #: the reply, of a success
    payload: XML | None = None
    #: why there is none
    error: str = ""
    #: there was no answer when the buffer was complete
    missing: bool = False


@dataclass(frozen=True, slots=True)
class StoredItems:
    """A list that lies in the registry."""

    name: str
    total: int

    @property
    def reference(self) -> XML:
        """What stands for the list in a message."""
        element = new_element(_STORED, {None: CORE_NAMESPACE})
        element.set("ref", self.name)
        element.set("total", str(self.total))
        return XML(element)

    @classmethod
    def named_by(cls, items: Sequence[XML]) -> StoredItems | None:
        """The list that these items only refer to; None if they are the items themselves."""
        if len(items) != 1 or not items[0].text.startswith("<stored "):
            return None
        element = items[0].element
        total = element.get("total", "")
        if element.tag != _STORED or not (total.isascii() and total.isdigit()):
            return None
        return cls(element.get("ref", ""), int(total))


class StoredResults:
    """The joins and the stored lists of one conversation, in the registry."""

    def __init__(
        self,
        backend: JoinStore,
        conversation_id: str,
        *,
        max_items: int = 0,
        max_item_bytes: int = 0,
    ) -> None:
        """`max_items` and `max_item_bytes` bound what `put` stores; 0: they do not."""
        self._backend = backend
        self._conversation = conversation_id
        self._max_items = max_items
        self._max_item_bytes = max_item_bytes

    def put(self, items: Iterable[Any]) -> StoredItems:
        """Store a list, a page at a time: `items` may be a generator of any length.

        Each item is a payload object or `XML`. Raises InvalidPayloadError for one that is none, or
        breaks its own contract, is too large, or is one more than could ever be delivered. A list
        that nobody refers to goes with its conversation.
        """
        page: list[bytes] = []
        name, total, size = str(uuid.uuid4()), 0, 0
        for item in items:
            page.append(self._item(item, total + len(page)))
            size += len(page[-1])
            if size > _PAGE_BYTES or len(page) == _LARGEST_PAGE:
                self._backend.put_items(self._conversation, name, total, page)
                total, size, page = total + len(page), 0, []
        self._backend.put_items(self._conversation, name, total, page)
        return StoredItems(name, total + len(page))

    def _item(self, item: Any, index: int) -> bytes:
        data = canonical(content_of(item).element)
        fault = ""
        if 0 < self._max_items <= index:
            fault = f"there are more of them than max_deliveries {self._max_items}"
        elif 0 < self._max_item_bytes < len(data):
            fault = f"{len(data)} bytes, more than max_payload_bytes {self._max_item_bytes}"
        if fault:
            raise InvalidPayloadError(f"item {index}", [fault])
        return data

    def stored_items(self, name: str, start: int, stop: int) -> list[etree._Element]:
        """The items `start` to `stop - 1` of a list.

        Raises UnknownResultsError if they are not all there.
        """
        found = self._backend.items(self._conversation, name, start, stop)
        if len(found) != stop - start:
            raise UnknownResultsError(name)
        return [parse_canonical(item) for item in found]

    def holds(self, items: StoredItems) -> bool:
        """Whether a list is as long as a message says, which anybody may have written."""
        last = max(0, items.total - 1)
        found = self._backend.items(self._conversation, items.name, last, items.total + 1)
        return len(found) == min(1, items.total)

    def join(self, join_id: str) -> JoinState | None:
        """One join with its counts; None if this conversation has none of that id."""
        return self._backend.join(self._conversation, join_id)

    def answer(self, join_id: str, index: int) -> StoredResult:
        """The answer of one index. Raises ValueError if there is none."""
        [found] = self._backend.results(self._conversation, join_id, index, index + 1)
        return found

    def answers(self, join_id: str, total: int) -> Iterator[StoredResult]:
        """The answers that are there, in index order, without holding all of them at once."""
        start, size = 0, _FIRST_PAGE
        while start < total:
            page = self._backend.results(
                self._conversation, join_id, start, min(start + size, total)
            )
            yield from page
            start += size
            mean_bytes = sum(len(r.payload) for r in page) // size + 1
            size = max(1, min(_PAGE_BYTES // mean_bytes, 4 * size, _LARGEST_PAGE))

    def items(self, join_id: str, total: int) -> Iterator[BufferItem]:
        """Every index from 0 to `total - 1`; those without an answer are `missing`."""
        following = 0
        for answer in self.answers(join_id, total):
            yield from _missing(following, answer.index)
            yield item_of(answer)
            following = answer.index + 1
        yield from _missing(following, total)


def items_of(complete: Any, stored: StoredResults | None) -> Iterator[BufferItem]:
    """Every item of a buffer, in index order.

    `complete` is a `BufferComplete`, its `results`, either of them as XML text, or the value
    that `AsyncResult.get()` gave. Raises ValueError for anything else, and UnknownResultsError
    for a reference that `stored` does not hold.
    """
    element = _results_element(complete)
    reference = element.get("ref")
    if reference is None:
        return map(_read_item, element.iterchildren("item"))
    state = stored.join(reference) if stored is not None else None
    if stored is None or state is None:
        raise UnknownResultsError(reference)
    return stored.items(reference, state.join.total)


def item_of(answer: StoredResult) -> BufferItem:
    """The item of an answer that is there."""
    element = parse_canonical(answer.payload)
    if answer.success:
        return BufferItem(answer.index, True, XML.of_parsed(element))
    return BufferItem(answer.index, False, error=fault_text(element))


def _missing(start: int, stop: int) -> Iterator[BufferItem]:
    return (BufferItem(i, False, error=MISSING, missing=True) for i in range(start, stop))


def _read_item(item: etree._Element) -> BufferItem:
    index = int(item.get("index", ""))
    [content] = item.iterchildren("*")
    if item.get("success") == "true":
        return BufferItem(index, True, XML.of_parsed(content))
    missing = item.get("missing") == "true"
    return BufferItem(index, False, error=content.text or "", missing=missing)


def _results_element(value: Any) -> etree._Element:
    """The `<results>` with the items or the reference."""
    if isinstance(value, Mapping):  # of AsyncResult.get(), or its payload
        fields = value.get("payload", value)
        value = fields.get("results") if isinstance(fields, Mapping) else fields
    value = getattr(value, "results", value)
    found: etree._Element | None = None
    if isinstance(value, XML):
        found = value.element
    elif isinstance(value, str):
        found = _parsed(value)
    while found is not None and (local_name(found) == "BufferComplete" or _wraps(found)):
        found = found.find("results")
    if found is None or local_name(found) != "results":
        raise ValueError("there are no results of a buffer in this")
    return found


def _parsed(text: str) -> etree._Element:
    try:
        return parse_canonical(text.encode())
    except InvalidEnvelopeError as exc:
        raise ValueError(f"these are no results of a buffer: {exc}") from exc


def _wraps(element: etree._Element) -> bool:
    """Whether this is the field `results` around the results themselves."""
    return local_name(element) == "results" and element.find("results") is not None
