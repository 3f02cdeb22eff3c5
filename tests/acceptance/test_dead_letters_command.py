"""`threadloom dead-letters` and `kill` as people use them: real processes beside a real worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.harness import ROOT, Deployment, eventually
from tests.mill import Mill, error_of, value_of
from threadloom.service.commands import run

pytest_plugins = ["tests.mill_fixtures"]


class Terminal:
    """A shell in which the mill is the organism."""

    def __init__(self, deployment: Deployment) -> None:
        self.environment = {
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "150",
            "THREADLOOM_ORGANISM": str(deployment.organism),
            "THREADLOOM_REDIS_URL": deployment.redis_url,
        }

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """`threadloom` with these arguments, which has to end with this status."""
        done = subprocess.run(
            [sys.executable, "-m", "threadloom", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        """As `run` with --json, and what it printed."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)


@pytest.fixture
def terminal(mill_deployment: Deployment) -> Terminal:
    return Terminal(mill_deployment)


@pytest.fixture
def failed(mill: Mill) -> list[str]:
    """The mill after three conversations have failed, the newest first, and nothing else has."""
    for letter in mill.every_letter():
        mill.drop(letter)
    ids = []
    for _ in range(3):
        ids.insert(0, mill.begin("millstone", breaks="raise").id)
        error_of(mill.app.AsyncResult(ids[0]))
    return ids


def test_from_the_list_to_the_replay(mill: Mill, terminal: Terminal, failed: list[str]) -> None:
    """Look at the list and at one of them, mend it, replay it, and see all that in its thread."""
    shown = terminal.run("dead-letters", "list", "--limit", "2").stdout
    assert _in_order(shown, failed[0], "millstone", "Grind grain=", "ValueError: broken", failed[1])
    assert failed[2] not in shown
    assert f"older ones: --before {failed[1]}" in shown

    shown = terminal.run("dead-letters", "show", failed[2]).stdout
    assert _in_order(
        shown, f"delivery      {failed[2]}", "attempts      1", "external → millstone",
        f"conversation  {failed[2]}", "✗ error", "payload", "<Grind>",
        f"  <grain>{mill.grain}</grain>", "</Grind>",
        "error", "Traceback", "mill_handlers.py", "ValueError: broken: under the doormat",
    )  # fmt: skip

    mill.repair()
    assert "replayed 1 dead letter" in terminal.run("dead-letters", "replay", failed[2]).stdout
    assert value_of(mill.again(mill.app.AsyncResult(failed[2])))["run"] == 2
    refused = terminal.run("dead-letters", "replay", failed[2], status=2)
    assert f"Error: no dead letter {failed[2]}" in refused.stderr

    told = terminal.run("thread", failed[2]).stdout
    assert _in_order(
        told, "✗ dead letter millstone", "note millstone", "Traceback", "✗ error",
        "↻ replayed millstone", "✓ completed",
    )  # fmt: skip


def test_programs_read_the_same_as_json(mill: Mill, terminal: Terminal, failed: list[str]) -> None:
    """Pages lead on by `next_before`; --all takes what there is now, and no more afterwards."""
    page = terminal.json("dead-letters", "list", "--limit", "2")
    assert ([each["id"] for each in page["dead_letters"]], page["next_before"]) == (
        failed[:2], failed[1],
    )  # fmt: skip
    page = terminal.json("dead-letters", "list", "--before", page["next_before"])
    [third] = page["dead_letters"]
    assert (third["id"], third["to"], third["attempts"]) == (failed[2], "millstone", 1)
    assert page["next_before"] is None

    whole = terminal.json("dead-letters", "show", failed[2])
    assert {name: whole[name] for name in third} == third
    assert (whole["chain"], whole["status"]) == (["external", "millstone"], "error")
    assert mill.grain in whole["envelope"]

    dropped = terminal.json("dead-letters", "drop", failed[0], "nobody", status=2)
    assert dropped == {
        "dropped": [failed[0]],
        "refused": [{"id": "nobody", "reason": "no dead letter nobody"}],
    }
    mill.repair()
    replayed = terminal.json("dead-letters", "replay", "--all")
    assert replayed == {"replayed": failed[1:], "refused": []}
    for each in failed[1:]:
        assert value_of(mill.again(mill.app.AsyncResult(each)))["run"] == 2
    assert terminal.json("dead-letters", "list") == {"dead_letters": [], "next_before": None}
    assert "no dead letters" in terminal.run("dead-letters", "drop", "--all").stdout


def test_a_listeners_dead_letters_of_a_time_are_replayed(
    mill: Mill, terminal: Terminal, failed: list[str]
) -> None:
    """Both --to and --since have to be true; what they leave out stays a dead letter."""
    letters = terminal.json("dead-letters", "list")["dead_letters"]
    middle_s = letters[1]["at_ms"] / 1000
    since = datetime.fromtimestamp(middle_s, UTC).isoformat(timespec="milliseconds")
    nothing = {"replayed": [], "refused": []}
    replay = ("dead-letters", "replay")
    assert terminal.json(*replay, "--to", "nobody") == nothing
    assert terminal.json(*replay, "--to", "millstone", "--since", "2100-01-01") == nothing
    mill.repair()
    replayed = terminal.json(*replay, "--to", "millstone", "--since", since)
    assert replayed == {"replayed": failed[:2], "refused": []}
    assert terminal.json(*replay, failed[2][:13]) == {"replayed": [failed[2]], "refused": []}
    for each in failed:
        assert value_of(mill.again(mill.app.AsyncResult(each)))["run"] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dead-letters", "replay", "x", "--to", "y"), "cannot be combined"),
        (("dead-letters", "replay", "--since", "soon"), "write a time as"),
        (("dead-letters", "show", "nobody"), "no dead letter nobody"),
        (("dead-letters", "list", "--before", "nobody"), "no dead letter nobody"),
        (("dead-letters", "replay"), "ID or --all"),
        (("dead-letters", "drop", "x", "--all"), "ID or --all"),
        (("kill", "nobody"), "no conversation nobody"),
    ],
)
def test_what_cannot_be_is_told(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    told: str,
) -> None:
    """Status 2, and why; in this process, since one of its own would show nothing else."""
    for name, value in terminal.environment.items():
        monkeypatch.setenv(name, value)
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert (shown.out, told in shown.err) == ("", True)


def test_kill_ends_a_conversation(mill: Mill, terminal: Terminal) -> None:
    """One that waits for its next run, as its thread shows: the sender hears, and it never runs.
    A second kill changes nothing."""
    begun = mill.begin("wheel", succeeds_at=2, after_s=60.0)
    eventually(lambda: any(e.event == "retry" for e in mill.log(begun.id)), what="a retry")
    shown = terminal.run("thread", begun.id).stdout
    assert re.search(r"retry wheel +again in 60000 ms: .*RetryLater: no water", shown)
    assert f"{begun.id} killed" in terminal.run("kill", begun.id).stdout
    assert error_of(begun).code == "killed"
    assert terminal.json("kill", begun.id) == {"conversation": begun.id, "killed": False}
    mill.story(begun.id)
    assert len(mill.runs()) == 1


def _in_order(text: str, *parts: str) -> bool:
    """Whether all of them stand there, one after the other."""
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None
