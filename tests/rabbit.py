"""The RabbitMQ that tests run on: each caller gets a virtual host of its own there.

THREADLOOM_TEST_AMQP_URL names the server; without it the server is the local one, as guest. If the
server runs on this machine and we may use `rabbitmqctl`, that makes the virtual hosts, otherwise
the management API on port 15672 does. Nothing outside these virtual hosts is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.error import URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from kombu import Connection

URL_VARIABLE = "THREADLOOM_TEST_AMQP_URL"
LOCAL_URL = "amqp://guest:guest@127.0.0.1:5672//"
_MANAGEMENT_PORT = 15672
_TIMEOUT_S = 30.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


class RabbitUnavailableError(Exception):
    """There is no RabbitMQ, or none on which a virtual host can be made."""


class Administration(Protocol):
    """What tests need of a RabbitMQ beyond AMQP. Raises RabbitUnavailableError."""

    def answers(self) -> None:
        """Return if it works, and raise otherwise."""

    def add(self, virtual_host: str, user: str) -> None:
        """Make a virtual host in which `user` may do everything."""

    def delete(self, virtual_host: str) -> None:
        """Remove a virtual host with everything in it."""

    def close_connections(self, virtual_host: str) -> None:
        """Make the server close every connection to a virtual host."""


class Rabbit:
    """A RabbitMQ that answers. Raises RabbitUnavailableError."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get(URL_VARIABLE, LOCAL_URL)
        self._parts = urlsplit(self.url)
        self._user = unquote(self._parts.username or "guest")
        _connect(self.url)
        self._administration = self._administered()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._parts.hostname or "127.0.0.1", self._parts.port or 5672

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """The URL of a new, empty virtual host, which is removed afterwards."""
        name = f"threadloom-test-{uuid.uuid4().hex[:12]}"
        self._administration.add(name, self._user)
        try:
            url = self._parts._replace(path=f"/{name}").geturl()
            _connect(url)
            yield url
        finally:
            self._administration.delete(name)

    def close_connections(self, url: str) -> None:
        """Make the server close every connection to the virtual host that `url` names."""
        self._administration.close_connections(urlsplit(url).path[1:])

    def _administered(self) -> Administration:
        password = self._parts.password or "guest"
        ways: list[Administration] = [_ManagementApi(self.address[0], self._user, password)]
        if self._parts.hostname in _LOCAL and shutil.which("rabbitmqctl"):
            ways.insert(0, _Rabbitmqctl(self.address[1]))
        refusals = []
        for way in ways:
            try:
                way.answers()
            except RabbitUnavailableError as exc:
                refusals.append(str(exc))
            else:
                return way
        raise RabbitUnavailableError(f"no way to make a virtual host: {'; '.join(refusals)}")


class _Rabbitmqctl:
    """RabbitMQ's own tool, which only the server's user or root may run.

    It finds a server by its name and not by its port, so `answers` checks that the server listens
    on the port.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    def answers(self) -> None:
        listeners = json.loads(self._run("status", "--formatter", "json"))["listeners"]
        if self._port not in [listener["port"] for listener in listeners]:
            raise RabbitUnavailableError(f"rabbitmqctl: knows no server on port {self._port}")

    def add(self, virtual_host: str, user: str) -> None:
        self._run("add_vhost", virtual_host)
        self._run("set_permissions", "-p", virtual_host, user, ".*", ".*", ".*")

    def delete(self, virtual_host: str) -> None:
        self._run("delete_vhost", virtual_host)

    def close_connections(self, virtual_host: str) -> None:
        self._run("close_all_connections", "--vhost", virtual_host, "a test")

    def _run(self, *words: str) -> str:
        try:
            done = subprocess.run(
                ["rabbitmqctl", "--quiet", *words],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise RabbitUnavailableError(f"rabbitmqctl: {exc}") from exc
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise RabbitUnavailableError(f"rabbitmqctl {words[0]}: {said[:300]}")
        return done.stdout


class _ManagementApi:
    """The HTTP API of RabbitMQ's management plugin."""

    def __init__(self, host: str, user: str, password: str) -> None:
        self._root = f"http://{host}:{_MANAGEMENT_PORT}/api"
        secret = b64encode(f"{user}:{unquote(password)}".encode()).decode()
        self._headers = {"Content-Type": "application/json", "Authorization": f"Basic {secret}"}

    def answers(self) -> None:
        self._call("GET", "vhosts")

    def add(self, virtual_host: str, user: str) -> None:
        self._call("PUT", f"vhosts/{virtual_host}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"permissions/{virtual_host}/{quote(user, safe='')}", everything)

    def delete(self, virtual_host: str) -> None:
        self._call("DELETE", f"vhosts/{virtual_host}")

    def close_connections(self, virtual_host: str) -> None:
        for connection in self._call("GET", f"vhosts/{virtual_host}/connections"):
            self._call("DELETE", f"connections/{quote(connection['name'], safe='')}")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = Request(
            f"{self._root}/{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers=self._headers,
            method=method,
        )
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"null")
        except (URLError, OSError) as exc:
            raise RabbitUnavailableError(f"{self._root}: {exc}") from exc


def _connect(url: str) -> None:
    with Connection(url, connect_timeout=5) as connection:
        try:
            connection.connect()
        except Exception as exc:  # each library below has errors of its own
            shown = urlsplit(url)._replace(netloc=url.rpartition("@")[2].partition("/")[0]).geturl()
            raise RabbitUnavailableError(f"no RabbitMQ at {shown}: {exc}") from exc
