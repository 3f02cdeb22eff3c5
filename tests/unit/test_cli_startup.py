"""The command line started in another project's folder, and what a failed start says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import ORGANISMS, ROOT

WORKER = ["-m", "celery", "-A", "threadloom", "worker"]
CHECK = ["-m", "threadloom", "check"]


def python(
    arguments: Sequence[str], folder: Path, *path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder that it searches first for modules, as `python -m` does."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("command", [WORKER, CHECK], ids=["celery", "threadloom"])
def test_names_of_ours_may_be_used_by_others(tmp_path: Path, command: list[str]) -> None:
    """A project's own `config`, `tasks`, `routing` and `service` packages cause no conflict."""
    for name in ("config", "tasks", "routing", "service"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('must not be imported')\n")
    done = python(command, tmp_path, THREADLOOM_ORGANISM=str(ORGANISMS / "shop/organism.yaml"))
    assert "Traceback" not in done.stderr
    if command == CHECK:
        assert done.returncode == 0
    else:
        assert "no Redis is named" in done.stderr, "it came as far as its settings"


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
    """`celery -A threadloom worker` ends with the error's text instead of a traceback."""
    done = python(WORKER, tmp_path, **environment)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
