"""The architecture as pyproject.toml states it: imports run one way, public lists are true."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = ROOT / "pyproject.toml"
PACKAGES: list[str] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"][
    "root_packages"
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with our contracts over the packages of one folder."""
    program = "import sys; from importlinter.cli import lint_imports_command as lint; lint()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo", "--config", str(PYPROJECT)],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_imports_run_from_the_top_to_the_ground() -> None:
    """Every contract of pyproject.toml holds for the project as it is."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("package", "statement"),
    [
        ("config", "import routing"),
        ("routing", "import primitives"),
        ("primitives", "import tasks"),
        ("tasks", "import service"),
        ("routing", "from celery import chain"),
        ("primitives", "import kombu"),
    ],
)
def test_an_import_against_the_direction_is_seen(
    tmp_path: Path, package: str, statement: str
) -> None:
    """The contracts do bite: a miniature of the project with one wrong import fails them."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / package / "culprit.py").write_text(f"{statement}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{package}.culprit" in done.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_all_names_what_is_really_there(name: str) -> None:
    """`__all__` lists every public name of the package once, and nothing else.

    (ruff's RUF022 keeps the order.)
    """
    package = importlib.import_module(name)
    listed = package.__all__
    there = {
        public
        for public, value in vars(package).items()
        if not public.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", None) != "__future__"
    }
    assert len(set(listed)) == len(listed), "a name stands twice"
    assert there - set(listed) == set(), "public, but not listed"
    assert [each for each in listed if not hasattr(package, each)] == [], "listed, but not there"
