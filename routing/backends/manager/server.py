"""The process behind `ManagerBackend`: a `multiprocessing` manager that hosts the registries.

`threadloom up` starts it; by hand it is `python -m routing.backends.manager.server DOOR`. It
keeps everything in memory: conversations end with it. It serves whoever proves that they have
the key, and unpickles nothing from anybody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, NoReturn

from threadloom.routing.backends.manager.backend import REGISTRY, Door
from threadloom.routing.backends.memory import MemoryBackend
from threadloom.routing.store import SharedBackend

#: `sun_path` holds 104 bytes on macOS, 108 on Linux, with the closing NUL
_MAX_SOCKET_PATH_BYTES = 103
_KEY_BYTES = 32
#: exit status when another manager has this door
TAKEN = 3

METHODS = tuple(name for name in dir(SharedBackend) if name[0] != "_")


def serve(file: Path) -> NoReturn:
    """Host registries behind the door `file` until SIGTERM or SIGINT, then exit.

    In a process's main thread, and the process is its own. Exits with status TAKEN if another
    one is behind this door. Door and socket go when it ends; what a killed one left is replaced.
    """
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):  # a script's `&` has had SIGINT ignored
        signal.signal(number, lambda *_: sys.exit())
    registries: dict[str, MemoryBackend] = {}

    def registry(organism: str, **options: Any) -> MemoryBackend:
        """The organism's; the manager calls this for one at a time."""
        if organism not in registries:
            registries[organism] = MemoryBackend(organism=organism, **options)
        return registries[organism]

    class Manager(BaseManager):
        """What it makes stands in its class, so the class is this call's own."""

    Manager.register(REGISTRY, registry, exposed=METHODS)
    with _locked(file), _socket_place(file) as address:
        file.unlink(missing_ok=True)  # of one that was killed
        key = secrets.token_bytes(_KEY_BYTES)
        server = Manager(address, key).get_server()
        try:
            Door(address, key, os.getpid()).write(file)
            server.serve_forever()
        finally:
            file.unlink(missing_ok=True)
    raise AssertionError("a manager's server exits")


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the door's lock; it is let go of however this process ends."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"a manager serves {file} already\n")
        sys.exit(TAKEN)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _socket_place(file: Path) -> Iterator[str]:
    """Where the socket goes: beside the door, or where a path is short enough for one."""
    beside = file.with_name(f"{file.name}.sock").absolute()
    if len(os.fsencode(beside)) <= _MAX_SOCKET_PATH_BYTES:
        beside.unlink(missing_ok=True)
        try:
            yield str(beside)
        finally:
            beside.unlink(missing_ok=True)
        return
    elsewhere = tempfile.mkdtemp(prefix="threadloom-manager-", dir="/tmp")  # made 0700
    try:
        yield str(Path(elsewhere, "sock"))
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
