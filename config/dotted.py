"""Dotted paths such as `desk.Add`, and how they become objects.

Importing runs the code of the module named, so an organism file is as trusted as a program.
What can be checked without running anything is checked first (`dotted_fault`).
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.secrets import EnvironmentText, described, masked


def make_importable(folder: Path) -> None:
    """Put `folder` at the front of `sys.path`, as `python` and `celery -A` do with theirs.

    The loader calls this with the organism file's own folder, so that `desk.Add` means the
    `desk.py` beside the file wherever the process was started. It lasts as long as the process.
    """
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)
    importlib.invalidate_caches()  # a module written since the folder was last read


def dotted_fault(path: str) -> str | None:
    """Return why `path` cannot be a dotted path, or None."""
    segments = path.split(".")
    if not all(segment.isidentifier() for segment in segments):
        return f"{described(path)} is not a dotted path like 'desk.Add'"
    if any(segment.startswith("__") for segment in segments):
        return f"{described(path)} has a segment that begins with '__'"
    if len(segments) < 2:
        return f"{described(path)} names no module; write 'module.name'"
    return None


def import_dotted(path: str) -> object:
    """Return the object at `path`: a module's attribute, or an attribute of that.

    Raises ConfigurationError, whose only problem says what went wrong: no such module, any
    exception raised while the module was imported, no such attribute.
    """
    return Importer().get(path)


class Importer:
    """Imports for one reading of a file: a module that failed is not run again for each path."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    def get(self, path: str) -> object:
        """As `import_dotted`."""
        if fault := dotted_fault(path):
            raise _error(path, fault)
        segments = path.split(".")
        for count in range(len(segments) - 1, 0, -1):
            name = ".".join(segments[:count])
            if module := self._import(path, name):
                return _attribute(path, module, name, segments[count:])
        raise _error(path, f"there is no module {segments[0]!r}")

    def _import(self, path: str, name: str) -> ModuleType | None:
        """Return the module `name`, or None if there is no such module."""
        if name in self._failed:
            raise _error(path, self._failed[name])
        try:
            return importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # a module may raise anything, SystemExit among it
            if isinstance(exc, ModuleNotFoundError) and _is_within(exc.name, name):
                return None
            self._failed[name] = f"importing {name!r} raised {_told(exc)}"
            raise _error(path, self._failed[name]) from exc


def _attribute(path: str, module: ModuleType, holder: str, names: list[str]) -> object:
    found: object = module
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError:
            near = nearest(name, [n for n in dir(found) if not n.startswith("_")])
            raise _error(path, f"{holder!r} has no {name!r}{near}") from None
        except Exception as exc:  # a module's own __getattr__
            raise _error(path, f"looking up {name!r} in {holder!r} raised {_told(exc)}") from exc
        holder = f"{holder}.{name}"
    return found


def nearest(word: str, options: list[str]) -> str:
    """Return `; did you mean 'x'?` for the option most like `word`, or nothing."""
    found = difflib.get_close_matches(word, options, n=1)
    return f"; did you mean {described(found[0])}?" if found else ""


def _is_within(missing: str | None, name: str) -> bool:
    """Whether the module that was not found is `name` or a package on the way to it."""
    return missing is not None and (name == missing or name.startswith(f"{missing}."))


def _told(exc: BaseException) -> str:
    """Return type, text and place of `exc` in one line; its `__str__` may fail."""
    text = str(traceback.TracebackException.from_exception(exc)).strip().partition("\n")[0][:300]
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename[:1] != "<"]
    last = frames[-1] if frames else None
    # the last frame is importlib's when the module itself could not be compiled
    here = last is not None and "importlib" not in last.filename and last.filename != __file__
    where = f" ({Path(last.filename).name}, line {last.lineno})" if here and last else ""
    return f"{type(exc).__name__}{': ' if text else ''}{text}{where}"


def _error(path: str, message: str) -> ConfigurationError:
    if isinstance(path, EnvironmentText):
        for segment in set(path.split(".")) - set(path.shown.split(".")):
            message = re.sub(rf"\b{re.escape(segment)}\b", "…", message)
        message = f"{described(path)}: {message}"
    return ConfigurationError(masked(path), [Problem("", message)])
