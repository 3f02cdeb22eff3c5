"""The subcommands in this process, on a real Redis where no worker runs.

`tests/acceptance/test_command_line.py` runs the subcommands with a worker.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness import ORGANISMS
from threadloom import tasks
from threadloom.config import RegistryUnavailableError
from threadloom.primitives import SYSTEM_NAMES
from threadloom.routing.records import Ending
from threadloom.routing.states import ConversationStatus
from threadloom.service.commands import run
from threadloom.service.commands.send import _without_duplicates

SHOP = ORGANISMS / "shop" / "organism.yaml"


class Done(NamedTuple):
    """The status and the output of a finished command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Threadloom = Callable[..., Done]


@pytest.fixture
def threadloom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Threadloom:
    """Run the command line in a folder without files and with an empty state directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")

    def run_it(*arguments: str) -> Done:
        status = run([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return run_it


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, redis_url: str, threadloom: Threadloom) -> Threadloom:
    """Run the command line with the shop's file and a Redis of its own in the environment."""
    monkeypatch.setenv("THREADLOOM_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOOM_ORGANISM", str(SHOP))
    return threadloom


# --- check -----------------------------------------------------------------------------------


def test_check_shows_the_listeners_of_a_sound_file(threadloom: Threadloom) -> None:
    """The status is 0, and the output is a table, or JSON with the same columns and more."""
    shown = threadloom("check", SHOP)
    assert (shown.status, shown.err) == (0, "")
    assert "shop can start: 3 listeners" in shown.out
    assert all(text in shown.out for text in ("night.watch", "Order", "till", "2 min", "Sells."))
    data = threadloom("check", SHOP, "--json").json
    assert (data["ok"], data["organism"]) == (True, "shop")
    assert {entry["name"] for entry in data["listeners"]} >= {"counter", "system.buffer"}


FAULTY = """\
organism:
  name: faulty
  celery: {task_always_eager: true}
listeners:
  - {name: a, payload_class: no_such_module.Order, handler: shop_handlers.till, description: A.}
  - {name: b, payload_class: shop_handlers.Path, handler: shop_handlers.till, description: B.}
  - {name: "[red]c", payload_class: shop_handlers.Order, handler: shop_handlers.till,
     description: C., peers: [nobody], colour: red}
"""


def test_check_finds_everything_at_once(threadloom: Threadloom, tmp_path: Path) -> None:
    """The problems of the file, its classes and its Celery settings all appear, each with its
    place.
    """
    (tmp_path / "shop_handlers.py").write_text((SHOP.parent / "shop_handlers.py").read_text())
    (tmp_path / "organism.yaml").write_text(FAULTY)
    places = [
        "listeners[0].payload_class", "listeners[1].payload_class", "listeners[2].peers[0]",
        "listeners[2].colour", "organism.celery.task_always_eager",
    ]  # fmt: skip
    found = threadloom("check", "--json")
    assert (found.status, found.json["ok"]) == (2, False)
    assert sorted(problem["path"] for problem in found.json["problems"]) == sorted(places)
    told = threadloom("check")
    assert (told.status, told.out) == (2, "")
    assert told.err.startswith("organism.yaml: 5 problems\n")
    assert all(f"✗ {place}: " in told.err for place in places)
    assert threadloom("up").err == told.err, "starting finds the same"


@pytest.mark.parametrize("command", [("check",), ("up",), ("threads",), ("send", "a", "{}")])
def test_a_missing_file_is_named(threadloom: Threadloom, command: tuple[str, ...]) -> None:
    """The message names the file, and nothing is started."""
    done = threadloom(*command)
    assert done.status == 2
    assert "organism.yaml: 1 problem" in done.err
    assert "cannot be read" in done.err


def test_conversations_in_the_memory_of_one_process_are_refused(
    threadloom: Threadloom, tmp_path: Path
) -> None:
    """Workers and commands would each have their own registry and would find nothing in it."""
    text = SHOP.read_text().replace("{name: shop}", "{name: shop, backend: {type: memory}}")
    (tmp_path / "organism.yaml").write_text(text)
    (tmp_path / "shop_handlers.py").write_text((SHOP.parent / "shop_handlers.py").read_text())
    for command in ("check", "up", "threads"):
        done = threadloom(command)
        assert (done.status, "organism.backend.type: memory" in done.err) == (2, True)


