"""Dotted paths: which are refused without an import, and how a failed import is reported."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadloom import config
from threadloom.config import ConfigurationError, ModuleSpace, place
from threadloom.config.dotted import Importer, dotted_fault

_numbers = itertools.count()
Module = Callable[[str], str]
Reading = Callable[[], Importer]


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """Write a module of the given code and return its name."""

    def write(code: str) -> str:
        name = f"dotted_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    """Start to read an organism file that lies beside those modules."""
    begun: list[Importer] = []

    def begin() -> Importer:
        begun.append(Importer(ModuleSpace(tmp_path)))
        return begun[-1]

    yield begin
    for each in begun:
        each.discard()


@pytest.mark.parametrize("path", ["a.b", "a.b.c", "_a._b", "größe.x", "a1.B2"])
def test_dotted_paths(path: str) -> None:
    """A dotted path is a module and a name in it, however deep."""
    assert dotted_fault(path) is None


@pytest.mark.parametrize(
    "path",
    ["", "a", ".", ".a", "a.", "a..b", "a b.c", "a.b()", "a.1", "a-b.c", "a/b.c", "a:b", "a.b\n",
     "a.__class__", "__main__.x", "a.__init__.__globals__"],
)  # fmt: skip
def test_what_is_no_dotted_path_is_never_imported(path: str) -> None:
    """A relative path, an expression and a path into Python's internals are refused."""
    assert dotted_fault(path)
    with pytest.raises(ConfigurationError):
        Importer().get(path)


@given(path=st.text(alphabet="a.1_- ") | st.text())
def test_a_path_without_fault_is_what_it_says(path: str) -> None:
    """An accepted path consists of two or more identifiers and nothing else."""
    if dotted_fault(path) is None:
        segments = path.split(".")
        assert len(segments) >= 2
        assert all(s.isidentifier() and not s.startswith("__") for s in segments)


def test_the_object_is_returned_even_from_inside_a_class(module: Module, reading: Reading) -> None:
    """A function, a class, an attribute of a class, and None can all be the object."""
    name = module("def f(): ...\nclass A:\n    class B: ...\nNONE = None\n")
    importer = reading()
    assert importer.get(f"{name}.A.B") is importer.get(f"{name}.A").B  # type: ignore[attr-defined]
    assert importer.get(f"{name}.NONE") is None
    assert importer.get("threadloom.config.errors.Problem") is config.Problem


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1/0", "raised ZeroDivisionError: division by zero (NAME.py, line 1)"),
        ("\nimport no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing' (NAME.py"),
        ("from os import no_such_thing", "raised ImportError: cannot import name"),
        ("def (", "raised SyntaxError: invalid syntax (NAME.py, line 1)"),
        ("raise SystemExit", "raised SystemExit (NAME.py, line 1)"),
        ("raise BaseException('a\\nb')", "raised BaseException: a (NAME.py, line 1)"),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E", "raised E: <exception str() f"),
        ("def __getattr__(name): 1/0", "looking up 'f' in 'NAME' raised ZeroDivisionError"),
        ("def ff(): ...", "'NAME' has no 'f'"),
        ("def handle(): ...", "'NAME' has no 'f'"),
    ],
)
def test_any_failure_names_its_exception_and_where_it_was_raised(
    code: str, message: str, module: Module, reading: Reading
) -> None:
    """Whatever a module does while it is imported, the message is one line about it."""
    name = module(code)
    with pytest.raises(ConfigurationError) as caught:
        reading().get(f"{name}.f")
    [problem] = caught.value.problems
    assert message.replace("NAME", name) in problem.message
    assert "\n" not in problem.message
    assert caught.value.source == f"{name}.f"


def test_a_user_who_interrupts_is_obeyed(module: Module, reading: Reading) -> None:
    """Ctrl-C during a slow import ends the command and is not reported as a problem of the file."""
    with pytest.raises(KeyboardInterrupt):
        reading().get(f"{module('raise KeyboardInterrupt')}.f")


def test_a_missing_module_is_not_confused_with_one_that_misses_another(
    module: Module, reading: Reading
) -> None:
    """`nowhere.x` does not exist, and neither does a module below a file that is not a package."""
    with pytest.raises(ConfigurationError, match="there is no module 'nowhere'"):
        reading().get("nowhere.inside.x")
    name = module("")
    with pytest.raises(ConfigurationError, match=f"'{name}' has no 'inside'"):
        reading().get(f"{name}.inside.x")


def test_a_broken_module_runs_once_for_each_reading(module: Module, reading: Reading) -> None:
    """A file with a hundred listeners in one broken module runs it once.

    A later reading tries again, because the module may have been repaired.
    """
    name = module("import sys\nsys.dotted_runs = getattr(sys, 'dotted_runs', 0) + 1\n1/0")
    try:
        importer = reading()
        for attribute in ("f", "g"):
            with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
                importer.get(f"{name}.{attribute}")
        assert sys.dotted_runs == 1  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
            reading().get(f"{name}.f")
        assert sys.dotted_runs == 2  # type: ignore[attr-defined]
    finally:
        del sys.dotted_runs  # type: ignore[attr-defined]


def test_places_read_like_the_file() -> None:
    """A key with dots is quoted, because otherwise two places would look the same."""
    assert place("listeners", 2, "peers", 0) == "listeners[2].peers[0]"
    assert place("organism", "celery", "a.b", "c-d") == 'organism.celery["a.b"].c-d'
    assert place("a b") == '["a b"]'
    assert place() == ""
