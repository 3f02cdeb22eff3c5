"""The import rules of pyproject.toml hold: imports run one way, and public lists are true."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
#: packages that only decide, and so reach no store
DECIDING: list[str] = CONTRACTS[2]["source_modules"]
#: our modules, and the examples, which import them as a user does
USERS = sorted(
    file.relative_to(ROOT)
    for folder in [*(ROOT / "threadloom").iterdir(), ROOT / "examples"]
    for file in ([folder] if folder.suffix == ".py" else folder.rglob("*.py"))
)
#: every package below `threadloom`, whose own `__all__` is the public face
PACKAGES = [".".join(f.parent.parts) for f in USERS if f.name == "__init__.py"]
PACKAGES = [name for name in PACKAGES if name.startswith("threadloom.")]


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


def miniature(folder: Path) -> Path:
    """Empty packages under the names that the contracts speak of; returns `threadloom`'s folder."""
    names = ["threadloom", *LAYERS, *DECIDING, "threadloom.routing.backends"]
    for name in sorted(set(names)):
        package = folder.joinpath(*name.split("."))
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
    return folder / "threadloom"


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
    """A miniature of the project with one wrong import breaks the contracts."""
    culprit = miniature(tmp_path).joinpath(*package.split("."), "culprit.py")
    culprit.write_text(f"{statement}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{package}.culprit" in done.stdout


def test_all_that_decides_is_held_to_it() -> None:
    """The contract names every module of routing except the modules of the stores."""
    folder = ROOT / "routing"
    modules = {file.stem for file in folder.glob("*.py")} | {
        file.parent.name for file in folder.glob("*/__init__.py")
    }
    listed = {name.rpartition(".")[2] for name in DECIDING if ".routing." in name}
    assert listed == modules - {"__init__", "backends"}


def test_a_circle_of_imports_is_seen(tmp_path: Path) -> None:
    """Two modules that import each other break the contracts, in whichever package they are."""
    folder = miniature(tmp_path)
    for name, other in [("one", "other"), ("other", "one")]:
        (folder / "tasks" / f"{name}.py").write_text(f"from threadloom.tasks import {other}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No cycles" in done.stdout.partition("Broken contracts")[2]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_names_what_is_really_there(name: str) -> None:
    """`__all__` lists every public name of a package once, and nothing else.

    (ruff's RUF022 keeps the order.) Of `PUBLIC_MODULES` each is there.
    """
    package = importlib.import_module(name)
    listed = package.__all__
    there = {
        public
        for public, value in vars(package).items()
        if not public.startswith("_")
        and public != "PUBLIC_MODULES"
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", None) != "__future__"
    }
    assert len(set(listed)) == len(listed), "a name stands twice"
    assert there - set(listed) == set(), "public, but not listed"
    assert [each for each in listed if not hasattr(package, each)] == [], "listed, but not there"
    for module in getattr(package, "PUBLIC_MODULES", ()):
        importlib.import_module(f"{name}.{module}")


def past_lists(importer: str, source: str) -> list[str]:
    """Return what a module imports from other packages without finding it on their public lists."""
    return [
        f"{module} {name}".rstrip()
        for module, name in taken(ast.parse(source))
        for package in PACKAGES
        if not f"{importer}.".startswith(f"{package}.") and not is_public(package, module, name)
    ]


def taken(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Return the imported modules, each with the name that is imported from it, or ""."""
    packages: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)
            for alias in node.names:
                packages[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):  # `tasks.inject` takes a name from `tasks`
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package = packages.get(node.value.id, "")
            if package in PACKAGES:
                yield package, node.attr


def is_public(package: str, module: str, name: str) -> bool:
    """Return whether a package's lists allow the import, if the module belongs to the package."""
    lists = importlib.import_module(package)
    modules = getattr(lists, "PUBLIC_MODULES", ())
    if module == package:
        return not name or name in (*lists.__all__, *modules)
    inside = module.removeprefix(f"{package}.")
    return inside == module or inside.partition(".")[0] in modules


@pytest.mark.parametrize("file", USERS, ids=str)
def test_nobody_imports_past_a_package(file: Path) -> None:
    """Every name that others import from a package is in its `__all__` or in one of its
    `PUBLIC_MODULES`. All other names are private to the package and may move freely. Tests and
    benchmarks may import private names.
    """
    importer = ".".join(file.with_suffix("").parts)
    source = (ROOT / file).read_text(encoding="utf-8")
    assert past_lists(importer.removesuffix(".__init__"), source) == []


@pytest.mark.parametrize(
    ("importer", "source", "past"),
    [
        ("threadloom.tasks.x", "from threadloom.routing.planner import plan", True),
        ("threadloom.tasks.x", "import threadloom.routing.planner", True),
        ("threadloom.tasks.x", "from threadloom.routing import planner", True),
        ("threadloom.tasks.x", "from threadloom.routing import plan", False),
        ("threadloom.tasks.x", "from threadloom.routing.records import Delivery", False),
        ("threadloom.tasks.x", "from threadloom.routing.payloads.markup import XML", True),
        ("threadloom.tasks.x", "from threadloom.routing.payloads import XML", False),
        ("threadloom.routing.x", "from threadloom.routing.planner import plan", False),
        ("threadloom.routing.x", "from threadloom.routing.payloads.markup import XML", True),
        ("threadloom.routing.payloads.x", "from threadloom.routing.errors import X", False),
        ("examples.x", "from threadloom import tasks\ntasks.inject", False),
        ("examples.x", "from threadloom import tasks\ntasks.publisher", True),
    ],
)
def test_an_import_past_a_package_is_seen(importer: str, source: str, past: bool) -> None:
    """The search finds every form of import that reaches past a public list."""
    assert bool(past_lists(importer, source)) is past


def test_the_public_face_is_what_it_says() -> None:
    """`__all__`, the homes of its names and the imports that type checkers read all agree."""
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


def test_a_module_of_payloads_loads_neither_celery_nor_redis_nor_the_service() -> None:
    """Handlers and payloads import little, so that a web process may import them, too."""
    program = (
        "import sys; from threadloom import payload, HandlerMetadata, HandlerResponse, XML\n"
        "heavy = {'celery', 'kombu', 'redis', 'typer'}\n"
        "print([m for m in sys.modules if m.partition('.')[0] in heavy])\n"
        "ours = ('threadloom.tasks', 'threadloom.service')\n"
        "print([m for m in sys.modules if m.startswith(ours)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["[]", "[]", ""]


def test_no_module_goes_by_two_names() -> None:
    """The checkout's folders can be imported as `tasks` from its root, but no code of ours does
    so. ruff's banned-api refuses such an import in code. This test loads all modules and finds
    no folder imported under its top-level name.
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
