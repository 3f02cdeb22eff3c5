"""An organism and its own modules: which classes paths mean, and what a reading leaves behind."""

from __future__ import annotations

import builtins
import logging
import os
import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery._state
import pytest
from celery import Celery

from threadloom import tasks
from threadloom.config import ConfigurationError, load, public
from threadloom.routing import HandlerResponse, Organism, payload_type
from threadloom.routing.actions import Fault, Retry
from threadloom.routing.backends import MemoryBackend
from threadloom.service.deployment import examine
from threadloom.tasks.handlers import run_handler

YAML = """
organism:
  name: desk
  backend: {type: memory}
  celery: {broker_url: "memory://", result_backend: "cache+memory://"}
listeners:
  - {name: clerk, payload_class: desk.Ask, handler: desk.clerk, description: Answers.}
"""
DESK = """
from dataclasses import dataclass
from threadloom import HandlerResponse, RetryLater, payload
import kinds

@payload
@dataclass
class Ask:
    number: int

class StrangeError(Exception): ...
class Later(RetryLater): ...

def clerk(message, meta):
    if message.number < 0:
        raise StrangeError("negative")
    if message.number > 9:
        raise Later("too many")
    return HandlerResponse.respond(kinds.Outer.Answer("WHOSE"))
"""
KINDS = """
from dataclasses import dataclass
from threadloom import payload

class Outer:
    @payload
    @dataclass
    class Answer:
        text: str

class Plain: ...

def __getattr__(name):
    raise RuntimeError("asked for " + name)
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an organism file into a folder, with its modules."""

    def write(folder: str = "desk", **modules: str) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for name, code in {"desk": DESK, "kinds": KINDS, **modules}.items():
            (place / f"{name}.py").write_text(code.replace("WHOSE", folder))
        (place / "organism.yaml").write_text(YAML)
        return place / "organism.yaml"

    return write


def resolved(file: Path) -> Organism:
    return tasks.load_organism(file)[1]


def private_names() -> list[str]:
    return [name for name in sys.modules if public(name) != name]


# --- paths of payload classes ---------------------------------------------------------------


def test_a_path_is_the_same_in_every_process(write: Write) -> None:
    """A stored message names its class as the organism file does."""
    organism = resolved(write())
    ask = organism.listeners["clerk"].accepts["Ask"]
    assert ask.path == "desk.Ask"
    assert ask.cls.__module__ != "desk"
    assert organism.payload_type_at("desk.Ask") is ask


def test_a_path_means_the_organisms_own_class(write: Write) -> None:
    """Two organisms each have a `desk.Ask` and a `kinds.Outer.Answer`, and neither gets the
    other's.
    """
    first, second = resolved(write("first")), resolved(write("second"))
    for path in ("desk.Ask", "kinds.Outer.Answer"):
        one, two = first.payload_type_at(path), second.payload_type_at(path)
        assert one is not None
        assert two is not None
        assert one.path == two.path == path
        assert one.cls is not two.cls
        module = first.space.loaded(path.split(".")[0])
        assert module is not None
        assert module.__name__ == one.cls.__module__


@pytest.mark.parametrize(
    "path",
    ["kinds.Plain", "kinds.Outer", "kinds.nothing", "kinds.nothing.more", "unread.Ask", "kinds",
     "desk.kinds.Outer.Answer.text", "", ".", "threadloom.app", "os.path.join"],
)  # fmt: skip
def test_nothing_is_imported_or_run_on_the_word_of_a_message(path: str, write: Write) -> None:
    """A path in a message imports no module and calls no module's `__getattr__`."""
    organism = resolved(write(unread="1/0"))
    assert organism.payload_type_at(path) is None


def test_classes_of_the_process_are_found_by_their_paths(write: Write) -> None:
    """Classes that every process has, such as the primitives' payloads, need no module space."""
    found = resolved(write()).payload_type_at("threadloom.primitives.buffer.BufferStart")
    assert found is not None
    assert found.name == "BufferStart"


