"""What people and programs read of the registry in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis.connection import RegistryConnection, at_the_edge
from threadloom.routing.backends.redis.layout import SHARDS, ConversationField, Field
from threadloom.routing.records import Conversation, Delivery, LogEntry, Wait
from threadloom.routing.states import ConversationStatus, LogEvent

#: what is read of a conversation, in the order in which `_conversation` takes it
_SHOWN = (
    ConversationField.STATUS, ConversationField.ENTRY, ConversationField.FROM,
    ConversationField.CREATED, ConversationField.UPDATED, ConversationField.COUNT,
    ConversationField.IN_FLIGHT, ConversationField.WAITING, ConversationField.VALUE,
)  # fmt: skip
#: events whose detail is a delivery
_OF_A_DELIVERY = (LogEvent.MESSAGE.encode(), LogEvent.LATE.encode())


class Reading(RegistryConnection):
    """The part of `SharedBackend` that changes nothing."""

    @at_the_edge
    def conversation(self, conversation_id: str) -> Conversation | None:
        [found] = self._conversation_rows([conversation_id])
        return found

    @at_the_edge
    def conversations(
        self, *, limit: int, before: tuple[int, str] | None = None
    ) -> Sequence[Conversation]:
        top = f"({before[0]:015d}:{before[1]}".encode() if before else b"+"
        page: list[Conversation] = []
        while len(page) < limit:
            members = self._newest("created", top, limit)
            rows = self._conversation_rows([m.decode().partition(":")[2] for m in members])
            page += (
                row
                for row, member in zip(rows, members, strict=True)
                # An id may have been used again after its first conversation expired.
                if row is not None and row.created_ms == int(member.partition(b":")[0])
            )
            if len(members) < limit:
                break
            top = b"(" + members[-1]
        return page[:limit]

    def _conversation_rows(self, ids: Sequence[str]) -> list[Conversation | None]:
        pipe = self._redis.pipeline(transaction=False)
        for conversation in ids:
            pipe.hmget(self._keys(conversation).conversation, list(_SHOWN))
        rows = pipe.execute() if ids else []
        pipe = self._redis.pipeline(transaction=False)
        for conversation, row in zip(ids, rows, strict=True):
            pipe.hget(self._keys(conversation).deliveries, Field.ROW.encode() + (row[1] or b""))
        entries = pipe.execute() if ids else []
        return [
            _conversation(*item) if item[1][0] is not None else None
            for item in zip(ids, rows, entries, strict=True)
        ]

    @at_the_edge
    def log(self, conversation_id: str, *, start: int = 0, limit: int = 1000) -> Sequence[LogEntry]:
        if limit < 1:
            return []
        key = self._keys(conversation_id).log
        lines = cast(list[bytes], self._redis.lrange(key, start, start + limit - 1))
        parsed = [line.split(b"|", 2) for line in lines]
        ids = [detail.decode() for _, event, detail in parsed if event in _OF_A_DELIVERY]
        known = self._deliveries(conversation_id, ids)
        return [
            LogEntry(int(at), LogEvent(event.decode()), _log_detail(event, detail, known))
            for at, event, detail in parsed
        ]

    def _deliveries(self, conversation_id: str, ids: Iterable[str]) -> dict[str, Delivery]:
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        fields = [part.of(i) for i in wanted for part in (Field.ROW, Field.ENVELOPE)]
        found = self._hmget(self._keys(conversation_id).deliveries, fields)
        pairs = zip(wanted, found[0::2], found[1::2], strict=True)
        return {
            i: codec.delivery_from(row, envelope or b"")
            for i, row, envelope in pairs
            if row is not None
        }

    @at_the_edge
    def context(
        self, conversation_id: str, thread_id: str, *, limit: int
    ) -> Sequence[tuple[int, Delivery]]:
        key = self._keys(conversation_id).deliveries
        [count] = self._hmget(key, [Field.SLOT_COUNT.of(thread_id)])
        first, last = max(0, int(count or 0) - limit), int(count or 0)
        if first == last:
            return []
        slots = self._hmget(
            key, [Field.SLOT.of(f"{thread_id}:{slot}") for slot in range(first, last)]
        )
        ids = [slot.decode() for slot in slots if slot is not None]
        known = self._deliveries(conversation_id, ids)
        return [(first + n, known[i]) for n, i in enumerate(ids)]

    @at_the_edge
    def waits(self, conversation_id: str) -> Sequence[Wait]:
        rows = cast(list[bytes], self._redis.hvals(self._keys(conversation_id).waits))
        return [codec.read_wait(row) for row in rows]

    @at_the_edge
    def stats(self) -> Mapping[str, int]:
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.zcard(self._shard_key(shard, "created"))
            pipe.zcard(self._shard_key(shard, "due"))
            pipe.zcard(self._shard_key(shard, "sent"))
            pipe.zcard(self._shard_key(shard, "dead"))
        counts = pipe.execute()
        names = ("conversations", "due", "sent", "dead_letters")
        return {name: sum(counts[n :: len(names)]) for n, name in enumerate(names)}


def _conversation(conversation_id: str, row: list[Any], entry: bytes | None) -> Conversation:
    status, _, from_id, created, updated, count, in_flight, waiting, value = row
    shown = ConversationStatus(status.decode())
    if shown is ConversationStatus.RUNNING and 0 < int(waiting) == int(in_flight):
        shown = ConversationStatus.WAITING
    return Conversation(
        id=conversation_id,
        status=shown,
        entry=codec.delivery_from(entry).to if entry else "",
        from_id=from_id.decode(),
        created_ms=int(created),
        updated_ms=int(updated),
        deliveries=int(count),
        in_flight=int(in_flight),
        waiting=int(waiting),
        value=json.loads(value),
    )


def _log_detail(event: bytes, detail: bytes, known: Mapping[str, Delivery]) -> Mapping[str, Any]:
    text = detail.decode()
    match LogEvent(event.decode()):
        case LogEvent.MESSAGE | LogEvent.LATE:
            return {"delivery": known[text]} if text in known else {"id": text}
        case LogEvent.WAITING:
            return {"scope": [], **json.loads(text)}
        case LogEvent.NOTE | LogEvent.ABANDONED | LogEvent.RETRY:
            delivery, what = json.loads(text)
            return {"id": delivery, "text": what}
        case LogEvent.DEAD_LETTER | LogEvent.REPLAYED:
            return {"id": text}
    return {"text": text}
