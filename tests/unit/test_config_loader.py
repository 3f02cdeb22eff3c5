"""The organism file: what is accepted, and that every mistake is found, placed and explained."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threadloom import config
from threadloom.config import ConfigurationError, Problem

DESK = """
class Add: ...
class Sum: ...
class Ask: ...
class Outer:
    class Inner: ...
NOTHING = None
NUMBER = 7
def add(message, meta): ...
async def ask(message, meta): ...
def one(message): ...
def keyword(message, meta, *, must): ...
def lazy(message, meta):
    yield
class Callable:
    def __call__(self, message, meta): ...
instance = Callable()
"""
_numbers = itertools.count()

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an organism file and the modules beside it; `desk` in texts is a fresh module."""
    desk = f"desk_{next(_numbers)}"

    def write(text: str, **modules: str) -> Path:
        for name, code in {"desk": DESK, **modules}.items():
            (tmp_path / f"{name.replace('desk', desk)}.py").write_text(code)
        path = tmp_path / "organism.yaml"
        path.write_text(re.sub(r"\bdesk(?=[._])", desk, text), encoding="utf-8")
        return path

    return write


LISTENER = """
  - name: calculator.add
    payload_class: desk.Add
    handler: desk.add
    description: Adds two integers.
"""
GOOD = f"organism: {{name: desk}}\nlisteners:{LISTENER}"


def with_key(line: str, *, instead_of: str = "") -> str:
    """The good file with one more line in its listener, which replaces another line or is added
    at the end.
    """
    lines = [ln for ln in GOOD.splitlines() if not ln.strip().startswith(f"{instead_of}:")]
    return "\n".join([*lines, f"    {line}", ""])


def with_organism(keys: str) -> str:
    return f"organism: {{name: desk, {keys}}}\nlisteners:{LISTENER}"


def problems_of(path: Path, **options: Any) -> list[Problem]:
    given = {"environ": {"EMPTY": ""}, "known_system_names": ["system.buffer"], **options}
    return list(config.read(path, **given)[1])


def test_a_small_file_has_the_documented_defaults(write: Write) -> None:
    """A listener needs four keys; all other keys have the defaults of the design."""
    found = config.load(write(GOOD))
    section, listener = found.organism, found.listeners[0]
    assert section.name == "desk"
    assert (section.max_depth, section.max_deliveries) == (50, 10_000)
    assert section.max_payload_bytes == 1_048_576
    assert section.thread_scheduling == "breadth-first"
    backend = section.backend
    assert (backend.type, backend.redis_url) == ("redis", None)
    assert (backend.redis_prefix, backend.redis_ttl) == ("tl:", 86_400)
    assert section.celery == {}
    assert listener.name == "calculator.add"
    assert len(listener.payload_class) == 1
    assert listener.peers is None
    assert (listener.replies, listener.agent, listener.repair) == ((), False, False)
    assert (listener.timeout_seconds, listener.max_retries, listener.retry_backoff) == (30, 3, 1)
    assert (listener.queue, listener.rate_limit, listener.prompt) == (None, None, "")