# --- where nothing runs ----------------------------------------------------------------------


@pytest.mark.parametrize("command", [("threads",), ("thread", "x"), ("send", "till", "{}")])
def test_where_nothing_runs_it_says_how_to_start(
    threadloom: Threadloom, command: tuple[str, ...]
) -> None:
    """The status is 4, and looking creates nothing in the state directory."""
    done = threadloom(*command, "-o", str(SHOP))
    assert done.status == 4
    assert f"start it with `threadloom up {SHOP}`" in done.err
    assert not Path("state").exists()


@pytest.mark.parametrize("command", [("threads",), ("up",), ("send", "till", '{"pieces": 1}')])
def test_a_redis_that_does_not_answer_is_told(
    shop: Threadloom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The status is 4, and one message appears without a traceback and without the password."""
    monkeypatch.setenv("THREADLOOM_REDIS_URL", f"unix://:hidden@{tmp_path}/none.sock")
    done = shop(*command)
    assert done.status == 4
    assert "Redis does not answer" in done.err
    assert "Traceback" not in done.err
    assert "hidden" not in done.err


def test_an_unexpected_error_keeps_its_traceback(
    shop: Threadloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only errors that the project raises on purpose are shown as a message."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("threadloom.service.commands.threads.running_registry", broken)
    with pytest.raises(ZeroDivisionError):
        shop("threads")


# --- send ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tiill", "{}"), "there is no listener 'tiill'; did you mean till?"),
        (
            ("xyz", "{}"),
            f"there are: {', '.join(SYSTEM_NAMES)}, counter, till, night.watch",
        ),
        (("till", '{"pieces": "x"}'), "pieces: expected int"),
        (("till", "<Order><pieces>x</pieces></Order>"), "till does not take this payload"),
        (("till", "<Order>"), "till does not take this payload"),
        (("till", "<!DOCTYPE a><Order/>"), "DOCTYPE"),
        (("till", "three"), "neither JSON"),
        (("till", "three"), "<Order><pieces>1</pieces></Order>"),
        (("till", "[" * 100_000), "neither JSON"),
        (("till", "[1]"), "has to be an object"),
        (("till", "@missing.json"), "missing.json: cannot be read"),
        (("till", "@bad.txt"), "is not UTF-8 text: see byte 1"),
        (("till", "{}", "--timeout", "1"), "--wait only"),
        (("till", "{}", "--id", " "), "must not be blank"),
    ],
)  # fmt: skip
def test_send_says_what_is_wrong_before_anything_starts(
    shop: Threadloom, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    """The status is 2, standard output is empty, and no conversation exists."""
    (tmp_path / "bad.txt").write_bytes(b'{\xff"pieces": 1}')
    done = shop("send", *arguments)
    assert (done.status, done.out) == (2, "")
    assert told in " ".join(done.err.replace("│", " ").split())
    assert shop("threads", "--json").json["conversations"] == []


def test_send_prints_the_id_and_sends_one_id_once(shop: Threadloom, tmp_path: Path) -> None:
    """The payload may come from a file; sending the same id again gives the same conversation."""
    name = str(uuid.uuid4())
    (tmp_path / "order.json").write_text('{"pieces": 1}')
    assert shop("send", "till", "@order.json", "--id", name) == Done(0, f"{name}\n", "")
    assert shop("send", "till", "@order.json", "--id", name, "--json").json == {
        "conversation": name
    }
    [listed] = shop("threads", "--json").json["conversations"]
    assert (listed["id"], listed["entry"], listed["status"]) == (name, "till", "running")


def test_a_wait_without_workers_ends_with_that_guess(shop: Threadloom) -> None:
    """The status is 3.

    The message gives the conversation's status, says where to look, and says that no worker seems
    to run.
    """
    done = shop("send", "till", '{"pieces": 1}', "--wait", "--timeout", "0.1", "--id", "w")
    assert (done.status, done.out) == (3, "")
    for text in ("it is running", "no worker answers", "threadloom thread w"):
        assert text in done.err


def test_an_error_is_json_too(shop: Threadloom, redis_url: str) -> None:
    """For a conversation that was ended from outside, the status is 1 and the JSON has the
    error.
    """
    shop("send", "till", '{"pieces": 1}', "--id", "k")
    app = tasks.create_app(SHOP, redis_url=redis_url)
    killed = {"code": "killed", "message": "The conversation was ended.", "retry_allowed": False}
    tasks.runtime_of(app).backend.kill("k", Ending(ConversationStatus.KILLED, killed))
    app.close()
    done = shop("send", "till", '{"pieces": 1}', "--id", "k", "--wait", "--json")
    assert done.status == 1
    assert done.json == {"conversation": "k", "status": "killed", "value": None, "error": killed}


def test_a_registry_lost_while_waiting_is_told(
    shop: Threadloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is 4, because the command cannot know whether the conversation ends."""

    def lost(*_: object, **__: object) -> None:
        raise RegistryUnavailableError("gone")

    monkeypatch.setattr("threadloom.routing.backends.RedisBackend.conversation", lost)
    done = shop("send", "till", '{"pieces": 1}', "--wait")
    assert (done.status, "Redis does not answer: gone" in done.err) == (4, True)


# --- threads and thread ----------------------------------------------------------------------


def test_threads_lists_page_by_page(shop: Threadloom) -> None:
    """The newest come first; `next_before` leads to the next page and is null on the last page."""
    assert "no conversations yet" in shop("threads").out
    sent = [f"order-{n}" for n in range(5)]
    for name in sent:
        assert shop("send", "till", '{"pieces": 1}', "--id", name).status == 0
    seen: list[str] = []
    before: list[str] = []
    while True:
        page = shop("threads", "--json", "--limit", "2", *before).json
        seen += [each["id"] for each in page["conversations"]]
        if page["next_before"] is None:
            break
        assert page["next_before"] == seen[-1]
        before = ["--before", page["next_before"]]
    assert sorted(seen) == sorted(sent)
    created = [each["created_ms"] for each in shop("threads", "--json").json["conversations"]]
    assert created == sorted(created, reverse=True)
    table = shop("threads", "--limit", "2").out
    assert f"older ones: --before {seen[1]}" in table
    assert "1, 1 in flight" in table
    assert shop("threads", "--status", "error", "--json").json["conversations"] == []
    assert len(shop("threads", "--status", "running", "--json").json["conversations"]) == 5


@pytest.mark.parametrize("arguments", [("thread", "nobody"), ("threads", "--before", "nobody")])
def test_an_unknown_conversation_is_told(shop: Threadloom, arguments: tuple[str, ...]) -> None:
    """The status is 2, and the message has the id that was asked for."""
    done = shop(*arguments)
    assert (done.status, done.out) == (2, "")
    assert "no conversation nobody" in done.err


def test_help_and_version(threadloom: Threadloom) -> None:
    """The help names every subcommand; a call without arguments prints the help."""
    shown = threadloom("--help")
    assert shown.status == 0
    assert all(name in shown.out for name in ("up", "check", "send", "threads", "thread"))
    assert "threadloom" in threadloom("--version").out
    assert threadloom("bogus").status == 2


# --- ids -------------------------------------------------------------------------------------


def test_an_id_may_be_shortened_where_that_is_unique(shop: Threadloom) -> None:
    """The whole id comes first, several that begin alike are told, and none changes nothing."""
    for name in ("order-1", "order-10", "parcel-7"):
        shop("send", "till", '{"pieces": 1}', "--id", name)
    assert shop("thread", "parc", "--json").json["conversation"]["id"] == "parcel-7"
    assert shop("thread", "order-1", "--json").json["conversation"]["id"] == "order-1"
    told = shop("kill", "orde")
    assert told.status == 2
    assert "several ids begin with orde: order-10, order-1" in told.err
    assert (shop("kill", "par").status, shop("kill", "nothing").status) == (2, 2)
    assert shop("kill", "parcel", "--json").json == {"conversation": "parcel-7", "killed": True}


def test_an_id_cannot_pose_as_a_line_of_ours(shop: Threadloom) -> None:
    """Its line breaks are shown as escapes."""
    name = "a\nno conversations yet"
    assert shop("send", "till", '{"pieces": 1}', "--id", name).out == "a\\nno conversations yet\n"
    assert "a\\nno conversations yet" in shop("threads").out


def test_json_with_a_key_twice_is_refused() -> None:
    """Python's reader would let the last one win, and the sender would never hear of it."""
    with pytest.raises(ValueError, match="'number' stands there twice"):
        json.loads('{"number": 1, "number": 2}', object_pairs_hook=_without_duplicates)
