"""Dotted paths such as `desk.Add`, and how they become objects.

Importing runs the code of the module named, so an organism file is as trusted as a program.
What can be checked without running anything is checked first (`dotted_fault`).
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, ModuleType

from threadloom.config import module_space
from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.module_space import ModuleSpace, public
from threadloom.config.secrets import EnvironmentText, described, masked


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


class Importer:
    """Imports for one reading of a file: a module that failed is not run again for each path."""

    def __init__(self, space: ModuleSpace | None = None) -> None:
        """`space`: the modules of the file's folder; None: it has none of its own."""
        self.space = space or ModuleSpace()
        self._failed: dict[str, str] = {}

    def get(self, path: str) -> object:
        """Return the object at `path`: a module's attribute, or an attribute of that.

        Raises ConfigurationError, whose only problem says what went wrong: no such module, any
        exception raised while the module was imported, no such attribute.
        """
        if fault := dotted_fault(path):
            raise _error(path, fault)
        segments = path.split(".")
        for count in range(len(segments) - 1, 0, -1):
            name = ".".join(segments[:count])
            if module := self._import(path, name):
                return _attribute(path, module, name, segments[count:])
        raise _error(path, f"there is no module {segments[0]!r}")

    def discard(self) -> None:
        """Take the modules of the file's folder out of the process, if nobody reads the file.

        A module of the folder may read the very file that names it (see `reading`): then they
        belong to whoever began.
        """
        if self not in _reading.get().values():
            self.space.discard()

    def _import(self, path: str, name: str) -> ModuleType | None:
        """Return the module `name`, or None if there is no such module."""
        if name in self._failed:
            raise _error(path, self._failed[name])
        try:
            return self.space.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # a module may raise anything, SystemExit among it
            if isinstance(exc, ModuleNotFoundError) and _is_within(exc.name, name):
                return None
            self._failed[name] = f"importing {name!r} raised {_told(exc)}"
            raise _error(path, self._failed[name]) from exc


#: the files that are being read in this context, with whoever imports for them
_reading: ContextVar[Mapping[Path, Importer]] = ContextVar("reading", default=MappingProxyType({}))


@contextmanager
def reading(file: Path, *, label: str) -> Iterator[Importer]:
    """Give the importer for one reading of the organism file `file`, an absolute path.

    A new one with a space of its own, unless a module that is imported for the very same file
    reads it, too, as a Celery app does that is made in the package of the handlers: it gets the
    same one, or the two would go on loading each other for ever.
    """
    under_way = _reading.get()
    importer = under_way.get(file) or Importer(ModuleSpace(file.parent, label=label))
    token = _reading.set({**under_way, file: importer})
    try:
        yield importer
    finally:
        _reading.reset(token)


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
    frames = [f for f in frames if f.filename != module_space.__file__]
    last = frames[-1] if frames else None
    # the last frame is importlib's when the module itself could not be compiled
    here = last is not None and "importlib" not in last.filename and last.filename != __file__
    where = f" ({Path(last.filename).name}, line {last.lineno})" if here and last else ""
    return public(f"{type(exc).__name__}{': ' if text else ''}{text}{where}")


def _error(path: str, message: str) -> ConfigurationError:
    if isinstance(path, EnvironmentText):
        for segment in set(path.split(".")) - set(path.shown.split(".")):
            message = re.sub(rf"\b{re.escape(segment)}\b", "…", message)
        message = f"{described(path)}: {message}"
    return ConfigurationError(masked(path), [Problem("", message)])