def test_a_full_file_is_read_as_written(write: Write) -> None:
    """The file has every key, one path and lists of paths, and peers inside and outside the
    file.
    """
    path = write(
        """
organism:
  name: desk
  max_depth: 5
  max_deliveries: 6
  max_payload_bytes: 7
  thread_scheduling: depth-first
  backend: {type: redis, redis_url: "redis://u:${PW}@h:1/2", redis_prefix: "x-", redis_ttl: 60}
  celery: {broker_url: "${BROKER:-memory://}", task_routes: {a.b: {queue: q}}, accept: [json]}
listeners:
  - name: clerk
    payload_class: [desk.Ask, desk.Outer.Inner]
    handler: desk.ask
    description: Answers.
    agent: true
    peers: [calculator.add, system.buffer, clerk]
    timeout_seconds: 0.5
    replies: desk.Sum
    queue: slow
    rate_limit: 10/s
    max_retries: 0
    retry_backoff: 0
    prompt: |
      Be brief; cost is $${dollars}.
    repair: true
  - {name: calculator.add, payload_class: desk.Add, handler: desk.instance,
     description: Adds., peers: [], replies: [desk.Sum], rate_limit: 3}
"""
    )
    found = config.load(path, environ={"PW": "hunter2"}, known_system_names=["system.buffer"])
    clerk, adder = found.listeners
    assert found.organism.backend.redis_url == "redis://u:hunter2@h:1/2"
    assert found.organism.celery.to_dict() == {
        "broker_url": "memory://",
        "task_routes": {"a.b": {"queue": "q"}},
        "accept": ["json"],
    }
    assert clerk.peers == ("calculator.add", "system.buffer", "clerk")
    assert [p.partition(".")[2] for p in clerk.payload_class] == ["Ask", "Outer.Inner"]
    assert [p.partition(".")[2] for p in clerk.replies] == ["Sum"]
    assert clerk.prompt == "Be brief; cost is ${dollars}.\n"
    assert (clerk.agent, clerk.repair, clerk.queue) == (True, True, "slow")
    assert (adder.peers, adder.rate_limit) == ((), "3")
    assert [listener.position for listener in found.listeners] == [0, 1]
    assert found.source == str(path)


