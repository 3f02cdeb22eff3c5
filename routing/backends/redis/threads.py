"""Threads of the registry in Redis, and the joins that they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis import replies
from threadloom.routing.backends.redis.connection import RegistryConnection, at_the_edge
from threadloom.routing.backends.redis.layout import Field
from threadloom.routing.errors import (
    ConversationTooLargeError,
    UnknownConversationError,
    UnknownThreadError,
)
from threadloom.routing.records import JoinState, StoredResult, Thread

#: what put_items.lua answers when it stores nothing
_UNKNOWN, _TOO_LARGE = 0, 2


class Joins(RegistryConnection):
    """The part of `SharedBackend` about joins and stored lists."""

    @at_the_edge
    def join(self, conversation_id: str, join_id: str) -> JoinState | None:
        parts = (Field.JOIN, Field.OK_COUNT, Field.FAILED_COUNT, Field.FIRED)
        fields = [part.of(join_id) for part in parts]
        row, ok, failed, fired = self._hmget(self._keys(conversation_id).joins, fields)
        if row is None:
            return None
        return JoinState(codec.read_join(row), int(ok or 0), int(failed or 0), fired is not None)

    @at_the_edge
    def results(
        self, conversation_id: str, join_id: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        if stop <= start:
            return []
        fields = [Field.ANSWER.of(f"{join_id}:{index}") for index in range(start, stop)]
        found = self._hmget(self._keys(conversation_id).joins, fields)
        results = []
        for index, value in enumerate(found, start):
            if value is not None:
                success, path, payload = value.split(b"|", 2)
                results.append(StoredResult(index, success == b"1", payload, path.decode()))
        return results

    @at_the_edge
    def put_items(
        self,
        conversation_id: str,
        name: str,
        start: int,
        items: Sequence[bytes],
        *,
        max_bytes: int = 0,
    ) -> None:
        if not items:
            return
        answer = self._run("put_items", conversation_id, name, start, max_bytes, *items)
        if answer == _UNKNOWN:
            raise UnknownConversationError(conversation_id)
        if answer == _TOO_LARGE:
            raise ConversationTooLargeError(conversation_id, max_bytes)

    @at_the_edge
    def items(self, conversation_id: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        if stop <= start:
            return []
        fields = [Field.ITEM.of(f"{name}:{index}") for index in range(start, stop)]
        found = self._hmget(self._keys(conversation_id).joins, fields)
        return [item for item in found if item is not None]


class Threads(RegistryConnection):
    """The part of `SharedBackend` about threads."""

    @at_the_edge
    def put_thread(self, conversation_id: str, thread: Thread) -> bool:
        row = codec.thread_row(thread)
        return bool(self._run("put_thread", conversation_id, self._ttl_ms, thread.id, row))

    @at_the_edge
    def child_thread(
        self, conversation_id: str, parent_id: str, name: str, proposed: str
    ) -> Thread:
        args = (self._ttl_ms, parent_id, name, proposed)
        reply = replies.read(self._run("child_thread", conversation_id, *args))
        if isinstance(reply, replies.UnknownReply):
            raise UnknownThreadError(parent_id)
        return codec.thread_from(reply.thread_id.decode(), reply.row)

    @at_the_edge
    def thread(self, conversation_id: str, thread_id: str) -> Thread | None:
        [row] = self._hmget(self._keys(conversation_id).threads, [Field.THREAD.of(thread_id)])
        return codec.thread_from(thread_id, row) if row is not None else None

    @at_the_edge
    def threads(self, conversation_id: str) -> Mapping[str, Thread]:
        fields = cast(dict[bytes, bytes], self._redis.hgetall(self._keys(conversation_id).threads))
        names = {field: field.decode().removeprefix(Field.THREAD) for field in fields}
        return {
            name: codec.thread_from(name, fields[field])
            for field, name in names.items()
            if field.startswith(Field.THREAD.encode())
        }

    @at_the_edge
    def drop_threads(self, conversation_id: str, threads: Sequence[str]) -> int:
        return int(self._run("drop_threads", conversation_id, *threads)) if threads else 0
