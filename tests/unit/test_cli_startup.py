"""Names that others use too: a start stops when something stands in front of our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import ORGANISMS, ROOT

WORKER = ["-m", "celery", "-A", "tasks", "worker"]
CHECK = ["-m", "service.cli", "check"]


def python(
    arguments: Sequence[str], folder: Path, *path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, which it searches first, as `python -m` does."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("shadow", "command"),
    [
        ("config.py", WORKER),
        ("routing/__init__.py", WORKER),
        ("config.py", CHECK),
        ("primitives.py", CHECK),
        ("tasks.py", CHECK),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_what_shadows_a_package_is_named(tmp_path: Path, shadow: str, command: list[str]) -> None:
    """The error names the file, in place of whatever its import would have led to."""
    file = tmp_path / shadow
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise RuntimeError('must not be imported')\n")
    done = python(command, tmp_path, THREADLOOM_ORGANISM=str(ORGANISMS / "shop/organism.yaml"))
    assert done.returncode == 2, done.stderr
    assert f"{shadow.partition('/')[0].removesuffix('.py')} is {file}" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_looks_where_the_worker_will_look(tmp_path: Path) -> None:
    """The worker searches the folder it is started in first, even if the command does not."""
    (tmp_path / "tasks.py").write_text("")
    organism = str(ORGANISMS / "shop" / "organism.yaml")
    done = python(["-P", *CHECK, organism], tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"tasks is {tmp_path / 'tasks.py'}" in done.stderr


def test_other_programs_get_an_import_error(tmp_path: Path) -> None:
    """Only commands end the process; whoever imports `tasks` gets an exception."""
    (tmp_path / "config.py").write_text("")
    program = "try: import tasks\nexcept ImportError as exc: print(exc)"
    done = python(["-c", program], tmp_path, tmp_path)
    assert f"config is {tmp_path / 'config.py'}" in done.stdout


def test_a_folder_without_code_shadows_nothing(tmp_path: Path) -> None:
    """`config/` and `tests/` folders with data are common, and Python passes them over."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings.yaml").write_text("")
    done = python([*CHECK, str(ORGANISMS / "shop" / "organism.yaml")], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "name the organism file in THREADLOOM_ORGANISM"),
        ({"THREADLOOM_ORGANISM": "missing.yaml"}, "cannot be read"),
        ({"THREADLOOM_ORGANISM": str(ORGANISMS / "shop" / "organism.yaml")}, "no Redis is named"),
    ],
)
def test_celery_tells_why_an_organism_cannot_start(
    tmp_path: Path, environment: dict[str, str], told: str
) -> None:
    """`celery -A tasks worker` ends with the error's text instead of a traceback."""
    done = python(WORKER, tmp_path, **environment)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
