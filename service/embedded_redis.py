"""A private, real Redis for one machine, which `threadloom up` and the tests run on.

`EmbeddedRedis` starts its own `redis-server` on a unix socket in its own directory, without a TCP
port, so that it cannot collide with another Redis of the machine. This module does not know what
is stored; `service.deployment` chooses between the embedded Redis and one given by URL.

Each directory has at most one server. The server process itself holds the directory's lock file
(an inherited `flock`), so the lock lasts exactly as long as the server, even if the process that
started it is killed. A second process that finds the lock taken uses the running server.

The server ends with the process that started it, its owner. On Linux the kernel ensures this even
after `kill -9` (PR_SET_PDEATHSIG). On other systems a killed owner leaves its server running, and
the next `EmbeddedRedis` of that directory uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from platformdirs import user_state_path
from redis.backoff import NoBackoff
from redis.retry import Retry

from threadloom.config import PermanentError
from threadloom.service.lifeline import tied_to_owner
from threadloom.service.redis_binary import RedisServerBinary, find_redis_server

_log = logging.getLogger(__name__)

#: `sun_path` holds 108 bytes on Linux and 104 on macOS, including the final NUL. Redis 6.2
#: silently truncates a longer path.
_MAX_SOCKET_PATH_BYTES = 103
_STOP_TIMEOUT_S = 30.0
#: an empty database costs nothing, and each deployment of a test session uses its own database
DATABASES = 256
_POLL_S = 0.02
_LOG_TAIL_LINES = 12

_LOCK = "redis.lock"
_SOCKET = "redis.sock"
_PID = "redis.pid"
_LOG = "redis.log"
#: a file that holds the socket's path when the directory's path is too long for a socket
_SOCKET_ELSEWHERE = "redis.sock.path"


class EmbeddedRedisError(PermanentError):
    """The embedded Redis of a directory cannot run; the message ends with its last log lines."""

    def __init__(self, directory: str, reason: str, log_tail: str = "") -> None:
        super().__init__(directory, reason, log_tail)
        self.directory, self.reason, self.log_tail = directory, reason, log_tail

    def __str__(self) -> str:
        text = f"embedded Redis in {self.directory}: {self.reason}"
        return f"{text}\nlast lines of its log:\n{self.log_tail}" if self.log_tail else text


class EmbeddedRedis:
    """A running private Redis, from `start()` to `stop()` or as a context manager.

    directory: holds the socket, data, log and lock file; created if it does not exist.
        Default: the user's state directory for Threadloom.
    persistent: keep the data in an append-only file, synced each second. A power cut or a
        kill -9 of the server may lose the last second; the end of its owner loses nothing.
        If false, the data is in memory only.
    binary: a `redis-server` to use instead of the one that `find_redis_server` finds.
    start_timeout_s: how long the server may take until it answers, including loading its data.

    If another process already runs a server in this directory, that server is used with its own
    `persistent` and `binary`. It is not stopped here: it ends with its owner.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        persistent: bool = True,
        binary: Path | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        self.directory = (directory or user_state_path("threadloom") / "redis").absolute()
        self._persistent = persistent
        self._binary = binary
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._log_start_bytes = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def owns_server(self) -> bool:
        """Whether this object started the server, and will stop it."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The server's process id, as the server reports it. RuntimeError before `start()`."""
        if self._pid is None:
            raise RuntimeError("the embedded Redis is not started")
        return self._pid

    @property
    def socket_path(self) -> Path:
        """The unix socket; in a temporary directory if this directory's path is too long for it."""
        elsewhere = self.directory / _SOCKET_ELSEWHERE
        if elsewhere.exists():
            return Path(os.fsdecode(elsewhere.read_bytes()))
        return self.directory / _SOCKET

    def url(self, db: int = 0) -> str:
        """The URL for redis-py's `from_url`; valid once the server is started."""
        return f"unix://{quote(os.fsencode(self.socket_path))}?db={db}"

    def celery_url(self, db: int = 0) -> str:
        """The URL for Celery's broker and result backend; valid once the server is started."""
        return f"redis+socket://{quote(os.fsencode(self.socket_path))}?virtual_host={db}"

    def start(self) -> None:
        """Return once a server answers in this directory: a new one, or one that was running.

        Call it from the main thread: the kernel ends the server when the thread that started it
        ends. A second call does nothing.

        Raises: EmbeddedRedisError with the server's last log lines; RedisServerNotFoundError.
        """
        if self._pid is not None:
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the embedded Redis from the main thread")
        deadline_s = time.monotonic() + self._start_timeout_s
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep_others_out()
            while self._pid is None:
                self._start_or_join(deadline_s)
        except OSError as exc:
            raise self._error(f"cannot start here: {exc}") from exc

    def stop(self) -> None:
        """Stop the server if this object started it, after it wrote its data; safe to repeat."""
        process, self._process, self._pid = self._process, None, None
        if process is None:
            return
        process.terminate()  # on SIGTERM, Redis syncs its append-only file and shuts down
        try:
            status = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status != 0:
            _log.error("embedded_redis_died status=%d log=%s", status, self.directory / _LOG)
        self._clean_up()

    def _keep_others_out(self) -> None:
        """Take everybody else's rights from the directory; whoever may write there owns the data.

        Raises EmbeddedRedisError if the directory is another user's, or one for everybody's files.
        """
        found = self.directory.stat()
        if found.st_uid != os.geteuid():
            raise self._error(f"the directory belongs to another user (uid {found.st_uid})")
        if found.st_mode & stat.S_ISVTX and found.st_mode & stat.S_IWOTH:
            raise self._error("the directory is for everybody's files; name one of its own")
        if found.st_mode & 0o077:
            self.directory.chmod(stat.S_IMODE(found.st_mode) & 0o700)

    def _start_or_join(self, deadline_s: float) -> None:
        lock = self._try_lock()
        if lock is not None:
            try:
                self._launch(lock)
            finally:
                os.close(lock)  # the server inherited the descriptor and keeps the lock with it
            self._await_answer(deadline_s)
            return
        try:
            self._pid = self._running_server()
        except (redis.RedisError, OSError, ValueError) as exc:
            # Another process's server is starting or stopping: soon it answers or frees the lock.
            if time.monotonic() >= deadline_s:
                raise self._error(
                    f"another server holds {_LOCK} and does not answer ({exc}); "
                    f"see {_LOG}, end the process named in {_PID}, and start again"
                ) from exc
            time.sleep(_POLL_S)

    def _try_lock(self) -> int | None:
        lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _running_server(self) -> int:
        """Return the pid of the server that holds the lock, if it answers on our socket."""
        pid = _ask_pid(self.socket_path)
        written = int((self.directory / _PID).read_text())
        if pid != written:
            raise ValueError(f"process {pid} answers, {_PID} says {written}")
        return pid

    def _launch(self, lock: int) -> None:
        server = find_redis_server(self._binary)
        self._refuse_downgrade(server)
        self._remove_leftovers()
        self._place_socket()
        with open(self.directory / _LOG, "ab", opener=_for_us_alone) as log:
            self._log_start_bytes = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  (a program that told its version)
                tied_to_owner([str(server.path), *self._options()]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                umask=0o077,
                process_group=0,  # Ctrl-C must reach only the owner, which stops the server last
            )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "pidfile": str(self.directory / _PID),
            "logfile": str(self.directory / _LOG),
            "databases": str(DATABASES),
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _await_answer(self, deadline_s: float) -> None:
        process = self._process
        if process is None:
            raise RuntimeError("nothing was launched")
        try:
            while self._pid is None:
                self._pid = self._answer_of(process, deadline_s)
        except BaseException:
            process.kill()
            process.wait()
            self._process = None
            self._clean_up()
            raise

    def _answer_of(self, process: subprocess.Popen[bytes], deadline_s: float) -> int | None:
        if process.poll() is not None:
            raise self._error(f"redis-server ended with status {process.returncode}")
        try:
            pid = _ask_pid(self.socket_path)
        except (redis.RedisError, OSError) as exc:  # not listening yet, or loading its data
            if time.monotonic() >= deadline_s:
                reason = f"no answer within {self._start_timeout_s:g} s ({exc})"
                raise self._error(reason) from exc
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
            return None
        if pid != process.pid:
            raise self._error(f"process {pid} answers on its socket, not ours ({process.pid})")
        return pid

    def _refuse_downgrade(self, server: RedisServerBinary) -> None:
        """Raise if Redis before 7 would ignore the data of a newer Redis and start empty."""
        newer_data = self.directory / "appendonlydir"
        if self._persistent and server.version < (7, 0) and newer_data.exists():
            raise self._error(
                f"its data was written by Redis 7 or later, but {server.path} is version "
                f"{server.version[0]}.{server.version[1]}; install a newer redis-server, "
                f"or move {newer_data} away to start empty"
            )

    def _place_socket(self) -> None:
        if len(os.fsencode(self.socket_path)) <= _MAX_SOCKET_PATH_BYTES:
            return
        elsewhere = Path(tempfile.mkdtemp(prefix="threadloom-redis-", dir="/tmp"), _SOCKET)
        (self.directory / _SOCKET_ELSEWHERE).write_bytes(os.fsencode(elsewhere))
        _log.info(
            "embedded_redis_socket_elsewhere socket=%s reason=path of %s is too long for one",
            elsewhere,
            self.directory,
        )

    def _clean_up(self) -> None:
        # Under the lock: otherwise this could remove the socket of a server that starts right now.
        lock = self._try_lock()
        if lock is not None:
            self._remove_leftovers()
            os.close(lock)

    def _remove_leftovers(self) -> None:
        """Remove a stopped server's files; the caller holds the lock, so no server is running."""
        self.socket_path.unlink(missing_ok=True)
        if self.socket_path.parent != self.directory:
            with contextlib.suppress(FileNotFoundError):  # the system may have cleaned /tmp
                self.socket_path.parent.rmdir()
            (self.directory / _SOCKET_ELSEWHERE).unlink()
        (self.directory / _PID).unlink(missing_ok=True)

    def _error(self, reason: str) -> EmbeddedRedisError:
        tail = ""
        with contextlib.suppress(OSError), (self.directory / _LOG).open("rb") as log:
            log.seek(self._log_start_bytes)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
        return EmbeddedRedisError(str(self.directory), reason, tail)


def _for_us_alone(path: str, flags: int) -> int:
    """Open a file that nobody else may read, also if an earlier version made it readable."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _ask_pid(socket_path: Path) -> int:
    """Return the pid of the server that answers at `socket_path` and has loaded its data."""
    with redis.Redis(
        unix_socket_path=str(socket_path), socket_timeout=5, retry=Retry(NoBackoff(), 0)
    ) as client:
        client.ping()  # INFO alone answers while the data is still being loaded
        return int(client.info("server")["process_id"])