#: the file, the place of its only problem, and words of its text
BAD: dict[str, tuple[str, str, str]] = {
    # the file as a whole
    "empty": ("", "", "is empty"),
    "only a comment": ("# nothing\n", "", "is empty"),
    "list": ("- 1\n- 2\n", "", "must be a mapping with organism and listeners, not a list"),
    "text": ("hello\n", "", "must be a mapping"),
    "syntax": ("organism: {name: desk\nlisteners: []", "", "line 2, column"),
    "tab": ("organism:\n\tname: desk\n", "", "line 2, column 1"),
    "two documents": (f"{GOOD}---\n{GOOD}", "", "line 7, column 1"),
    "control character": ("organism: {name: desk}\nlist\x07: 1", "", "line 2, column 5"),
    "python tag": ("organism: !!python/object:os.x {}\n", "", "could not determine a constructor"),
    "octal": (with_organism("max_depth: 010"), "organism.max_depth", "as the number 8"),
    "octal in a setting": (
        with_organism("celery: {a: [1, -0_17]}"),
        "organism.celery.a[1]",
        "as the number -15",
    ),
    "to the base of 60": (with_key("timeout_seconds: 1:30"), "listeners[0].timeout_seconds", "90"),
    "a fraction to the base of 60": (
        with_organism("celery: {a: 1:30.5}"),
        "organism.celery.a",
        "as the number 90.5",
    ),
    "a thousand million laughs": (
        "".join(
            f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else 'ha'}]\n" for n in range(30)
        ),
        "",
        "aliases repeat too much",
    ),
    "laughs in merge keys": (
        "".join(
            f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}\n" if n else "l0: &l0 {a: b}\n"
            for n in range(30)
        ),
        "",
        "aliases repeat too much",
    ),
    "impossible date": ("organism: 2024-13-45\n", "", "line 1, column 11: this is not a valid"),
    "very deep": ("[" * 5000, "", "nested too deeply"),
    "contains itself": (f"{GOOD}    peers: &p [*p]\n", "listeners[0].peers[0]", "contains itself"),
    # keys
    "no listeners": ("organism: {name: desk}\n", "listeners", "is missing"),
    "null listeners": ("organism: {name: desk}\nlisteners:\n", "listeners", "not nothing"),
    "mapping of listeners": ("organism: {name: d}\nlisteners: {}", "listeners", "must be a list"),
    "no organism": (f"listeners:{LISTENER}", "organism", "is missing"),
    "organism is text": (f"organism: x\nlisteners:{LISTENER}", "organism", "must be a mapping"),
    "top-level typo": (f"{GOOD}organisms: 1\n", "organisms", "did you mean 'organism'?"),
    "top-level key no text": (f"{GOOD}on: 1\n", "", "reads as true must be text"),
    "organism typo": (with_organism("max_dept: 3"), "organism.max_dept", "mean 'max_depth'?"),
    "backend typo": (
        with_organism("backend: {redis_urll: x}"),
        "organism.backend.redis_urll",
        "did you mean 'redis_url'?",
    ),
    "listener typo": (with_key("time_out: 3"), "listeners[0].time_out", "'timeout_seconds'?"),
    "far-off key": (with_key("zzz: 3"), "listeners[0].zzz", "unknown key"),
    "broadcast": (with_key("broadcast: true"), "listeners[0].broadcast", "not supported yet"),
    "cpu_bound": (with_key("cpu_bound: true"), "listeners[0].cpu_bound", "not supported yet"),
    "max_concurrent": (with_key("max_concurrent: 1"), "listeners[0].max_concurrent", "not supp"),
    "streams": (with_organism("streams: []"), "organism.streams", "not supported yet"),
    "graphs": (with_organism("graphs: []"), "organism.graphs", "not supported yet"),
    "peer_tables": (with_organism("peer_tables: {}"), "organism.peer_tables", "not supported"),
    "duplicate key": (with_key("name: x"), "listeners[0].name", "on line 3 and on line 7"),
    "duplicate setting": (
        with_organism('celery: {task_routes: {"a.b": 1, "a.b": 2}}'),
        'organism.celery.task_routes["a.b"]',
        "twice",
    ),
    # organism values
    "max_depth 0": (with_organism("max_depth: 0"), "organism.max_depth", "at least 1, not 0"),
    "max_depth true": (with_organism("max_depth: on"), "organism.max_depth", "a number, not true"),
    "max_depth 1.5": (with_organism("max_depth: 1.5"), "organism.max_depth", "whole number"),
    "max_depth text": (with_organism("max_depth: ten"), "organism.max_depth", "not 'ten'"),
    "max_depth null": (with_organism("max_depth: "), "organism.max_depth", "not nothing"),
    "max_depth inf": (with_organism("max_depth: .inf"), "organism.max_depth", "finite"),
    "scheduling": (
        with_organism("thread_scheduling: random"),
        "organism.thread_scheduling",
        "must be 'breadth-first' or 'depth-first', not 'random'",
    ),
    "backend text": (with_organism("backend: redis"), "organism.backend", "must be a mapping"),
    "backend type": (with_organism("backend: {type: x}"), "organism.backend.type", "not 'x'"),
    "ttl": (with_organism("backend: {redis_ttl: 0}"), "organism.backend.redis_ttl", "at least 1"),
    "prefix": (
        with_organism('backend: {redis_prefix: "{x}"}'),
        "organism.backend.redis_prefix",
        "slot",
    ),
    "url scheme": (
        with_organism('backend: {redis_url: "http://h"}'),
        "organism.backend.redis_url",
        "must begin with redis://",
    ),
    "url without host": (
        with_organism('backend: {redis_url: "redis:///0"}'),
        "organism.backend.redis_url",
        "names no server",
    ),
    "celery list": (with_organism("celery: []"), "organism.celery", "must be a mapping"),
    "celery key": (
        with_organism("celery: {1: x}"),
        "organism.celery",
        "the key that YAML reads as 1 must be text",
    ),
    "organism name": (
        f"organism: {{name: 'a:b'}}\nlisteners:{LISTENER}",
        "organism.name",
        "holds ':'",
    ),
    # listeners
    "listener text": ("organism: {name: d}\nlisteners: [x]", "listeners[0]", "must be a mapping"),
    "listener null": ("organism: {name: d}\nlisteners: [~]", "listeners[0]", "is missing"),
    "no description": (
        with_key("agent: true", instead_of="description"),
        "listeners[0].description",
        "is missing",
    ),
    "blank description": (
        with_key("description: ' '", instead_of="description"),
        "listeners[0].description",
        "must not be blank",
    ),
    "null description": (
        with_key("description:", instead_of="description"),
        "listeners[0].description",
        "is empty",
    ),
    "agent": (with_key("agent: maybe"), "listeners[0].agent", "true or false, not 'maybe'"),
    "local no": (with_key("local: sometimes"), "listeners[0].local", "true or false"),
    "timeout 0": (with_key("timeout_seconds: 0"), "listeners[0].timeout_seconds", "more than 0"),
    "timeout inf": (with_key("timeout_seconds: .inf"), "listeners[0].timeout_seconds", "finite"),
    "timeout text": (with_key("timeout_seconds: 5s"), "listeners[0].timeout_seconds", "not '5s'"),
    "retries": (with_key("max_retries: -1"), "listeners[0].max_retries", "at least 0, not -1"),
    "backoff": (with_key("retry_backoff: -1"), "listeners[0].retry_backoff", "at least 0"),
    "rate": (with_key("rate_limit: 10/d"), "listeners[0].rate_limit", "must be like '10/s'"),
    "peers of a removed last entry": (with_key("peers:"), "listeners[0].peers", "write [] for"),
    "rate null": (with_key("rate_limit:"), "listeners[0].rate_limit", "is empty; write a value"),
    "queue null": (with_key("queue: ~"), "listeners[0].queue", "is empty; write a value"),
    "organism queue null": (with_organism("queue: "), "organism.queue", "is empty"),
    "url null": (with_organism("backend: {redis_url: }"), "organism.backend.redis_url", "is empty"),
    "rate 0": (with_key("rate_limit: 0/m"), "listeners[0].rate_limit", "more than 0"),
    "queue": (with_key("queue: a b"), "listeners[0].queue", "holds a blank"),
    "queue empty": (with_key("queue: ''"), "listeners[0].queue", "must not be empty"),
    "prompt": (with_key("prompt: [x]"), "listeners[0].prompt", "must be text, not a list"),
    "unset variable": (
        with_key("queue: '${NO_SUCH}'"),
        "listeners[0].queue",
        "the environment has no variable NO_SUCH",
    ),
    "unset, deep": (
        with_organism("celery: {a: [{b: '${NO_SUCH}'}]}"),
        "organism.celery.a[0].b",
        "NO_SUCH",
    ),
    "broken reference": (with_key("prompt: 'a ${1} b'"), "listeners[0].prompt", "write $${"),
    # peers
    "peers text": (with_key("peers: clerk"), "listeners[0].peers", "must be a list, not 'clerk'"),
    "peer unknown": (
        with_key("peers: [system.buffer, calculator.ad]"),
        "listeners[0].peers[1]",
        "no listener 'calculator.ad'; did you mean 'calculator.add'?",
    ),
    "peer twice": (
        with_key("peers: [system.buffer, calculator.add, system.buffer]"),
        "listeners[0].peers[2]",
        "'system.buffer' is already peers[0]",
    ),
    "peer bool": (with_key("peers: [yes]"), "listeners[0].peers[0]", "boolean true, not as text"),
    "peer set": (with_key("peers: !!set {nobody}"), "listeners[0].peers[0]", "no listener"),
    # dotted paths and imports
    "no classes": (
        with_key("payload_class: []", instead_of="payload_class"),
        "listeners[0].payload_class",
        "at least one",
    ),
    "class number": (
        with_key("payload_class: [desk.Add, 5]", instead_of="payload_class"),
        "listeners[0].payload_class[1]",
        "the number 5",
    ),
    "no module": (with_key("replies: Sum"), "listeners[0].replies", "names no module"),
    "two dots": (with_key("replies: desk..Sum"), "listeners[0].replies", "not a dotted path"),
    "first dot": (with_key("replies: .desk.Sum"), "listeners[0].replies", "not a dotted path"),
    "last dot": (with_key("replies: desk.Sum."), "listeners[0].replies", "not a dotted path"),
    "colon": (with_key("replies: 'desk.x:Sum'"), "listeners[0].replies", "not a dotted path"),
    "dunder": (with_key("replies: desk.__class__"), "listeners[0].replies", "begins with '__'"),
    "missing module": (with_key("replies: nowhere.Sum"), "listeners[0].replies", "no module"),
    "missing attribute": (
        with_key("replies: [desk.Sum, desk.Summ]"),
        "listeners[0].replies[1]",
        "did you mean 'Sum'?",
    ),
    "class twice": (with_key("replies: [desk.Sum, desk.Sum]"), "listeners[0].replies[1]", "twice"),
    "not a class": (with_key("replies: desk.add"), "listeners[0].replies", "is not a class"),
    "class is None": (with_key("replies: desk.NOTHING"), "listeners[0].replies", "is not a class"),
    "handler number": (
        with_key("handler: desk.NUMBER", instead_of="handler"),
        "listeners[0].handler",
        "is not callable but of type int",
    ),
    "handler None": (
        with_key("handler: desk.NOTHING", instead_of="handler"),
        "listeners[0].handler",
        "is not callable",
    ),
    "handler class": (
        with_key("handler: desk.Add", instead_of="handler"),
        "listeners[0].handler",
        "is a class",
    ),
    "handler of one": (
        with_key("handler: desk.one", instead_of="handler"),
        "listeners[0].handler",
        "two positional arguments (payload, metadata), but takes (message)",
    ),
    "handler with more": (
        with_key("handler: desk.keyword", instead_of="handler"),
        "listeners[0].handler",
        "two positional arguments",
    ),
    "handler generator": (
        with_key("handler: desk.lazy", instead_of="handler"),
        "listeners[0].handler",
        "is a generator",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_has_exactly_its_problem(case: str, write: Write) -> None:
    """One mistake gives one problem, at its place, with a text that helps."""
    text, place, words = BAD[case]
    [problem] = problems_of(write(text))
    assert problem.path == place
    assert words in problem.message


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("on", "boolean true, not as text; quote it"),
        ("007", "reads 007 as the number 7; write 7 if you mean that, else quote it"),
        ("1.0", "number 1.0, not as text; quote it"),
        ("2024-01-31", "date 2024-01-31, not as text; quote it"),
        ("~", "is empty"),
        ("''", "must not be empty"),
        ("'a b'", "holds a blank or an invisible"),
        ("'a\u200bb'", "holds a blank or an invisible"),
        ("a<b", "holds '<'"),
        ("a&b", "holds '&'"),
        ("console", "is reserved"),
        ("external", "is reserved"),
        ("system", "is reserved"),
        ("system.mine", "must not begin with 'system.'"),
        ("celery.chain", "must not begin with 'celery.'"),
        ("'\\ud800'", None),
        ('"\\ud800"', "surrogate"),
    ],
)
def test_names_that_cannot_be(written: str, words: str | None, write: Write) -> None:
    """Names are refused that YAML does not read as text, that XML cannot hold, or that are
    taken.
    """
    text = GOOD.replace("name: calculator.add", f"name: {written}")
    problems = problems_of(write(text))
    if words is None:
        assert not problems
        return
    [problem] = problems
    assert problem.path == "listeners[0].name"
    assert words in problem.message


