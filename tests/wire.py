"""What a deployment sends to its Redis: messages, commands and their number, and events."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

import redis
from celery import Celery

from tests.harness import WAIT_S, Deployment, eventually
from threadloom.routing.backends.redis.scripts import load_scripts


class Wire:
    """What a deployment's Redis received while a test listened."""

    def __init__(self) -> None:
        #: what was pushed to the broker's queues
        self.messages: list[str] = []
        #: every command that a client sent, a script of ours as `EVALSHA <its name>`; the commands
        #: of scripts are not counted
        self.commands: Counter[str] = Counter()

    def tasks(self) -> set[str]:
        """Return the ids of the tasks that messages were for, each once.

        On a busy machine a worker may hold a message for seconds before it begins, so that the
        sweep takes the message for lost and publishes it again.
        """
        return {str(json.loads(message)["headers"]["id"]) for message in self.messages}

    def sizes(self) -> list[int]:
        """Return the bytes of each message, not counting the length of the sender's process id."""
        return [len(m) - len(json.loads(m)["headers"]["origin"]) for m in self.messages]


_SCRIPTS = {sha1(text.encode()).hexdigest(): name for name, text in load_scripts().items()}


def _named(command: str) -> str:
    words = command.split(" ", 3)
    if words[0] == "EVALSHA":
        return f"EVALSHA {_SCRIPTS.get(words[1], '?')}"
    # ZADD with XX: a worker reports that it still has its messages.
    return "ZADD XX" if words[0] == "ZADD" and "XX" in words[2:3] else words[0]


@contextmanager
def listening(deployment: Deployment) -> Iterator[Wire]:
    """Record everything that goes to the deployment's own, private Redis."""
    wire = Wire()
    client = redis.Redis.from_url(deployment.redis_url)
    database = client.connection_pool.connection_kwargs["db"]
    end = f"end of {database}"
    with client, client.monitor() as monitor:

        def listen() -> None:
            for seen in monitor.listen():
                command = str(seen["command"])
                if command == f"ECHO {end}":
                    return
                if seen["db"] != database:
                    continue
                if seen["client_type"] != "lua":
                    wire.commands[_named(command)] += 1
                if command.startswith("LPUSH "):
                    # MONITOR escapes what it shows.
                    wire.messages.append(command.split(" ", 2)[2].replace("\\\\", "\\"))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield wire
        finally:
            redis.Redis.from_url(deployment.redis_url).echo(end)
            thread.join(WAIT_S)


@contextmanager
def events_of(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """Record the events of tasks that workers and publishers send meanwhile, as Flower gets
    them.
    """
    seen: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, wakeup=False))
        thread.start()
        try:
            with app.events.default_dispatcher() as dispatcher:

                def listening() -> bool:
                    dispatcher.send("probe-sent")
                    return any(event["type"] == "probe-sent" for event in seen)

                eventually(listening, what="the first event")
            yield seen
        finally:
            receiver.should_stop = True
            thread.join(WAIT_S)
