"""The registry of the processes of one machine: one `MemoryBackend` in a manager process.

`manager_server.py` is that process, a `multiprocessing` manager on a unix socket; this is what
the others call it by. They find it by a *door*: a file that only its owner may read, with the
socket's address and the key. Each side proves that it has the key before anything is unpickled.

It speaks the manager's protocol itself, because multiprocessing's own proxies wait for an
answer without a time limit, and share their connection with children that were not forked by
multiprocessing: Celery's are forked by billiard.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.managers import RemoteError
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from threadloom.config import RegistryUnavailableError
from threadloom.routing.backends.memory import MemoryBackend
from threadloom.routing.store import BEGIN_GRACE_MS, FORMAT, MAX_AGE_S, PUBLISH_GRACE_MS

P = ParamSpec("P")
R = TypeVar("R")

#: what the manager calls a registry; it makes one for each organism that asks
REGISTRY = "registry"
#: seconds without a byte after which a manager counts as unavailable
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Door:
    """Where a manager listens, and the key that lets in."""

    address: str
    key: bytes
    #: the manager's process
    pid: int = 0

    @classmethod
    def read(cls, file: Path) -> Door:
        """What a manager wrote into this file.

        Raises FileNotFoundError: there is no manager; PermissionError: others may have read or
        written it; ValueError: it is no such file.
        """
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(f"{file} has to be yours, and readable to nobody else")
            content = opened.read()
        try:
            fields = json.loads(content)
            return cls(str(fields["address"]), bytes.fromhex(fields["key"]), int(fields["pid"]))
        except (ValueError, TypeError, KeyError) as exc:
            raise ValueError(f"{file} is not a manager's: {exc!r}") from exc

    def write(self, file: Path) -> None:
        """Write the file at once or not at all, for its owner only."""
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as opened:
            fields = {"address": self.address, "key": self.key.hex(), "pid": self.pid}
            json.dump(fields, opened)
        draft.replace(file)


class _Line:
    """A connection of one thread of one process to the manager."""

    def __init__(self, file: Path, timeout_s: float, registry: Mapping[str, Any]) -> None:
        self.pid = os.getpid()
        door = Door.read(file)
        # The manager serves a connection for its own functions once.
        with _connection(door, timeout_s) as asking:
            asking.send((None, "create", (REGISTRY,), registry))
            self._registry, _ = _returned(asking.recv())
        self._connection = _connection(door, timeout_s)
        self._connection.send((None, "accept_connection", (threading.current_thread().name,), {}))
        _returned(self._connection.recv())

    def send(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._connection.send((self._registry, method, args, kwargs))

    def answer(self) -> Any:
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()


def _connection(door: Door, timeout_s: float) -> Connection:
    with socket.socket(socket.AF_UNIX) as plug:
        limit = struct.pack("ll", int(timeout_s), round(timeout_s % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plug.setsockopt(socket.SOL_SOCKET, option, limit)
        plug.connect(door.address)
        connection = Connection(plug.detach())
    try:
        answer_challenge(connection, door.key)
        deliver_challenge(connection, door.key)
    except BaseException as exc:
        connection.close()
        if isinstance(exc, AssertionError):  # Python 3.11's word for no challenge at all
            raise AuthenticationError("that is no manager") from exc
        raise
    return connection


def _returned(answer: tuple[str, Any]) -> Any:
    """What the manager returned, or raise what it raised."""
    kind, result = answer
    if kind == "#RETURN":
        return result
    raise result if kind == "#ERROR" else RemoteError(result)


def _remote(
    method: Callable[Concatenate[MemoryBackend, P], R],
) -> Callable[Concatenate[ManagerBackend, P], R]:
    """The same method, carried out by the manager."""
    name = method.__name__

    @functools.wraps(method)
    def ask(self: ManagerBackend, /, *args: P.args, **kwargs: P.kwargs) -> R:
        sent = tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)
        return cast(R, self._ask(name, sent, kwargs))

    return ask


class ManagerBackend:
    """A `SharedBackend` for the processes of one machine.

    `file` is the manager's door. The first process that asks for an organism's registry says
    what it is like (`ttl_s` and the graces). Threads and forked children may share this object:
    each has a connection of its own, made when it is first used, and again after a loss.
    """

    def __init__(
        self,
        file: Path,
        *,
        organism: str,
        ttl_s: int = 86_400,
        max_age_s: int = MAX_AGE_S,
        publish_grace_ms: int = PUBLISH_GRACE_MS,
        begin_grace_ms: int = BEGIN_GRACE_MS,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._file = file
        self._timeout_s = timeout_s
        self._registry = {
            "organism": organism,
            "ttl_s": ttl_s,
            "max_age_s": max_age_s,
            "publish_grace_ms": publish_grace_ms,
            "begin_grace_ms": begin_grace_ms,
        }
        self._own = threading.local()

    open = _remote(MemoryBackend.open)
    open_many = _remote(MemoryBackend.open_many)
    open_and_begin = _remote(MemoryBackend.open_and_begin)
    begin = _remote(MemoryBackend.begin)
    commit = _remote(MemoryBackend.commit)
    published = _remote(MemoryBackend.published)
    retry = _remote(MemoryBackend.retry)
    released = _remote(MemoryBackend.released)
    renew = _remote(MemoryBackend.renew)
    abandon = _remote(MemoryBackend.abandon)
    answer = _remote(MemoryBackend.answer)
    kill = _remote(MemoryBackend.kill)
    due = _remote(MemoryBackend.due)
    reclaim = _remote(MemoryBackend.reclaim)
    unbegun = _remote(MemoryBackend.unbegun)
    addressed = _remote(MemoryBackend.addressed)
    republish = _remote(MemoryBackend.republish)
    requeued = _remote(MemoryBackend.requeued)
    expire = _remote(MemoryBackend.expire)
    now_ms = _remote(MemoryBackend.now_ms)
    announce = _remote(MemoryBackend.announce)
    processes = _remote(MemoryBackend.processes)
    eviction_policy = _remote(MemoryBackend.eviction_policy)
    dead_letters = _remote(MemoryBackend.dead_letters)
    drop = _remote(MemoryBackend.drop)
    refuse = _remote(MemoryBackend.refuse)
    refused = _remote(MemoryBackend.refused)
    drop_refused = _remote(MemoryBackend.drop_refused)
    replay = _remote(MemoryBackend.replay)
    join = _remote(MemoryBackend.join)
    results = _remote(MemoryBackend.results)
    put_items = _remote(MemoryBackend.put_items)
    items = _remote(MemoryBackend.items)
    put_thread = _remote(MemoryBackend.put_thread)
    child_thread = _remote(MemoryBackend.child_thread)
    thread = _remote(MemoryBackend.thread)
    threads = _remote(MemoryBackend.threads)
    drop_threads = _remote(MemoryBackend.drop_threads)
    conversation = _remote(MemoryBackend.conversation)
    conversations = _remote(MemoryBackend.conversations)
    log = _remote(MemoryBackend.log)
    context = _remote(MemoryBackend.context)
    waits = _remote(MemoryBackend.waits)
    stats = _remote(MemoryBackend.stats)
    clear = _remote(MemoryBackend.clear)

    def check_format(self) -> None:
        """See `SharedBackend`: the manager may have been started by another version."""
        self._ask("check_format", (FORMAT,), {})

    def close(self) -> None:
        """Let go of this thread's connection."""
        self._hang_up()

    # --- plumbing -----------------------------------------------------------------------

    def _ask(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            answer = self._exchange(method, args, kwargs)
        except BlockingIOError as exc:
            text = f"the manager did not answer within {self._timeout_s} s"
            raise RegistryUnavailableError(text) from exc
        except (OSError, EOFError, AuthenticationError) as exc:
            raise RegistryUnavailableError(f"the manager: {exc!r}") from exc
        return _returned(answer)

    def _exchange(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            line = self._line()
            try:
                line.send(method, args, kwargs)
            except BrokenPipeError:  # that manager is gone, and was asked nothing
                self._hang_up()
                line = self._line()
                line.send(method, args, kwargs)
            return line.answer()
        except BaseException:  # also what a signal raises: this answer must not meet another call
            self._hang_up()
            raise

    def _line(self) -> _Line:
        line: _Line | None = getattr(self._own, "line", None)
        if line is None or line.pid != os.getpid():
            line = self._own.line = _Line(self._file, self._timeout_s, self._registry)
        return line

    def _hang_up(self) -> None:
        line: _Line | None = self._own.__dict__.pop("line", None)
        if line is not None:
            line.close()
