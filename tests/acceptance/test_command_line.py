"""The command line as people use it: real processes, and the embedded Redis they bring.

The state directory is a temporary one, so nothing of the user's is touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness import ORGANISMS, ROOT, START_TIMEOUT_S, WAIT_S, eventually
from threadloom.service.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the state directory cannot be moved"
)


class Terminal:
    """A shell in a folder with the shop's organism.yaml, and a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(self.state),
            "COLUMNS": "100",
            # Must not lead the worker anywhere.
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
            "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0",
        }
        for file in (ORGANISMS / "shop").glob("*.*"):
            (directory / file.name).write_bytes(file.read_bytes())
        # A module that handlers may have, and that must not be taken for the standard one.
        (directory / "queue.py").write_text("")
        self._ups: list[Up] = []

    def run(
        self, *arguments: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`threadloom` with these arguments, which has to end with this status."""
        done = subprocess.run(
            command(arguments),
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, status: int = 0, stdin: str = "") -> Any:
        """As `run` with --json, and what it printed."""
        return json.loads(self.run(*arguments, "--json", status=status, stdin=stdin).stdout)

    def up(self, *arguments: str) -> Up:
        """`threadloom up`, returning when it has said that it is ready."""
        up = Up(self, arguments)
        self._ups.append(up)
        up.wait_ready()
        return up

    def close(self) -> None:
        """End whatever a failed test left running."""
        for up in self._ups:
            if up.process.poll() is None:
                up.process.kill()
                up.process.wait()


class Up:
    """A running `threadloom up` with its two outputs in files."""

    def __init__(self, terminal: Terminal, arguments: Sequence[str]) -> None:
        self._out = terminal.directory / "up.out"
        self._log = terminal.directory / "up.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command(("up", "--concurrency", "2", *arguments)),
                cwd=terminal.directory,
                env=terminal.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")  # perhaps cut in the middle of a character

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.out + self.log
            return "● ready" in self.out

        eventually(ready, timeout_s=START_TIMEOUT_S, what="up is ready")

    def worker(self) -> psutil.Process:
        """The worker's main process."""
        children = psutil.Process(self.process.pid).children()
        [found] = [child for child in children if "celery" in child.cmdline()]
        return found

    def ended(self) -> int:
        """Its exit status."""
        return self.process.wait(WAIT_S)


def command(arguments: Sequence[str]) -> list[str]:
    # As the installed command is: the folder is not in front of the standard library.
    return [sys.executable, "-P", "-m", "threadloom", *arguments]


@pytest.fixture(scope="module")
def terminal(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    """A terminal for the tests of this module; without a redis-server it skips, as others do."""
    found = Terminal(tmp_path_factory.mktemp("shop"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def up(terminal: Terminal) -> Up:
    """The shop, running."""
    return terminal.up()


def test_up_says_what_runs_and_how_to_go_on(terminal: Terminal, up: Up) -> None:
    """The status on standard output names everything; the log is on standard error."""
    for text in ("shop", "counter, till, night.watch", str(terminal.state), "Ctrl-C"):
        assert text in up.out
    assert """threadloom send counter '{"pieces": 1}' --wait""" in up.out
    assert "ready." in up.log


def test_send_waits_for_the_value(up: Up, terminal: Terminal) -> None:
    """For people the value, with what steers a terminal shown by code; for programs JSON."""
    shown = terminal.run("send", "counter", '{"pieces": 2}', "--wait")
    assert shown.stdout.startswith("Receipt\n")
    assert "500 [bold]50%[/bold] off \\u009b31m\\u202e<&>" in shown.stdout
    assert shown.stderr == "", "a progress line is for terminals"
    sent = terminal.json(
        "send", "counter", "-", "--wait", stdin="<Order><pieces>3</pieces></Order>"
    )
    assert sent["status"] == "completed"
    assert sent["value"]["payload"]["text"].startswith("750 ")
    assert sent["error"] is None


def test_a_failed_conversation_can_be_read(up: Up, terminal: Terminal) -> None:
    """Exit status 1 with code and message; the thread shows the handler's own words, as text."""
    failed = terminal.run("send", "till", '{"pieces": -1}', "--wait", "--id", "bad", status=1)
    assert failed.stdout == ""
    assert "handler: The message could not be processed." in failed.stderr
    shown = terminal.run("thread", "bad").stdout
    assert "ValueError: [bold]50%[/bold] off \\u009b31m\\u202e<&>" in shown
    assert "\x9b" not in shown


def test_a_wait_that_takes_too_long_says_where_to_look(
    up: Up, terminal: Terminal, tmp_path: Path
) -> None:
    """Exit status 3; the conversation goes on, and the same command waits for it again."""
    order = json.dumps({"until_file": str(tmp_path / "morning")})
    late = terminal.run(
        "send", "night.watch", order, "--wait", "--timeout", "0.3", "--id", "nap", status=3
    )
    assert "it is running" in late.stderr
    assert "threadloom thread nap" in late.stderr
    assert "no worker" not in late.stderr
    (tmp_path / "morning").touch()
    waited = terminal.json("send", "night.watch", order, "--wait", "--id", "nap")
    assert (waited["status"], waited["value"]) == ("completed", None)


def test_thread_shows_the_call_tree_and_the_timeline(up: Up, terminal: Terminal) -> None:
    """Who called whom, and each message in its order; --json has everything."""
    sent = terminal.json("send", "counter", '{"pieces": 2}', "--wait")["conversation"]
    shown = terminal.run("thread", sent, "--xml").stdout
    tree = shown[shown.index("call tree") : shown.index("timeline")]
    assert re.findall(r"── (\S+)  (\d) message", tree) == [("counter", "2"), ("till", "1")]
    timeline = shown[shown.index("timeline") :]
    messages = [
        "external → counter", "Order pieces=2", "<pieces>2</pieces>",
        "counter → till", "Order pieces=2", "<pieces>2</pieces>",
        "till → counter", "Price cents=500", "<cents>500</cents>",
        "✓ completed",
    ]  # fmt: skip
    assert re.search(".*".join(map(re.escape, messages)), timeline, re.DOTALL)
    data = terminal.json("thread", sent)
    assert data["conversation"]["status"] == "completed"
    assert {each["chain"][-1] for each in data["threads"]} == {"external", "counter", "till"}
    assert [
        (each["from"], each["to"], each["payload_name"])
        for each in data["log"]
        if each["event"] == "message"
    ] == [
        ("external", "counter", "Order"),
        ("counter", "till", "Order"),
        ("till", "counter", "Price"),
    ]
    assert "<pieces>2</pieces>" in data["log"][0]["envelope"]
    reply = next(each["id"] for each in data["log"] if each.get("payload_name") == "Price")
    assert reply != sent
    assert terminal.json("thread", reply) == data, "the id of a message leads to it, too"
    [listed] = [c for c in terminal.json("threads")["conversations"] if c["id"] == sent]
    assert listed == data["conversation"]


def test_a_second_up_would_be_one_too_many(up: Up, terminal: Terminal) -> None:
    """It is refused, and says how to have more workers."""
    refused = terminal.run("up", status=2)
    assert "shop is up already" in refused.stderr
    assert "celery -A threadloom worker" in refused.stderr
    assert terminal.json("threads")["conversations"] is not None, "the first one is unharmed"


def test_ctrl_c_lets_handlers_finish_and_what_was_said_is_kept(tmp_path: Path) -> None:
    """A warm shutdown; the next `up` has the conversations of the one before. A worker that
    is killed ends `up` with status 1, and its pool with it."""
    terminal = Terminal(tmp_path)
    try:
        before = terminal.up()
        order = json.dumps({"until_file": str(tmp_path / "morning")})
        terminal.run("send", "night.watch", order, "--id", "last")
        eventually((tmp_path / "morning.begun").exists)
        before.process.send_signal(signal.SIGINT)
        eventually(lambda: "once running handlers are done" in before.out)
        assert before.process.poll() is None, "the handler is still running"
        (tmp_path / "morning").touch()
        assert before.ended() == 0, before.log
        gone = terminal.run("threads", status=4)
        assert "start it with `threadloom up`" in gone.stderr

        after = terminal.up()
        [kept] = terminal.json("threads")["conversations"]
        assert (kept["id"], kept["status"]) == ("last", "completed")
        worker = after.worker()
        processes = [worker, *worker.children()]
        worker.kill()
        assert after.ended() == 1
        assert "the worker has ended by itself, killed by SIGKILL" in after.log
        eventually(lambda: not any(map(is_running, processes)), what="the pool ends too")
        terminal.run("threads", status=4)
    finally:
        terminal.close()


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
