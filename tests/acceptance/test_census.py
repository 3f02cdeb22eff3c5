"""`python -m examples.census` as people run it: a real Redis, a real worker, a folder of files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lxml import etree

from tests.harness import ROOT, START_TIMEOUT_S, eventually
from threadloom.service.redis_binary import RedisServerNotFoundError, find_redis_server

FILES = {
    "simple.py": b"import os\nx = 1\n",
    "<b>&.py": b"def hostile(x):\n    return 1 if x else 2\n",
    "package/__init__.py": b"",
    "package/hard.py": b"import os, json\nclass C:\n    def m(self, x):\n"
    b"        for y in x:\n            if y and x: return y\n",
    "latin.py": b"# coding: latin-1\nname = '\xe9'\n",
    "broken.py": b"def f(:\n",
    "undecodable.py": b"x = '\xe9'\n",
    "notes.txt": b"not Python",
}


@pytest.fixture(autouse=True)
def _needs_redis() -> None:
    try:
        find_redis_server()
    except RedisServerNotFoundError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `code` of Python files, some of them broken, and one `tmp` for the command."""
    for name, content in FILES.items():
        file = tmp_path / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command at work on a folder that is given relative to the working directory."""
    command = [sys.executable, "-m", "examples.census", "--root", "code", "--out", "page"]
    with subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "COLUMNS": "120",
            # Must not lead the worker anywhere.
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.terminate()


def of_this_run(folder: Path) -> list[psutil.Process]:
    """The processes, whoever their parent is, that this run's temporary directory names.

    The worker has it in its environment, as its pool has; the command and Redis as well.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder / "tmp"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_folder_with_broken_files_is_counted_and_nothing_stays_behind(
    folder: Path, started: subprocess.Popen[str]
) -> None:
    """The census is complete, the broken files are named, and every process is gone."""
    eventually(lambda: len(of_this_run(folder)) > 2, timeout_s=START_TIMEOUT_S, what="a worker")
    out, err = started.communicate(timeout=200)
    assert started.returncode == 0, (out, err)
    assert not err

    assert "measured 7 of 7 files, 2 failed" in out
    assert "package.hard.C.m" in out
    assert "Failed: 2" in out
    reasons = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "line 1: invalid syntax" in reasons["broken.py"]
    assert "missing encoding declaration" in reasons["undecodable.py"]

    page = (folder / "page" / "index.html").read_text(encoding="utf-8")
    tree: Any = etree.HTML(page)
    assert page.rstrip().endswith("</html>")
    assert not tree.xpath("//b"), "a file name became markup"
    assert tree.xpath("//section[@class='failures']//th/code/text()") == [
        "broken.py",
        "undecodable.py",
    ]
    assert len(tree.xpath("//svg//circle")) == 5

    assert of_this_run(folder) == []
    assert list((folder / "tmp").iterdir()) == []


def test_a_root_that_is_no_folder_is_refused(folder: Path) -> None:
    """Before anything is started, and with the option's name."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.census", "--root", str(folder / "gone")],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--root" in done.stderr
    assert "does not exist" in done.stderr
