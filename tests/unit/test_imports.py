"""The architecture as pyproject.toml states it: imports run one way, public lists are true."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import threadloom

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = ROOT / "pyproject.toml"
CONTRACTS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
]
LAYERS: list[str] = CONTRACTS[0]["layers"]
STORES = ["threadloom.routing.backends"]
STORES += [f"{STORES[0]}.{name}" for name in ("manager", "memory", "redis")]
#: what decides, and so reaches no store
DECIDING: list[str] = CONTRACTS[2]["source_modules"]


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
        ("config", "import threadloom.routing"),
        ("routing", "from threadloom import primitives"),
        ("primitives", "from threadloom.tasks import app"),
        ("tasks", "import threadloom.service"),
        ("routing.planner", "from celery import chain"),
        ("primitives", "import kombu"),
        ("primitives", "import redis"),
        ("routing.planner", "import redis"),
        ("routing.planner", "from threadloom.routing.backends import RedisBackend"),
    ],
)
def test_an_import_against_the_direction_is_seen(
    tmp_path: Path, package: str, statement: str
) -> None:
    """The contracts do bite: a miniature of the project with one wrong import fails them."""
    names = ["threadloom", *LAYERS, *DECIDING, "threadloom.routing.backends"]
    for name in sorted(set(names)):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
    culprit = tmp_path.joinpath("threadloom", *package.split("."), "culprit.py")
    culprit.write_text(f"{statement}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{package}.culprit" in done.stdout


def test_all_that_decides_is_held_to_it() -> None:
    """The contract names every module of routing but those of the stores."""
    folder = ROOT / "routing"
    modules = {file.stem for file in folder.glob("*.py")} | {
        file.parent.name for file in folder.glob("*/__init__.py")
    }
    listed = {name.rpartition(".")[2] for name in DECIDING if ".routing." in name}
    assert listed == modules - {"__init__", "backends"}


@pytest.mark.parametrize("name", [*LAYERS, *STORES])
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


def test_the_public_face_is_what_it_says() -> None:
    """`__all__`, the homes of its names and the imports that type checkers read are alike."""
    homes = {name: home for home, names in threadloom._HOMES.items() for name in names.split()}
    tree = ast.parse((ROOT / "threadloom" / "__init__.py").read_text(encoding="utf-8"))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: str(node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {name: f"threadloom.{home}" for name, home in homes.items()}
    assert threadloom.__all__ == list(dict.fromkeys(threadloom.__all__)), "a name stands twice"
    assert set(threadloom.__all__) == set(homes)
    for name in threadloom.__all__:
        assert getattr(threadloom, name) is not None


def test_a_module_of_payloads_loads_neither_celery_nor_the_service() -> None:
    """What handlers and payloads import is light: a web process may import them, too."""
    program = (
        "import sys; from threadloom import payload, HandlerMetadata, HandlerResponse, XML\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('celery', 'kombu', 'typer')])\n"
        "ours = ('threadloom.tasks', 'threadloom.service')\n"
        "print([m for m in sys.modules if m.startswith(ours)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["[]", "[]", ""]


def test_no_module_goes_by_two_names() -> None:
    """The checkout's folders can be imported as `tasks` from its root; nothing of ours does so.

    ruff's banned-api refuses it in code. Here all of it is loaded, and no top-level name of a
    folder came with it.
    """
    program = (
        "import pkgutil, importlib, sys, threadloom\n"
        "for m in pkgutil.walk_packages(threadloom.__path__, 'threadloom.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "folders = {'config', 'routing', 'primitives', 'tasks', 'service', 'streams'}\n"
        "print(sorted(folders & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