@pytest.mark.parametrize("name", ["a", "a.b.c", "a-b_c", "größe", "計算", "systems", "celery", "7"])
def test_names_that_can_be(name: str) -> None:
    """Dots, dashes and letters of any script are ordinary characters."""
    assert (
        config.ListenerConfig(
            name=name, payload_class=("m.A",), handler="m.f", description="x"
        ).name
        == name
    )


def test_two_listeners_of_one_name_are_both_named(write: Write) -> None:
    """The problem names the places of both listeners."""
    text = GOOD + LISTENER.strip("\n").replace("calculator.add", "other") + LISTENER
    [problem] = problems_of(write(text))
    assert problem.path == "listeners[2].name"
    assert problem.message == "listeners[0] and listeners[2] are both called 'calculator.add'"


def test_the_caller_says_which_system_listeners_there_are(write: Write) -> None:
    """The configuration itself knows no system listener; peers may name those that the caller
    passes.
    """
    path = write(with_key("peers: [system.graph]"))
    assert [p.path for p in config.read(path)[1]] == ["listeners[0].peers[0]"]
    assert problems_of(path, known_system_names=["system.graph"]) == []


TWENTY = """
organism: {max_depth: 0, thread_scheduling: fast, backend: {redis_ttl: x, typ: redis}, streams: []}
extra: 1
listeners:
  - name: one
    payload_class: desk.Nope
    handler: desk.one
    description: ""
    peers: [two, twoo, two]
  - name: one
    name: one
    payload_class: [desk.Add, nowhere.Add]
    handler: desk.add
    description: Fine.
    timeout_seconds: -1
    peers: [faulty]
  - just text
  - name: faulty
    payload_class: desk.Ask
    handler: desk..ask
    rate_limit: often
    queue: ${NO_SUCH}
    cpu_bound: true
  - {name: two, payload_class: desk.Ask, handler: desk.ask, description: Fine.}
"""


