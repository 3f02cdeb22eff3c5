"""The first thing every start does: make sure that our packages are ours.

`config`, `routing`, `primitives`, `tasks` and `service` are common names. A `config.py` in the
current folder, or a foreign package on PYTHONPATH, would be imported in place of ours and fail
later with something unreadable, or not fail at all.

This file imports nothing of the project, and its callers run it by its path (`runpy`), because
the package that it stands in may be the very one that is shadowed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGES = ("config", "routing", "primitives", "tasks", "service")


class ShadowedPackageError(ImportError):
    """Something else would be imported in place of packages of ours; `files` says what."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__(files)
        self.files = files

    def __str__(self) -> str:
        lines = [f"  {name} is {file}" for name, file in self.files.items()]
        return "\n".join(
            [
                "other modules stand in front of Threadloom's own:",
                *lines,
                "Rename them, start from another folder, or take their folder off PYTHONPATH.",
            ]
        )


def require_own_packages(first: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise ShadowedPackageError unless every package of ours resolves to this project.

    `first` are folders that a process about to be started will search before everything else.
    """
    root = Path(__file__).resolve().parents[1]
    folders = [os.fspath(folder) for folder in first]
    shadows = {name: file for name in PACKAGES if (file := _shadow(name, root, folders))}
    if shadows:
        raise ShadowedPackageError(shadows)


def _shadow(name: str, root: Path, folders: list[str]) -> str | None:
    """Return the file that would be imported as `name`, if it is not ours."""
    in_front = PathFinder.find_spec(name, folders) if folders else None
    # A folder without __init__.py is no package while there is a real one further on.
    if in_front is None or in_front.origin is None:
        in_front = _resolved(name)
    if in_front is None:
        return "nowhere to be found"
    file = in_front.origin or next(iter(in_front.submodule_search_locations or ()), "unknown")
    place = Path(file) if in_front.origin is None else Path(file).parent
    return None if place.resolve() == root / name else str(file)


def _resolved(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # loaded, but not by the import system: not by us
        return ModuleSpec(name, None, origin="a module without a file")
