"""Opening many at once leaves in Redis what opening each alone leaves, to the last field.

`open_many.lua` writes with a third of the commands what `open.lua` writes step by step, so the
two can drift apart without a test of either noticing: a field that only the end of a conversation
reads, a score that only a sweep looks at, a key that never expires. Here everything that both
leave behind is read from the server and compared: each key, its type, every field, list entry,
member and score, and its expiry.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
import redis

from threadloom.routing.backends import RedisBackend, codec
from threadloom.routing.records import Delivery, Opening, Thread
from threadloom.routing.store import MARGIN_MS, ROOTS

#: of each key its type, all that stands in it, and the ms until it expires
Left: TypeAlias = dict[str, tuple[str, Any, int]]
Opens: TypeAlias = Callable[[RedisBackend, Sequence[Opening]], object]

TTL_S = 7_200
#: no key's expiry is told apart from another's by less; what a key lacks is MARGIN_MS at least
CLOCK_MS = MARGIN_MS // 4
#: a time that a script wrote down is later than this, and no other number here is
LONG_AGO_MS = 1_000_000_000_000
ODD = 'ñ|:"\\ {0}\n/é'


def opening(
    conversation_id: str = "c",
    *,
    chain: tuple[str, str] = ("console", "clerk"),
    threads: tuple[str, str] = ("t0", "t1"),
    repairs: tuple[str, str] = ("", ""),
    canvas: str = "",
    **entry: Any,
) -> Opening:
    """One opening; the pairs are of the injector's own thread and of the first listener's."""
    root = Thread(threads[0], chain[:1], repairs=repairs[0])
    thread = Thread(threads[1], chain, threads[0], repairs=repairs[1])
    given = {"payload_name": "Ask", "payload_path": "desk.Ask", "envelope": b"<Ask/>", **entry}
    first = Delivery(conversation_id, thread.id, chain[0], chain[1], **given)
    return Opening(conversation_id, first, root, thread, canvas)


def _mixed() -> list[Opening]:
    """Two hundred over all shards, of which neighbours have this or that in common."""
    return [
        opening(
            f"c{n}",
            chain=(f"console-{n % 2}", f"clerk-{n % 3}"),
            threads=(f"root-{n}", f"thread-{n}"),
            repairs=("" if n % 5 else f"root {n}", "" if n % 7 else f"thread {n}"),
            canvas="" if n % 11 else f'{{"n": {n}}}',
            payload_name=f"Ask{n % 4}",
            envelope=f"<Ask{n % 4}>{n}</Ask{n % 4}>".encode(),
        )
        for n in range(200)
    ]


CASES: dict[str, list[Opening]] = {
    "plain": [opening()],
    "of other names": [opening(chain=("external", "calculator.add"))],
    "of odd names": [opening(chain=(f"con{ODD}", f"clerk{ODD}"))],
    "odd ids": [opening(f"c{ODD}", threads=(f"t0{ODD}", f"t1{ODD}"))],
    "numbers for ids": [opening("1", threads=("2", "3"), chain=("4", "5.50"))],
    "ids like UUIDs": [opening(str(uuid.UUID(int=n)), threads=("a", "b")) for n in range(3)],
    "repaired": [opening(repairs=("", 'line 1: "<" has no end'))],
    "both threads repaired": [opening(repairs=("at the root", ODD))],
    "of no class of ours": [opening(payload_path="")],
    "of a large message": [opening(envelope=b"<Ask>" + b"x" * 100_000 + b"</Ask>")],
    "not in UTF-8 or XML": [opening(envelope=bytes(range(256)))],
    "not like most": [opening(depth=3, local_s=2.5, answer_within_ms=0, parent_id="p")],
    "with a canvas": [opening(canvas='{"link": ["ñ", {"a": 1}]}')],
    "senders that differ": [
        opening("c1"),
        opening("c17", chain=("other", "clerk")),
        opening("c33", repairs=("a root of its own", "")),
        opening("c49", chain=("console", "helper")),
    ],
    "many": _mixed(),
}


def alone(backend: RedisBackend, openings: Sequence[Opening]) -> list[str]:
    """Open each by itself, as sent; the ids of those that were known."""
    return [each.conversation_id for each in openings if not backend._opened_alone(each)]


def at_once(backend: RedisBackend, openings: Sequence[Opening]) -> list[str]:
    """Open all of them together; the ids of those that were known."""
    return list(backend.open_many(openings))


@pytest.fixture
def registries(redis_client: redis.Redis) -> Callable[[str], RedisBackend]:
    """Make a registry of an organism's own, on the test's empty Redis."""
    return lambda organism: RedisBackend(redis_client, organism=organism, ttl_s=TTL_S)


@pytest.mark.parametrize("case", CASES)
def test_many_leave_what_each_alone_leaves(
    registries: Callable[[str], RedisBackend], redis_client: redis.Redis, case: str
) -> None:
    """Fresh conversations: all their keys, and their entries in the lists of their shards."""
    for organism, opens in (("alone", alone), ("at-once", at_once)):
        assert opens(registries(organism), CASES[case]) == []
    same(redis_client, CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_the_same_of_what_is_known_in_part(
    registries: Callable[[str], RedisBackend], redis_client: redis.Redis, case: str
) -> None:
    """One has threads already, some are open already, and one is named twice."""
    openings = CASES[case]
    for organism, opens in (("alone", alone), ("at-once", at_once)):
        backend = registries(organism)
        first, last = openings[0], openings[-1]
        backend.child_thread(first.conversation_id, ROOTS, first.root.chain[0], "known-root")
        backend.child_thread(first.conversation_id, "known-root", "another", "known-child")
        opens(backend, openings[: len(openings) // 2])
        known = opens(backend, [*openings[1:], last, first])
        assert last.conversation_id in known
    same(redis_client, openings)


def same(client: redis.Redis, openings: Sequence[Opening]) -> None:
    """Compare what the organisms `alone` and `at-once` have left, key by key."""
    expected, found = (left(client, name, openings) for name in ("alone", "at-once"))
    assert expected.keys() == found.keys()
    assert len(expected) > 4 * len(openings), "four keys of each, and those of the shards"
    for key, (kind, value, expiry_ms) in expected.items():
        assert found[key][:2] == (kind, value), key
        assert abs(found[key][2] - expiry_ms) < CLOCK_MS, f"{key} expires at another time"


def left(client: redis.Redis, organism: str, openings: Sequence[Opening]) -> Left:
    """Everything that an organism has in Redis, each time told from its conversation's creation.

    Keys are named without the organism: `{shard}:<part>:<conversation>`, and those of a shard
    without the conversation.
    """
    prefix = f"tl:{organism}:"
    keys = {key.decode().removeprefix(prefix): key for key in client.scan_iter(f"{prefix}*")}
    owners = {name: (*name.split(":", 2), "")[2] for name in keys}
    created = {
        owners[name]: int(client.hget(key, "created") or 0)
        for name, key in keys.items()
        if ":conversation:" in name
    }
    assert created.keys() == {each.conversation_id for each in openings}
    kept: Left = {}
    for name, key in keys.items():
        kind = client.type(key).decode()
        content = _content(client, key, kind)
        if owners[name]:
            told: Any = [_since(created[owners[name]], each) for each in content]
        else:
            told = [_since(created[_owner(name, each[0])], each) for each in content]
        kept[name] = (kind, told if kind == "list" else sorted(told), int(client.pttl(key)))
    return kept


def _content(client: redis.Redis, key: bytes, kind: str) -> list[tuple[Any, ...]]:
    """The fields of a hash, the entries of a list, the members of a sorted set, decoded."""
    if kind == "hash":
        fields = client.hgetall(key).items()
        return [(field.decode(), repr(_decoded(value))) for field, value in fields]
    if kind == "list":
        return [(entry.decode(),) for entry in client.lrange(key, 0, -1)]
    assert kind == "zset", key
    return [(member.decode(), at) for member, at in client.zrange(key, 0, -1, withscores=True)]


def _decoded(value: bytes) -> Any:
    """A field's value; of an object its members, for JSON may be written in several ways."""
    return json.loads(value) if value[:2] == b'{"' else value


def _owner(name: str, member: str) -> str:
    """The conversation that a member of a shard's list belongs to."""
    if name.partition(":")[2] in ("due", "sent"):
        return codec.due_parts(member.encode())[0]
    return member.partition(":")[2]


def _since(created_ms: int, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with `<created>` for that time, and for a score what it lies behind it."""
    return tuple(
        (f"<created> + {value - created_ms:.0f}" if value > LONG_AGO_MS else value)
        if isinstance(value, float)
        else value.replace(f"{created_ms:015d}", "<created>").replace(str(created_ms), "<created>")
        for value in values
    )