def test_twenty_problems_are_told_at_once(write: Write) -> None:
    """One reading finds all problems, in order of place.

    No mistake hides another: the listener after a broken one is still checked, and a peer that is
    itself broken does not count as unknown.
    """
    path = write(TWENTY)
    with pytest.raises(ConfigurationError) as caught:
        config.load(path, environ={})
    assert [problem.path for problem in caught.value.problems] == [
        "listeners[1].name",
        "listeners[3].queue",
        "extra",
        "organism.name",
        "organism.max_depth",
        "organism.thread_scheduling",
        "organism.backend.redis_ttl",
        "organism.backend.typ",
        "organism.streams",
        "listeners[0].description",
        "listeners[0].payload_class",
        "listeners[0].handler",
        "listeners[0].peers[1]",
        "listeners[0].peers[2]",
        "listeners[1].timeout_seconds",
        "listeners[1].name",
        "listeners[1].payload_class[1]",
        "listeners[2]",
        "listeners[3].handler",
        "listeners[3].description",
        "listeners[3].rate_limit",
        "listeners[3].cpu_bound",
    ]
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: 22 problems\n  listeners[1].name: this key")


def test_a_faulty_file_still_gives_what_can_be_checked_further(write: Write) -> None:
    """Routing checks the sound listeners of a faulty file; `position` is still the position in
    the file.
    """
    found, problems = config.read(write(TWENTY), environ={})
    assert len(problems) == 22
    assert found.organism.name == "unnamed"
    assert found.organism.max_depth == 50
    assert [(entry.position, entry.name) for entry in found.listeners] == [
        (0, "one"),
        (1, "one"),
        (4, "two"),
    ]
    assert found.listeners[1].timeout_seconds == 30


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are not text each give a message, not a
    traceback.
    """
    assert config.read(tmp_path / "none.yaml")[1] == (
        Problem("", "cannot be read: No such file or directory"),
    )
    assert config.read(tmp_path)[1] == (Problem("", "cannot be read: Is a directory"),)
    (tmp_path / "latin.yaml").write_bytes(b"organism: \xe9")
    [problem] = config.read(tmp_path / "latin.yaml")[1]
    assert problem.message == "is not UTF-8 text: see byte 10"
    with pytest.raises(ConfigurationError, match=r"none\.yaml: 1 problem\n  cannot be read"):
        config.load(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(write: Write) -> None:
    """Some editors save files with a byte order mark at the start."""
    path = write("\ufeff" + GOOD)
    assert config.load(path).organism.name == "desk"


def test_a_merge_key_is_no_duplicate(write: Write) -> None:
    """YAML's `<<` gives defaults that a mapping may override."""
    text = (
        "organism: {name: desk}\nlisteners:\n"
        "  - &base {name: a, payload_class: desk.Add, handler: desk.add, description: x}\n"
        "  - {<<: *base, name: b}\n"
    )
    assert [entry.name for entry in config.load(write(text)).listeners] == ["a", "b"]


def test_the_folder_of_the_file_is_importable_and_its_module_runs_once(write: Write) -> None:
    """`desk.Add` is in the `desk.py` beside the file.

    An error that the module raises is reported for each use, and the module runs only once.
    """
    notes = (
        "import pathlib\n"
        "with pathlib.Path(__file__).with_name('runs').open('a') as notes:\n"
        "    notes.write('run\\n')\n"
    )
    path = write(
        GOOD.replace("desk.Add", "desk_broken.Add").replace("desk.add", "desk_broken.add"),
        desk_broken=f"{notes}raise SystemExit('no licence')",
    )
    problems = problems_of(path)
    assert (path.parent / "runs").read_text() == "run\n"
    assert [p.path for p in problems] == ["listeners[0].payload_class", "listeners[0].handler"]
    for problem in problems:
        assert "raised SystemExit: no licence (desk_" in problem.message
        assert problem.message.endswith("broken.py, line 4)")