def test_an_object_of_a_senders_own_class_is_taken(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script beside the organism imports `desk` itself; its Ask is accepted because its XML
    is an Ask.
    """
    file = write()
    backend = MemoryBackend(organism="desk")
    app = tasks.create_app(file, backend=backend)
    monkeypatch.syspath_prepend(str(file.parent))
    senders: Any = __import__("desk")
    try:
        [own] = tasks.runtime_of(app).organism.listeners["clerk"].accepts.values()
        assert payload_type(senders.Ask) is not own
        result = tasks.inject(app, "clerk", senders.Ask(41))
    finally:
        del sys.modules["desk"], sys.modules["kinds"]
    log = backend.log(result.id, limit=9)
    [delivery] = [entry.detail["delivery"] for entry in log if entry.event == "message"]
    assert delivery.payload_path == "desk.Ask"
    app.close()


# --- readings -------------------------------------------------------------------------------


def test_an_organism_that_cannot_start_leaves_no_modules(write: Write) -> None:
    """The fault may be in the file, in one of its modules or in a payload class."""
    before = private_names()
    for modules in ({"kinds": "1/0"}, {"desk": DESK.replace("@payload\n@data", "@data")}):
        file = write(**modules)
        with pytest.raises(ConfigurationError):
            tasks.load_organism(file)
    with pytest.raises(ConfigurationError):
        load(write(kinds="raise SystemExit"))
    assert private_names() == before


def test_each_module_runs_once_however_many_problems_there_are(write: Write) -> None:
    """The report of `check` has all problems and comes from one reading."""
    counting = "\nimport builtins\nbuiltins.desk_runs = getattr(builtins, 'desk_runs', 0) + 1\n"
    code = DESK.replace("@payload\n@data", "@data") + counting
    try:
        with pytest.raises(ConfigurationError) as caught:
            examine(write(desk=code), os.environ)
        assert builtins.desk_runs == 1  # type: ignore[attr-defined]
    finally:
        del builtins.desk_runs  # type: ignore[attr-defined]
    assert {p.path for p in caught.value.problems} == {
        "organism.backend.type",
        "listeners[0].payload_class",
    }


def test_the_folder_is_that_of_the_file_itself_behind_any_link(
    write: Write, tmp_path: Path
) -> None:
    """A link to the file from a folder with or without another `desk.py`, and a linked folder,
    all mean the file's own folder.
    """
    file = write("real")
    write("beside").unlink()
    (tmp_path / "alone").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    for folder in ("beside", "alone"):
        (tmp_path / folder / "organism.yaml").symlink_to(file)
    for folder in ("real", "beside", "alone", "linked"):
        organism = resolved(tmp_path / folder / "organism.yaml")
        handler: Any = organism.listeners["clerk"].handler
        assert handler.__code__.co_filename == str(tmp_path / "real" / "desk.py")


TEAM = """
from celery import Celery
from threadloom import attach
app = Celery("team", broker="memory://", set_as_current=False)
attach(app, {file!r})
"""


def test_a_module_may_read_the_file_that_names_it(write: Write) -> None:
    """`desk` makes the team's Celery app and attaches the organism, whose handlers are in
    `desk`.
    """
    place = write()
    place.write_text(re.sub("  celery: .*\n", "", YAML))
    (place.parent / "team.py").write_text(TEAM.format(file=str(place)))
    (place.parent / "desk.py").write_text(DESK + "from team import app\n")
    organism = resolved(place)
    team: Any = organism.space.import_module("team")
    attached = tasks.runtime_of(team.app).organism
    assert attached.space is organism.space
    assert attached.listeners["clerk"].handler is organism.listeners["clerk"].handler


# --- names that people and other processes see ----------------------------------------------

BILLING = """
from celery import Celery, shared_task
app = Celery("billing", broker="memory://", set_as_current=False)

@app.task
def charge(amount): ...

@shared_task
def refund(amount): ...
"""


@pytest.fixture(autouse=True)
def _shared_tasks_of_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test's shared tasks end with the test, since every later app would get them."""
    kept = set(celery._state._on_app_finalizers)
    monkeypatch.setattr(celery._state, "_on_app_finalizers", kept)
    monkeypatch.setattr(celery._state, "_apps", weakref.WeakSet())


def test_tasks_of_the_folders_modules_have_their_public_names(write: Write) -> None:
    """`charge.delay()` in a handler sends the task name that another project's worker knows."""
    organism = resolved(write(billing=BILLING, desk=f"import billing\n{DESK}"))
    billing: Any = organism.space.loaded("billing")
    assert billing.charge.name == "billing.charge"
    assert billing.charge.s(3).task == "billing.charge"
    app = Celery("other", set_as_current=False)
    app.finalize()
    assert "billing.refund" in app.tasks


@pytest.mark.parametrize("imports", ["ledger", ["ledger", "json"]])
def test_what_celery_imports_is_what_the_handlers_have(write: Write, imports: object) -> None:
    """`celery: {imports: ledger}` loads the folder's module once, and handlers get the same
    module.
    """
    file = write(ledger="ENTRIES = []\n", desk=f"import ledger\n{DESK}")
    file.write_text(YAML.replace("celery: {", f"celery: {{imports: {imports}, "))
    app = tasks.create_app(file)
    app.loader.import_default_modules()
    ledger = tasks.runtime_of(app).organism.space.loaded("ledger")
    assert ledger is sys.modules[app.conf.imports[0]]
    assert "ledger" not in sys.modules
    app.close()


def test_what_is_kept_and_logged_of_a_failure_says_public_names(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators read `desk.StrangeError` in the state and in the log."""
    file = write()
    app = tasks.create_app(file)
    runtime = tasks.runtime_of(app)
    listener = runtime.organism.listeners["clerk"]
    [ask] = listener.accepts.values()

    def run(number: int) -> Any:
        return run_handler(
            listener, ask.cls(number), None, runtime, timeout_s=30, message_id="message"
        )

    [answer] = run(0)
    assert isinstance(answer, HandlerResponse)
    [fault] = run(-1)
    assert isinstance(fault, Fault)
    assert fault.note.endswith("\ndesk.StrangeError: negative")
    assert run(10) == Retry("desk.Later: too many")
    [failed] = [record for record in caplog.records if record.exc_info]
    assert "desk.StrangeError: negative" in (text := logging.Formatter().format(failed))
    assert public(text) == text
    app.close()
