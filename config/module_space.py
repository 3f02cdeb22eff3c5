"""A space of modules of its own for each organism, and for each time that its file is read.

The modules in the folder of an organism file are loaded under a private package, such as
`threadloom._organisms.desk_3.handlers`. So two organisms in one process may each have a
`handlers.py`, and reading a file again loads its code again beside the code that still runs. The
private names stand in `sys.modules`, where dataclasses, `typing.get_type_hints`, `inspect` and
`pickle` look for them. The folder is not put on `sys.path`.

What an import statement in such a module means, in this order:

1. A relative import stays in the package that it stands in.
2. A name that begins with a module or package of the folder means that one, whatever else bears
   the name: the folder's `types.py` hides the standard one from the folder's modules, and from
   nobody else. `threadloom` and names like `__main__` are never the folder's. A subfolder without
   `__init__.py` may hold anything: where the process has another module of its name, it is meant
   only by those who ask for something that lies in it.
3. Any other name means what it means everywhere in the process.

What the process has already imported from the very same file under its ordinary name is the
process's own and is shared, packages with all that lies below them: a Django model that was loaded
twice would be refused by Django, and signal receivers or Celery tasks would be registered twice.

Import statements look `__import__` up in the builtins of the module that they stand in; that is
the hook used here. A dynamic import by name, such as `importlib.import_module("handlers")`, runs in
importlib's own module and means what it means everywhere; `import_module(".handlers", __package__)`
finds the folder's.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import itertools
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

#: the package of all spaces; there is no such folder
_ROOT = "threadloom._organisms"
_PRIVATE = re.compile(re.escape(_ROOT) + r"\.\w+\.")
_NO_NAME = re.compile(r"\W")
#: where the package of a space holds it
_SPACE = "__module_space__"
_numbers = itertools.count(1)


def public(text: str) -> str:
    """Return `text` with every private module name in it as the organism file writes it.

    `public(cls.__module__)` is `handlers`; error texts and tracebacks may hold several.
    """
    return _PRIVATE.sub("", text)


class ModuleSpace:
    """The modules of one folder for one organism; `folder` None: it has none of its own.

    `label` makes the private names readable and need not be unique. One space may be used by
    several threads, as the import system may.
    """

    def __init__(self, folder: Path | None = None, *, label: str = "") -> None:
        self._folder = folder
        self._package = f"{_ROOT}.{_NO_NAME.sub('_', label)}_{next(_numbers)}"
        self._files: dict[str, str] = {}
        self._claims: dict[str, bool | None] = {}
        #: what the space's modules have for builtins
        self.builtins = {**vars(builtins), "__import__": self._import}
        if folder is not None:
            importlib.invalidate_caches()  # a module written since the folder was last read
            _enter(self._package, [str(folder)], self)

    @property
    def files(self) -> Mapping[str, str]:
        """The source files that were run, by path: the SHA-256 of what was run."""
        return MappingProxyType(self._files)

    def import_module(self, name: str) -> ModuleType:
        """Return the module that `name` means in this space, imported if need be.

        Raises what the module raises, and ModuleNotFoundError with public names.
        """
        self._import(name)
        return sys.modules[self.full_name(name)]

    def loaded(self, name: str) -> ModuleType | None:
        """Return the module that `name` means in this space if it is loaded, importing nothing."""
        return sys.modules.get(self.full_name(name))

    def full_name(self, name: str) -> str:
        """Return the name by which anybody in the process can import what `name` means here."""
        return self._private(name) if self._is_own(name) else name

    def discard(self) -> None:
        """Take the space's modules out of the process; functions of theirs that run go on.

        Import statements inside functions fail from then on, and so does whatever looks a class
        up by its module's name. Shared modules stay. A second call changes nothing.
        """
        sys.modules.pop(self._package, None)
        for name in [name for name in sys.modules if name.startswith(self._private(""))]:
            sys.modules.pop(name, None)

    def spec_of(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return how the module of this public name is loaded into the space, None if not there.

        For the import system; `path` is where its package looks for modules.
        """
        spec = PathFinder.find_spec(self._private(name), path)
        if spec is None:
            return None
        if self._is_shared(name, spec):
            return ModuleSpec(spec.name, _Sharing(name))
        if type(spec.loader) is SourceFileLoader:
            spec.loader = _SourceLoader(self, name, spec.loader)
        elif type(spec.loader) is SourcelessFileLoader:
            spec.loader = _SourcelessLoader(self, name, spec.loader)
        return spec

    def ran(self, path: str, source: bytes) -> None:
        """For the loader: `source` is what is about to run as the file at `path`."""
        self._files[path] = hashlib.sha256(source).hexdigest()

    def _private(self, name: str) -> str:
        return f"{self._package}.{name}"

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """`__import__` of the space's modules."""
        # C code (unpickling, `datetime.strptime`) comes with an empty list, and then takes what
        # `sys.modules` has under the name itself.
        absolute = level == 0 and fromlist != [] and self._is_own(name, fromlist or ())
        asked = self._private(name) if absolute else name
        try:
            found = builtins.__import__(asked, globals, locals, fromlist or (), level)
        except ModuleNotFoundError as exc:
            if exc.name is None or public(exc.name) == exc.name:
                raise
            raise ModuleNotFoundError(public(str(exc)), name=public(exc.name)) from None
        if absolute and not fromlist:
            return sys.modules[self._private(name.partition(".")[0])]
        return found

    def _is_own(self, name: str, fromlist: Sequence[str] = ()) -> bool:
        """Whether a dotted name, or what is wanted from it, is something of the folder."""
        top, _, rest = name.partition(".")
        if top not in self._claims:
            self._claims[top] = self._claim(top)
        claim = self._claims[top]
        if claim is None:
            wanted = [rest.partition(".")[0]] if rest else fromlist
            places = [f"{self._folder}/{top}"]
            return any(PathFinder.find_spec(each, places) for each in wanted)
        return claim

    def _claim(self, top: str) -> bool | None:
        """Whether the folder has a module of this name; None: a folder that shares its name."""
        if self._folder is None or top == "threadloom" or top.startswith("__"):
            return False
        spec = PathFinder.find_spec(top, [str(self._folder)])
        if spec is None or spec.loader is not None:
            return spec is not None
        return True if _places(top) in (None, [os.path.realpath(self._folder / top)]) else None

    def _is_shared(self, name: str, spec: ModuleSpec) -> bool:
        """Whether the process has this module by its ordinary name, or the package it is in."""
        parent = name.rpartition(".")[0]
        package = sys.modules.get(parent) if parent else None
        if package is not None and package is sys.modules.get(self._private(parent)):
            return True
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file or not spec.origin:
            return False
        return bool(os.path.realpath(file) == os.path.realpath(spec.origin))


