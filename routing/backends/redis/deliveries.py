"""Deliveries of the registry in Redis: opened, begun, committed, given up, answered, killed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from threadloom.routing.backends import codec
from threadloom.routing.backends.redis import replies
from threadloom.routing.backends.redis.commits import (
    commit_args,
    commit_result,
    frame_of,
    publications,
    resumption,
)
from threadloom.routing.backends.redis.connection import (
    RegistryConnection,
    at_the_edge,
    shard_of,
)
from threadloom.routing.backends.redis.layout import Keys
from threadloom.routing.backends.redis.script_line import Call
from threadloom.routing.errors import UnknownConversationError
from threadloom.routing.records import (
    Beginning,
    Begun,
    CommitResult,
    Delivery,
    Ending,
    Opening,
    Publication,
    Release,
    Skip,
    Transition,
    Turn,
)
from threadloom.routing.states import SkipReason
from threadloom.routing.store import NOTHING, Published

#: conversations that are opened in one round trip: about as many as fit into a socket's buffer
_OPENED_AT_ONCE = 64
#: what `open` does with a conversation's first delivery: see open.lua
_KEEP, _SEND, _BEGIN = "keep", "send", "begin"


class Deliveries(RegistryConnection):
    """The part of `SharedBackend` that changes deliveries."""

    @at_the_edge
    def open(self, opening: Opening) -> Publication | None:
        args = self._opening_args(opening, mode=_KEEP)
        reply = replies.read(self._run("open", opening.conversation_id, *args))
        return next(iter(publications(opening.conversation_id, reply.rows)), None)

    @at_the_edge
    def open_many(self, openings: Iterable[Opening]) -> Sequence[str]:
        rounds = self._opening_rounds(iter(openings))
        made, left = deque(itertools.islice(rounds, 1)), list[Opening]()
        while made:
            groups, calls = made.popleft()
            # The next ones are made while Redis is at work on these.
            replies = self._line.run(
                *calls, meanwhile=lambda: made.extend(itertools.islice(rounds, 1))
            )
            for group, positions in zip(groups, replies, strict=True):
                left += (group[position] for position in positions)
        return [opening.conversation_id for opening in left if not self._opened_alone(opening)]

    def _opening_rounds(
        self, openings: Iterator[Opening]
    ) -> Iterator[tuple[list[list[Opening]], list[Call]]]:
        """So many openings at once, grouped by their shard, and a script's call for each group."""
        while some := list(itertools.islice(openings, _OPENED_AT_ONCE)):
            groups: dict[int, list[Opening]] = {}
            for opening in some:
                groups.setdefault(shard_of(opening.conversation_id), []).append(opening)
            calls = [self._opening_call(shard, group) for shard, group in groups.items()]
            yield list(groups.values()), calls

    def _opening_call(self, shard: int, openings: Sequence[Opening]) -> Call:
        """Open conversations of one shard."""
        own, shared = self._shard_keys[shard]
        parts = Keys(*own, *shared)
        prefixes = (parts.conversation, parts.deliveries, parts.threads, parts.log)
        keys = [parts.created, parts.retention, parts.sent]
        args: list[str | bytes | int] = [self._ttl_ms, self._max_age_ms]
        for opening in openings:
            keys += [prefix + opening.conversation_id for prefix in prefixes]
            args += _opening_fields(opening)
        return Call("open_many", keys, args)

    def _opened_alone(self, opening: Opening) -> bool:
        """Open one of which something is known; False if the conversation itself is."""
        args = self._opening_args(opening, mode=_SEND)
        return bool(replies.read(self._run("open", opening.conversation_id, *args)).rows)

    @at_the_edge
    def open_and_begin(
        self, opening: Opening, *, owner: str, lease_ms: int, published: Published = NOTHING
    ) -> Beginning:
        args = self._opening_args(opening, mode=_BEGIN, owner=owner, lease_ms=lease_ms)
        reply = self._run_after(published, "open", opening.conversation_id, *args)
        return _beginning(opening.conversation_id, reply, opening.entry)

    def _opening_args(
        self, opening: Opening, *, mode: str, owner: str = "", lease_ms: int = 0
    ) -> tuple[str | bytes, ...]:
        entry = opening.entry
        header = codec.dump(
            {
                "from": entry.from_id,
                "entry": entry.id,
                "threads": [(t.id, codec.thread_row(t)) for t in (opening.root, opening.thread)],
                "children": opening.children,
                "ttl_ms": self._ttl_ms,
                "max_age_ms": self._max_age_ms,
                "mode": mode,
                "owner": owner,
                "lease_ms": lease_ms,
            }
        )
        return header, opening.canvas, codec.delivery_row(entry), entry.envelope

    @at_the_edge
    def begin(
        self,
        conversation_id: str,
        delivery_id: str,
        *,
        owner: str,
        lease_ms: int,
        published: Published = NOTHING,
    ) -> Beginning:
        reply = self._run_after(published, "begin", conversation_id, delivery_id, owner, lease_ms)
        return _beginning(conversation_id, reply)

    @at_the_edge
    def commit(
        self, transition: Transition, *, turn: Turn | None = None, published: Published = NOTHING
    ) -> CommitResult:
        args = commit_args(transition, turn)
        reply = self._run_after(published, "commit", transition.conversation_id, *args)
        return commit_result(transition, reply)

    @at_the_edge
    def published(self, conversation_id: str, deliveries: Sequence[str]) -> None:
        if deliveries:
            self._run("published", conversation_id, self._begin_grace_ms, *deliveries)

    @at_the_edge
    def retry(
        self, conversation_id: str, delivery_id: str, *, attempt: int, delay_ms: int, reason: str
    ) -> tuple[Publication, ...] | None:
        args = (delivery_id, attempt, delay_ms, reason)
        reply = replies.read(self._run("retry", conversation_id, *args))
        if isinstance(reply, replies.FencedReply):
            return None
        return publications(conversation_id, reply.rows)

    @at_the_edge
    def released(self, conversation_id: str) -> None:
        self._run("released", conversation_id)

    @at_the_edge
    def renew(self, leases: Sequence[tuple[str, str]], *, owner: str, lease_ms: int) -> None:
        by_conversation: dict[str, list[str]] = {}
        for conversation, delivery in leases:
            by_conversation.setdefault(conversation, []).append(delivery)
        self._line.run(
            *(
                self._call("renew", conversation, (owner, lease_ms, *deliveries))
                for conversation, deliveries in by_conversation.items()
            )
        )

    @at_the_edge
    def abandon(
        self, conversation_id: str, delivery_id: str, *, owner: str, reason: str
    ) -> Publication | None:
        rows = self._run("abandon", conversation_id, delivery_id, owner, reason)
        return next(iter(publications(conversation_id, rows)), None)

    @at_the_edge
    def answer(self, conversation_id: str, wait_id: str, delivery: Delivery) -> Publication | None:
        args = (wait_id, codec.delivery_row(delivery), delivery.envelope)
        reply = replies.read(self._run("answer", conversation_id, *args))
        if isinstance(reply, replies.UnknownReply):
            raise UnknownConversationError(conversation_id)
        if isinstance(reply, replies.LateReply):
            return None
        return publications(conversation_id, reply.rows)[0]

    @at_the_edge
    def kill(self, conversation_id: str, ending: Ending) -> Publication | None:
        args = (ending.status, codec.dump(ending.value))
        reply = replies.read(self._run("kill", conversation_id, *args))
        if isinstance(reply, replies.LateReply):
            return None
        return resumption(conversation_id, reply)


def _opening_fields(opening: Opening) -> tuple[str | bytes, ...]:
    """What open_many.lua has to know of each conversation."""
    entry, root, thread = opening.entry, opening.root, opening.thread
    return (
        entry.id, entry.from_id, opening.canvas, codec.delivery_row(entry), entry.envelope,
        root.id, codec.thread_row(root), codec.dump({root.chain[-1]: root.id}),
        thread.id, codec.thread_row(thread), codec.dump({thread.chain[-1]: thread.id}),
    )  # fmt: skip


def _beginning(conversation_id: str, reply: list[Any], entry: Delivery | None = None) -> Beginning:
    found = replies.read(reply)
    if isinstance(found, replies.BegunReply):
        return Begun(frame_of(conversation_id, found, entry))
    if isinstance(found, replies.ReleaseReply):
        return Release(codec.ending_from(found.status, found.value), found.attempt)
    return Skip(SkipReason(found.reason.decode()))
