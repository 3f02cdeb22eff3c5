"""The registry in Redis: one Lua script per operation, one hash tag per conversation.

Conversations are spread over a fixed number of *shards*, `{0}` to `{15}`, by the CRC32 of
their id. Everything of a conversation, and its entries in the shard's lists of what is due,
known and expiring, share the shard's hash tag: so each operation is atomic on Redis Cluster
too, and the lists can never disagree with the conversations. Keys are passed in KEYS and
described in `lua/prelude.lua`. Time is Redis's. Needs Redis 6.2 or newer.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar, cast

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # redis's own, which is what this module maps
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from threadloom.config import RegistryUnavailableError
from threadloom.routing.backends import codec
from threadloom.routing.backends.base import BEGIN_GRACE_MS, NOTHING, PUBLISH_GRACE_MS, Published
from threadloom.routing.backends.script_line import Call, ScriptLine
from threadloom.routing.errors import UnknownConversationError, UnknownThreadError
from threadloom.routing.records import (
    Beginning,
    Begun,
    BranchResult,
    CommitResult,
    Committed,
    Conversation,
    ConversationStatus,
    DeadLetter,
    Delivery,
    Due,
    Ending,
    Fenced,
    Join,
    JoinState,
    LogEntry,
    Opening,
    Publication,
    Release,
    Replan,
    Run,
    Skip,
    StoredResult,
    Thread,
    Transition,
    Wait,
)

SHARDS = 16

P = ParamSpec("P")
R = TypeVar("R")

_UNAVAILABLE = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
#: answers of a Redis that will do it later, for which redis-py has no class: another script runs
#: too long, the disk is full, too few replicas. Redis 6.2 wraps what a script met in a text.
_LATER = re.compile(r"(?:^|: -)(?:BUSY|MISCONF|NOREPLICAS|MASTERDOWN|OOM|READONLY) ")


def _at_the_edge(method: Callable[P, R]) -> Callable[P, R]:
    """Map what redis-py raises when Redis cannot answer to this project's error."""

    @functools.wraps(method)
    def mapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except _UNAVAILABLE as exc:
            raise RegistryUnavailableError(f"{type(exc).__name__}: {exc}") from exc
        except ResponseError as exc:
            if _LATER.search(str(exc)):
                raise RegistryUnavailableError(str(exc)) from exc
            raise

    return mapped