def _places(top: str) -> list[str] | None:
    """Return the folders of a package without `__init__.py`, None if there is no such module.

    It is the ordinary module of that name that is looked at; any other kind has no such folder.
    """
    if top in sys.modules:
        spec = getattr(sys.modules[top], "__spec__", None)
    else:
        spec = importlib.util.find_spec(top)
        if spec is None:
            return None
    if spec is None or spec.origin is not None:
        return []
    return [os.path.realpath(place) for place in spec.submodule_search_locations or ()]


def _enter(package: str, path: list[str], space: ModuleSpace) -> None:
    """Make the package of a space, which holds the space; it is what the finder looks for."""
    for name, places in ((_ROOT, []), (package, path)):
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = places
        sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    vars(sys.modules[package])[_SPACE] = space
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder(MetaPathFinder):
    """Finds private modules for the import system; knows nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        package = _PRIVATE.match(fullname)
        if package is None:
            return None
        space = getattr(sys.modules.get(package[0][:-1]), _SPACE, None)
        return space.spec_of(fullname[package.end() :], path) if space is not None else None


_FINDER = _Finder()


class _Sharing(Loader):
    """Puts a module of the process in the place of a private one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def exec_module(self, module: ModuleType) -> None:
        # The import system goes on with what stands here afterwards, as it does for a module
        # that replaces itself.
        sys.modules[module.__name__] = importlib.import_module(self._name)


class _SourceLoader(SourceFileLoader):
    """Runs a source file in a space."""

    def __init__(self, space: ModuleSpace, name: str, plain: SourceFileLoader) -> None:
        super().__init__(plain.name, str(plain.path))
        self._space = space
        self._public_name = name

    def path_stats(self, path: Any) -> Any:
        """Refuse, so that no cached bytecode is used or written.

        It is matched to its source by seconds and size: a digit changed within a second after
        the last reading would run the old code under the new code's digest.
        """
        raise OSError("no cached bytecode in a module space")

    def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:  # type: ignore[override]
        self._space.ran(path, data)
        return super().source_to_code(data, path, **options)

    def exec_module(self, module: ModuleType) -> None:
        _prepare(module, self._space, self._public_name)
        super().exec_module(module)


class _SourcelessLoader(SourcelessFileLoader):
    """Runs a module that came without its source in a space."""

    def __init__(self, space: ModuleSpace, name: str, plain: SourcelessFileLoader) -> None:
        super().__init__(plain.name, str(plain.path))
        self._space = space
        self._public_name = name

    def exec_module(self, module: ModuleType) -> None:
        _prepare(module, self._space, self._public_name)
        super().exec_module(module)


def _prepare(module: ModuleType, space: ModuleSpace, name: str) -> None:
    vars(module)["__builtins__"] = space.builtins
    # What `logging.getLogger(__name__)` gives the module speaks under its public name, and obeys
    # the level and the handlers of the logger that people know by that name.
    logger = logging.getLogger(module.__name__)
    logger.name, logger.parent = name, logging.getLogger(name)
