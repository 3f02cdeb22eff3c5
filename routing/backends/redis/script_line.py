"""Scripts on a connection of one's own, because what a hop costs is mostly a round trip.

Around each command redis-py takes a connection from a pool and gives it back, looks after hooks,
retries and metrics: a third of what the round trip itself takes (docs/performance.md). Here each
thread of each process keeps one connection, on which a script is packed, sent and answered.
And the answer of a Redis on the same machine is there before this process would have gone to
sleep and been woken, so for a moment it only offers its processor to others and looks again.
Nothing is sent twice: whether an operation that was not answered may be repeated is its caller's
to know.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

#: seconds within which a Redis answers that is near: a commit of one hop takes it half of that
_NEAR_S = 0.0003
#: lets whoever else wants this processor have it first
_YIELD = getattr(os, "sched_yield", lambda: time.sleep(0))
#: seconds after which a connection that was not used may have been closed by the server
_IDLE_S = 1.0


class Call(NamedTuple):
    """One script to run."""

    script: str
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


class ScriptLine:
    """Runs scripts, known by name, on the Redis of a client."""

    def __init__(self, client: redis.Redis, sources: Mapping[str, str]) -> None:
        self._client = client
        self._sources = sources
        self._shas = {
            name: sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in sources.items()
        }
        self._own = threading.local()

    def run(self, *calls: Call, meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """The answers of scripts that are sent together, run in this order.

        `meanwhile` is called once they are sent, before the answers are waited for.

        Raises what redis-py raises: ResponseError for a script that failed, after all were run;
        ConnectionError or TimeoutError if it is not known which were.
        """
        replies = self._exchange(calls, meanwhile)
        for position, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):  # a Redis that never had it, or was restarted
                self._client.script_load(self._sources[calls[position].script])
                [replies[position]] = self._exchange(calls[position : position + 1])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _exchange(
        self, calls: Sequence[Call], meanwhile: Callable[[], None] | None = None
    ) -> list[Any]:
        connection = self._connection()
        pack, shas = connection.pack_command, self._shas
        packed: list[bytes] = []
        for script, keys, args in calls:
            packed += pack("EVALSHA", shas[script], len(keys), *keys, *args)
        own, began = self._own, time.perf_counter()
        try:
            # In one piece: a socket holds half as many small ones, and the next would wait.
            connection.send_packed_command([b"".join(packed)], check_health=False)
            if meanwhile is not None:
                meanwhile()
            elif own.is_near:
                _look_out(connection, began + _NEAR_S)
            answers = [_answer(connection) for _ in calls]
            own.is_near = time.perf_counter() - began < _NEAR_S
            return answers
        except BaseException:  # also what a signal raises: no answer may meet another question
            connection.disconnect()
            raise

    def _connection(self) -> Any:
        own, now = self._own, time.monotonic()
        if getattr(own, "pid", 0) != os.getpid():  # a child that was forked has its own
            pool = self._client.connection_pool
            own.connection = pool.connection_class(**pool.connection_kwargs)
            own.pid, own.is_near = os.getpid(), False
        elif now - own.used > _IDLE_S and _is_over(own.connection):
            own.connection.disconnect()
        own.used = now
        return own.connection

    def close(self) -> None:
        """Let go of this thread's connection."""
        if getattr(self._own, "pid", 0) == os.getpid():
            self._own.connection.disconnect()


def _look_out(connection: Any, until: float) -> None:
    """Return once there is something to read, at the latest at `until`."""
    poll = select.poll()
    poll.register(connection._sock, select.POLLIN)
    while not poll.poll(0) and time.perf_counter() < until:
        _YIELD()


def _is_over(connection: Any) -> bool:
    """Whether the server has closed it; there is nothing else to read between two questions."""
    try:
        return bool(connection.can_read(0))
    except (RedisError, OSError):
        return True


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as exc:
        return exc
