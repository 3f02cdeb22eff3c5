"""Commands whose standard streams are closed, full, left early or in an odd encoding.

Each is a real process started by a shell, without a worker or a Redis.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")

ORGANISM = """\
organism: {name: "écho"}
listeners:
  - {name: echo, payload_class: echoes.Text, handler: echoes.echo,
     description: "écho € 😀 \\u0085 \\u202E"}
"""
HANDLERS = """\
from dataclasses import dataclass
from threadloom import HandlerResponse, payload

@payload
@dataclass
class Text:
    text: str

def echo(message: Text, meta: object) -> HandlerResponse:
    return HandlerResponse.respond(message)
"""


def shell(folder: Path, line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell, in which `$T` is the command, in a folder with an organism."""
    (folder / "organism.yaml").write_text(ORGANISM, encoding="utf-8")
    (folder / "echoes.py").write_text(HANDLERS)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "state"),
            "T": f"{sys.executable} -m threadloom",
            **environment,
        },
        capture_output=True,
        timeout=200,
        # A test run in the background has the signal ignored, and so would its processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_json_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    """What the encoding lacks is escaped as JSON does; so is what would steer a terminal."""
    done = shell(tmp_path, "$T check --json", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.isascii()
    [described] = [
        entry["description"]
        for entry in json.loads(done.stdout)["listeners"]
        if entry["name"] == "echo"
    ]
    assert described == "écho € 😀 \x85 \u202e"


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("$T check >&-", 0, b""),
        ("$T check nope.yaml 2>&-", 2, b""),
        ("$T check | head -c 1; exit ${PIPESTATUS[0]}", 0, b""),
        ("$T check >/dev/full", 5, b"standard output cannot be written: No space left"),
        ("$T check nope.yaml >/dev/full", 2, b"cannot be read"),
        ("COLUMNS=0 $T check", 0, b""),
        ("COLUMNS=1 $T check", 0, b""),
    ],
)
def test_a_command_does_its_work_whatever_its_streams_are(
    tmp_path: Path, line: str, status: int, told: bytes
) -> None:
    """The exit status is the documented one; what nobody can read is told where it can be."""
    done = shell(tmp_path, line)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert told or not done.stderr


def test_a_closed_standard_input_is_no_payload(tmp_path: Path) -> None:
    """`send -` says so, instead of failing at what is not there; no socket gets its number."""
    environment = {"THREADLOOM_REDIS_URL": f"unix://{tmp_path}/none.sock"}
    done = shell(tmp_path, "$T send echo - <&-", **environment)
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr


def test_ctrl_c_while_it_starts_leaves_no_traceback(tmp_path: Path) -> None:
    """While handlers are imported it says `interrupted`: the status is 130."""
    (tmp_path / "waits.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    done = shell(tmp_path, "sed -i 's/echoes.echo/waits.echo/' organism.yaml; $T check")
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, b"")
    assert done.stderr == b"interrupted\n"


def test_ctrl_c_while_the_command_itself_is_imported_ends_it(tmp_path: Path) -> None:
    """The process ends by the signal: there is nothing yet that could say more."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'threadloom.service': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = shell(tmp_path, f"PYTHONPATH=$PWD:{ROOT} $T check")
    assert done.returncode in (128 + signal.SIGINT, -signal.SIGINT)
    assert b"KeyboardInterrupt" not in done.stderr