class RedisBackend:
    """A `SharedBackend` on one Redis, Sentinel or Cluster; safe to share between threads."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        organism: str,
        prefix: str = "tl:",
        ttl_s: int = 86_400,
        publish_grace_ms: int = PUBLISH_GRACE_MS,
        begin_grace_ms: int = BEGIN_GRACE_MS,
    ) -> None:
        self._redis = client
        self._prefix = f"{prefix}{organism}:"
        self._ttl_ms = ttl_s * 1000
        self._publish_grace_ms = publish_grace_ms
        self._begin_grace_ms = begin_grace_ms
        #: by shard: what the keys of a conversation begin with, and those that they share
        self._shard_keys = [
            (
                [f"{self._shard_key(shard, part)}:" for part in _OWN_KEYS],
                [self._shard_key(shard, part) for part in _SHARED_KEYS],
            )
            for shard in range(SHARDS)
        ]
        folder = files("threadloom.routing.backends") / "lua"
        prelude = (folder / "prelude.lua").read_text()
        sources = {name: prelude + (folder / f"{name}.lua").read_text() for name in _SCRIPTS}
        sources |= {name: (folder / f"{name}.lua").read_text() for name in (_WORKERS, _MANY)}
        self._line = ScriptLine(client, sources)
        self._workers_key = self._shard_key(0, "workers")

    # --- deliveries ---------------------------------------------------------------------

    @_at_the_edge
    def open(self, opening: Opening) -> Publication | None:
        args = self._opening_args(opening, mode=_KEEP)
        reply = self._run("open", opening.conversation, *args)
        return next(iter(_publications(opening.conversation, reply[1])), None)

    @_at_the_edge
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
        return [opening.conversation for opening in left if not self._opened_alone(opening)]

    def _opening_rounds(
        self, openings: Iterator[Opening]
    ) -> Iterator[tuple[list[list[Opening]], list[Call]]]:
        """So many openings at once, grouped by their shard, and a script's call for each group."""
        while some := list(itertools.islice(openings, _OPENED_AT_ONCE)):
            groups: dict[int, list[Opening]] = {}
            for opening in some:
                groups.setdefault(_shard_of(opening.conversation), []).append(opening)
            calls = [self._opening_call(shard, group) for shard, group in groups.items()]
            yield list(groups.values()), calls

    def _opening_call(self, shard: int, openings: Sequence[Opening]) -> Call:
        """Open conversations of one shard."""
        own, shared = self._shard_keys[shard]
        prefixes = [own[_OWN_KEYS.index(part)] for part in _OPENED_KEYS]
        keys = [shared[_SHARED_KEYS.index(part)] for part in ("index", "retention", "sent")]
        args: list[str | bytes | int] = [self._ttl_ms]
        for opening in openings:
            keys += [prefix + opening.conversation for prefix in prefixes]
            args += _opening_fields(opening)
        return Call(_MANY, keys, args)

    def _opened_alone(self, opening: Opening) -> bool:
        """Open one of which something is known; False if the conversation itself is."""
        args = self._opening_args(opening, mode=_SEND)
        return bool(self._run("open", opening.conversation, *args)[1])

    @_at_the_edge
    def open_and_begin(
        self, opening: Opening, *, owner: str, lease_ms: int, published: Published = NOTHING
    ) -> Beginning:
        args = self._opening_args(opening, mode=_BEGIN, owner=owner, lease_ms=lease_ms)
        reply = self._run_after(published, "open", opening.conversation, *args)
        return _beginning(opening.conversation, reply)

    def _opening_args(
        self, opening: Opening, *, mode: str, owner: str = "", lease_ms: int = 0
    ) -> tuple[str | bytes, ...]:
        entry = opening.entry
        header = codec.dump(
            {
                "from": entry.from_id,
                "entry": entry.id,
                "threads": [(t.id, codec.dump(t)) for t in (opening.root, opening.thread)],
                "children": opening.children,
                "ttl": self._ttl_ms,
                "mode": mode,
                "owner": owner,
                "lease": lease_ms,
            }
        )
        return header, opening.canvas, codec.delivery_row(entry), entry.envelope

    @_at_the_edge
    def begin(
        self,
        conversation: str,
        delivery: str,
        *,
        owner: str,
        lease_ms: int,
        published: Published = NOTHING,
    ) -> Beginning:
        reply = self._run_after(published, "begin", conversation, delivery, owner, lease_ms)
        return _beginning(conversation, reply)

    @_at_the_edge
    def commit(
        self, transition: Transition, *, run: Run | None = None, published: Published = NOTHING
    ) -> CommitResult:
        args = _commit_args(transition, run)
        reply = self._run_after(published, "commit", transition.conversation, *args)
        return _commit_result(transition, reply)

    @_at_the_edge
    def published(self, conversation: str, deliveries: Sequence[str]) -> None:
        if deliveries:
            self._run("published", conversation, self._begin_grace_ms, *deliveries)

    @_at_the_edge
    def retry(
        self, conversation: str, delivery: str, *, attempt: int, delay_ms: int, reason: str
    ) -> tuple[Publication, ...] | None:
        reply = self._run("retry", conversation, delivery, attempt, delay_ms, reason)
        return _publications(conversation, reply[1]) if reply[0] else None

    @_at_the_edge
    def released(self, conversation: str) -> None:
        self._run("released", conversation)

    @_at_the_edge
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

    @_at_the_edge
    def abandon(
        self, conversation: str, delivery: str, *, owner: str, reason: str
    ) -> Publication | None:
        rows = self._run("abandon", conversation, delivery, owner, reason)
        return next(iter(_publications(conversation, rows)), None)

    @_at_the_edge
    def answer(self, conversation: str, wait: str, delivery: Delivery) -> Publication | None:
        reply = self._run(
            "answer", conversation, wait, codec.delivery_row(delivery), delivery.envelope
        )
        if reply[0] == b"unknown":
            raise UnknownConversationError(conversation)
        return _publications(conversation, reply[1])[0] if reply[0] == b"ready" else None

    @_at_the_edge
    def kill(self, conversation: str, ending: Ending) -> Publication | None:
        reply = self._run("kill", conversation, ending.status, codec.dump(ending.value))
        return _resume(conversation, reply[1], reply[2]) if reply[0] else None

    # --- recovery -----------------------------------------------------------------------

    @_at_the_edge
    def due(self, *, limit: int) -> Sequence[Due]:
        return self._late("due", self._now_ms(), limit)

    def _late(self, part: str, until_ms: int, limit: int) -> list[Due]:
        """What stands in a list of all shards up to a time, the oldest first."""
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            key = self._shard_key(shard, part)
            pipe.zrangebyscore(key, "-inf", until_ms, start=0, num=limit, withscores=True)
        late = sorted((at, member) for found in pipe.execute() for member, at in found)
        return [codec.due_from(member) for _, member in late[:limit]]

    @_at_the_edge
    def reclaim(
        self, due: Due, *, retry_in_ms: int, silent_branch: bytes
    ) -> tuple[Publication, ...]:
        reply = self._run("reclaim", due.conversation, due.member, retry_in_ms, silent_branch)
        if len(reply) == 3:
            return (_resume(due.conversation, reply[1], reply[2]),)
        return _publications(due.conversation, reply[0])

    @_at_the_edge
    def unbegun(self, *, older_than_ms: int, limit: int) -> Sequence[Due]:
        return self._late("sent", self._now_ms() - older_than_ms, limit)

    @_at_the_edge
    def republish(self, unbegun: Due, *, older_than_ms: int) -> Publication | None:
        rows = self._run("republish", unbegun.conversation, unbegun.member, older_than_ms)
        return next(iter(_publications(unbegun.conversation, rows)), None)

    @_at_the_edge
    def requeued(self, deliveries: Sequence[tuple[str, str]]) -> None:
        self._line.run(
            *(
                self._call("requeued", conversation, (delivery,))
                for conversation, delivery in deliveries
            )
        )

    @_at_the_edge
    def expire(self, *, limit: int) -> int:
        now = self._now_ms()
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            kept = self._shard_key(shard, "retention")
            pipe.zrangebyscore(kept, "-inf", now, start=0, num=limit)
        members = [m.decode() for found in pipe.execute() for m in found][:limit]
        return sum(self._run("forget", m.partition(":")[2], m, 0) for m in members)

    # --- workers ------------------------------------------------------------------------

    @_at_the_edge
    def announce(self, worker: str, processes: int, *, ttl_ms: int) -> None:
        self._line.run(Call(_WORKERS, [self._workers_key], [ttl_ms, processes, worker]))

    @_at_the_edge
    def processes(self) -> int:
        return int(self._line.run(Call(_WORKERS, [self._workers_key], ["", "", ""]))[0])

    # --- dead letters -------------------------------------------------------------------

    @_at_the_edge
    def dead_letters(self, *, limit: int, before: str | None = None) -> Sequence[DeadLetter]:
        top = f"({before}".encode() if before else b"+"
        while members := self._newest("dead", top, limit):
            letters = self._dead_letters(members)
            if letters:
                return letters
        return []

    def _dead_letters(self, members: Sequence[bytes]) -> list[DeadLetter]:
        pipe = self._redis.pipeline(transaction=False)
        names = [codec.due_parts(member.partition(b":")[2]) for member in members]
        for conversation, delivery in names:
            fields = [f"{part}:{delivery}" for part in ("x", "r", "e", "s", "y")]
            pipe.hmget(self._keys(conversation)[1], fields)
        letters = []
        for member, (conversation, _), row in zip(members, names, pipe.execute(), strict=True):
            if row[0] == member:
                letters.append(_dead_letter(conversation, row))
            else:  # its conversation expired while no worker was there to sweep it
                self._redis.zrem(self._keys(conversation)[9], member)
        return letters

    @_at_the_edge
    def drop(self, conversation: str, delivery: str) -> bool:
        return bool(self._run("drop", conversation, delivery))

    @_at_the_edge
    def replay(self, conversation: str, delivery: str) -> Publication | None:
        rows = self._run("replay", conversation, delivery)
        return next(iter(_publications(conversation, rows)), None)

    # --- joins --------------------------------------------------------------------------

    @_at_the_edge
    def join(self, conversation: str, join: str) -> JoinState | None:
        fields = [f"{name}:{join}" for name in ("j", "ok", "ko", "fired")]
        row, ok, failed, fired = self._hmget(self._keys(conversation)[3], fields)
        if row is None:
            return None
        return JoinState(codec.read_join(row), int(ok or 0), int(failed or 0), fired is not None)

    @_at_the_edge
    def results(
        self, conversation: str, join: str, start: int, stop: int
    ) -> Sequence[StoredResult]:
        if stop <= start:
            return []
        fields = [f"v:{join}:{index}" for index in range(start, stop)]
        found = self._hmget(self._keys(conversation)[3], fields)
        results = []
        for index, value in enumerate(found, start):
            if value is not None:
                success, path, payload = value.split(b"|", 2)
                results.append(StoredResult(index, success == b"1", payload, path.decode()))
        return results

    @_at_the_edge
    def put_items(self, conversation: str, name: str, start: int, items: Sequence[bytes]) -> None:
        if items and not self._run("put_items", conversation, name, start, *items):
            raise UnknownConversationError(conversation)

    @_at_the_edge
    def items(self, conversation: str, name: str, start: int, stop: int) -> Sequence[bytes]:
        if stop <= start:
            return []
        fields = [f"i:{name}:{index}" for index in range(start, stop)]
        found = self._hmget(self._keys(conversation)[3], fields)
        return [item for item in found if item is not None]

    # --- threads ------------------------------------------------------------------------

    @_at_the_edge
    def put_thread(self, conversation: str, thread: Thread) -> bool:
        row = codec.dump(thread)
        return bool(self._run("put_thread", conversation, self._ttl_ms, thread.id, row))

    @_at_the_edge
    def child_thread(self, conversation: str, parent: str, name: str, proposed: str) -> Thread:
        reply = self._run("child_thread", conversation, self._ttl_ms, parent, name, proposed)
        if not reply:
            raise UnknownThreadError(parent)
        return codec.read_thread(reply)

    @_at_the_edge
    def thread(self, conversation: str, thread: str) -> Thread | None:
        [row] = self._hmget(self._keys(conversation)[2], [f"t:{thread}"])
        return codec.read_thread(row) if row is not None else None

    @_at_the_edge
    def threads(self, conversation: str) -> Mapping[str, Thread]:
        rows = cast(dict[bytes, bytes], self._redis.hgetall(self._keys(conversation)[2]))
        return {
            field[2:].decode(): codec.read_thread(row)
            for field, row in rows.items()
            if field.startswith(b"t:")
        }

    @_at_the_edge
    def drop_threads(self, conversation: str, threads: Sequence[str]) -> int:
        return int(self._run("drop_threads", conversation, *threads)) if threads else 0

    # --- reading ------------------------------------------------------------------------

    @_at_the_edge
    def conversation(self, conversation: str) -> Conversation | None:
        [found] = self._conversation_rows([conversation])
        return found

    @_at_the_edge
    def conversations(
        self, *, limit: int, before: tuple[int, str] | None = None
    ) -> Sequence[Conversation]:
        top = f"({before[0]:015d}:{before[1]}".encode() if before else b"+"
        page: list[Conversation] = []
        while len(page) < limit:
            members = self._newest("index", top, limit)
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

    def _newest(self, part: str, top: bytes, limit: int) -> list[bytes]:
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.zrevrangebylex(self._shard_key(shard, part), top, "-", start=0, num=limit)
        return sorted((m for found in pipe.execute() for m in found), reverse=True)[:limit]

    def _conversation_rows(self, ids: Sequence[str]) -> list[Conversation | None]:
        pipe = self._redis.pipeline(transaction=False)
        for conversation in ids:
            key = self._keys(conversation)
            pipe.hmget(key[0], _CONVERSATION_FIELDS)
        rows = pipe.execute() if ids else []
        pipe = self._redis.pipeline(transaction=False)
        for conversation, row in zip(ids, rows, strict=True):
            pipe.hget(self._keys(conversation)[1], b"r:" + (row[1] or b""))
        entries = pipe.execute() if ids else []
        return [
            _conversation(*item) if item[1][0] is not None else None
            for item in zip(ids, rows, entries, strict=True)
        ]

    @_at_the_edge
    def log(self, conversation: str, *, start: int = 0, limit: int = 1000) -> Sequence[LogEntry]:
        if limit < 1:
            return []
        key = self._keys(conversation)[4]
        lines = cast(list[bytes], self._redis.lrange(key, start, start + limit - 1))
        parsed = [line.split(b"|", 2) for line in lines]
        ids = [detail.decode() for _, event, detail in parsed if event in (b"message", b"late")]
        known = self._deliveries(conversation, ids)
        return [
            LogEntry(int(at), event.decode(), _log_detail(event, detail, known))
            for at, event, detail in parsed
        ]

    def _deliveries(self, conversation: str, ids: Iterable[str]) -> dict[str, Delivery]:
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        fields = [f"{part}:{i}" for i in wanted for part in ("r", "e")]
        found = self._hmget(self._keys(conversation)[1], fields)
        pairs = zip(wanted, found[0::2], found[1::2], strict=True)
        return {
            i: codec.delivery_from(row, envelope or b"")
            for i, row, envelope in pairs
            if row is not None
        }

    @_at_the_edge
    def context(
        self, conversation: str, thread: str, *, limit: int
    ) -> Sequence[tuple[int, Delivery]]:
        key = self._keys(conversation)[1]
        [count] = self._hmget(key, [f"n:{thread}"])
        first, last = max(0, int(count or 0) - limit), int(count or 0)
        if first == last:
            return []
        slots = self._hmget(key, [f"m:{thread}:{slot}" for slot in range(first, last)])
        ids = [slot.decode() for slot in slots if slot is not None]
        known = self._deliveries(conversation, ids)
        return [(first + n, known[i]) for n, i in enumerate(ids)]

    @_at_the_edge
    def waits(self, conversation: str) -> Sequence[Wait]:
        rows = cast(list[bytes], self._redis.hvals(self._keys(conversation)[5]))
        return [codec.read_wait(row) for row in rows]

    @_at_the_edge
    def stats(self) -> Mapping[str, int]:
        pipe = self._redis.pipeline(transaction=False)
        for shard in range(SHARDS):
            pipe.zcard(self._shard_key(shard, "index"))
            pipe.zcard(self._shard_key(shard, "due"))
            pipe.zcard(self._shard_key(shard, "sent"))
            pipe.zcard(self._shard_key(shard, "dead"))
        counts = pipe.execute()
        names = ("conversations", "due", "sent", "dead_letters")
        return {name: sum(counts[n :: len(names)]) for n, name in enumerate(names)}

    @_at_the_edge
    def clear(self) -> None:
        for shard in range(SHARDS):
            kept = self._shard_key(shard, "retention")
            while members := cast(list[bytes], self._redis.zrange(kept, 0, 499)):
                for member in members:
                    self._run("forget", member.decode().partition(":")[2], member, 1)
            self._redis.unlink(*(self._shard_key(shard, part) for part in ("due", "dead", "sent")))
        self._redis.unlink(self._workers_key)

    def close(self) -> None:
        self._line.close()
        self._redis.close()

    # --- plumbing -----------------------------------------------------------------------

    def _run(self, script: str, conversation: str, *args: str | bytes | int) -> Any:
        return self._line.run(self._call(script, conversation, args))[0]

    def _run_after(
        self, published: Published, script: str, conversation: str, *args: str | bytes | int
    ) -> Any:
        """Run a script, and before it `published` for what the broker has, in one round trip."""
        before = [
            self._call("published", name, (self._begin_grace_ms, *deliveries))
            for name, deliveries in published.items()
        ]
        return self._line.run(*before, self._call(script, conversation, args))[-1]

    def _call(self, script: str, conversation: str, args: Sequence[str | bytes | int]) -> Call:
        return Call(script, self._keys(conversation), (conversation, self._publish_grace_ms, *args))

    def _now_ms(self) -> int:
        seconds, micros = self._redis.time()
        return int(seconds * 1000 + micros // 1000)

    def _keys(self, conversation: str) -> list[str]:
        own, shared = self._shard_keys[_shard_of(conversation)]
        return [*(part + conversation for part in own), *shared]

    def _shard_key(self, shard: int, part: str) -> str:
        return f"{self._prefix}{{{shard}}}:{part}"

    def _hmget(self, key: str, fields: list[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._redis.hmget(key, fields))


def _shard_of(conversation: str) -> int:
    return zlib.crc32(conversation.encode()) % SHARDS


_SCRIPTS = (
    "open", "begin", "commit", "published", "released", "renew", "abandon", "answer", "kill",
    "reclaim", "forget", "put_thread", "child_thread", "drop_threads", "retry", "republish",
    "drop", "replay", "put_items", "requeued",
)  # fmt: skip
#: scripts that work on no conversation, or on many
_WORKERS, _MANY = "workers", "open_many"
#: conversations that are opened in one round trip: about as many as fit into a socket's buffer
_OPENED_AT_ONCE = 64
#: what `open` does with a conversation's first delivery: see open.lua
_KEEP, _SEND, _BEGIN = "keep", "send", "begin"
#: in the order of KEYS; `lua/prelude.lua` says what is in each
_OWN_KEYS = ("conversation", "deliveries", "threads", "joins", "log", "waits")
_OPENED_KEYS = ("conversation", "deliveries", "threads", "log")
_SHARED_KEYS = ("due", "index", "retention", "dead", "sent")
_CONVERSATION_FIELDS = [
    "status", "entry", "from", "created", "updated", "count", "in_flight", "waiting", "value",
]  # fmt: skip


def _opening_fields(opening: Opening) -> tuple[str | bytes, ...]:
    """What open_many.lua has to know of each conversation."""
    entry, root, thread = opening.entry, opening.root, opening.thread
    return (
        entry.id, entry.from_id, opening.canvas, codec.delivery_row(entry), entry.envelope,
        root.id, codec.dump(root), codec.dump({root.chain[-1]: root.id}),
        thread.id, codec.dump(thread), codec.dump({thread.chain[-1]: thread.id}),
    )  # fmt: skip


def _publications(conversation: str, rows: Iterable[bytes]) -> tuple[Publication, ...]:
    return tuple(Publication.of(conversation, codec.delivery_from(row)) for row in rows)


def _resume(conversation: str, canvas: bytes, entry_row: bytes) -> Publication:
    return Publication.of(conversation, codec.delivery_from(entry_row), canvas.decode())


def _beginning(conversation: str, reply: list[Any]) -> Beginning:
    kind = reply[0]
    if kind == b"begun":
        return Begun(codec.frame_from(conversation, reply))
    if kind == b"release":
        return Release(codec.ending_from(reply[1], reply[2]), reply[3])
    return Skip(reply[1].decode())


def _commit_args(transition: Transition, run: Run | None) -> list[str | bytes]:
    later = [(r, r.then_delivery) for r in transition.results if r.then_delivery is not None]
    created = [*transition.deliveries, *(delivery for _, delivery in later)]
    # ARGV[4] is the first row: positions count from 1 behind conversation, grace and header.
    position = {
        id(result): 4 + 2 * (len(transition.deliveries) + n) for n, (result, _) in enumerate(later)
    }
    ending = transition.ending
    header: dict[str, Any] = {
        "delivery": transition.delivery,
        "attempt": transition.attempt,
        "max_deliveries": transition.max_deliveries,
        "created": len(created),
        "threads": [(t.id, codec.dump(t)) for t in transition.threads],
        "children": transition.children,
        "joins": [_join_row(join) for join in transition.joins],
        "results": [_result_row(r, position.get(id(r), 0)) for r in transition.results],
        "waits": [(w.id, codec.dump(w)) for w in transition.waits],
        "refills": transition.refills,
        "ending": (ending.status, codec.dump(ending.value)) if ending else None,
        "silent": transition.silent_branch.decode(),
        "note": transition.note,
        "dead_letter": transition.dead_letter,
        "run": (run.id, run.owner, run.lease_ms, run.within_s, run.lanes) if run else None,
    }
    said = {name: value for name, value in header.items() if value or name in _ALWAYS}
    args: list[str | bytes] = [codec.dump(said)]
    for delivery in created:
        args += (codec.delivery_row(delivery), delivery.envelope)
    return args


#: what a commit says even if it is nothing
_ALWAYS = ("delivery", "attempt", "created")


def _join_row(join: Join) -> tuple[str, str, str, int]:
    label = f"{join.kind}:{join.label}" if join.label else ""
    return join.id, codec.dump(join), label, join.released or join.total


def _result_row(result: BranchResult, position: int) -> dict[str, Any]:
    thread = result.then_thread
    return {
        "join": result.branch.join,
        "index": result.branch.index,
        "success": result.success,
        "path": result.payload_path,
        "payload": result.payload.decode(),
        "next": position,
        "thread": (thread.id, codec.dump(thread)) if thread else None,
    }


def _commit_result(transition: Transition, reply: list[Any]) -> CommitResult:
    conversation = transition.conversation
    kind = reply[0]
    if kind == b"fenced":
        return Fenced()
    if kind == b"replan":
        _, count, clashes, over_limit, label_taken = reply
        children = {(parent, name): child for parent, name, child in json.loads(clashes)}
        return Replan(count, children, bool(over_limit), bool(label_taken))
    _, rows, ended, taken = reply
    release, resume = None, None
    if ended:
        status, value, canvas, entry = ended
        release = codec.ending_from(status, value)
        resume = _resume(conversation, canvas, entry)
    return Committed(
        publications=_publications(conversation, rows),
        release=release,
        resume=resume,
        adopted=kind == b"adopted",
        begun=_taken(transition, taken) if taken else None,
    )


def _taken(transition: Transition, reply: list[Any]) -> Begun:
    if reply[2] is not None:
        return Begun(codec.frame_from(transition.conversation, reply))
    name = reply[3].decode()
    later = (result.then_delivery for result in transition.results)
    created = (*transition.deliveries, *(d for d in later if d is not None))
    delivery = next(delivery for delivery in created if delivery.id == name)
    return Begun(codec.frame_from(transition.conversation, reply, delivery))


def _dead_letter(conversation: str, fields: Sequence[bytes]) -> DeadLetter:
    member, row, envelope, state, reason = fields
    return DeadLetter(
        conversation,
        codec.delivery_from(row, envelope),
        int(member.partition(b":")[0]),
        int(state.split(b"|")[1]),
        reason.decode(),
        member.decode(),
    )


def _conversation(conversation: str, row: list[Any], entry: bytes | None) -> Conversation:
    status, _, from_id, created, updated, count, in_flight, waiting, value = row
    shown = ConversationStatus(status.decode())
    if shown is ConversationStatus.RUNNING and 0 < int(waiting) == int(in_flight):
        shown = ConversationStatus.WAITING
    return Conversation(
        id=conversation,
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
    if event in (b"message", b"late"):
        return {"delivery": known[text]} if text in known else {"id": text}
    if event == b"waiting":
        return cast(Mapping[str, Any], json.loads(text))
    if event in (b"note", b"abandoned", b"retry"):
        delivery, what = json.loads(text)
        return {"id": delivery, "text": what}
    if event in (b"dead_letter", b"replayed"):
        return {"id": text}
    return {"text": text}
