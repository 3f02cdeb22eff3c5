"""The loader of the organism file: reads it once into models and lists all its problems.

`read` returns both the configuration and its problems, so that `routing` can add problems of its
own. `load` returns a valid configuration or raises one ConfigurationError that lists every
problem. Listeners are checked one by one, so that no mistake hides another. Reading imports the
payload classes and handlers: each reading loads the modules of the file's folder anew, into a
module space of its own (`config.module_space`). If `path` is a link, the folder of the file that
it points to counts, as with a script that Python runs.

`routing` checks whether a class is a `@payload` and whether the declared replies fit.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from threadloom.config.dotted import Importer, dotted_fault, nearest, reading
from threadloom.config.errors import ConfigurationError, Problem
from threadloom.config.fields import handler_fault
from threadloom.config.models import ListenerConfig, OrganismConfig, OrganismSection
from threadloom.config.secrets import described
from threadloom.config.source import Place, Report, Source
from threadloom.config.translation import problem_of, unknown_key
from threadloom.config.yaml_text import MISREAD, parse

_SECTIONS = ("organism", "listeners")
#: stands for a faulty name or description in a best-effort configuration
_UNNAMED = "unnamed"

_Model = TypeVar("_Model", bound=BaseModel)


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    known_system_names: Collection[str] = (),
) -> OrganismConfig:
    """Return the configuration in the file at `path`; see `read` for the arguments.

    Raises ConfigurationError with all problems, each with its place in the file.
    """
    return _sound(read(path, environ=environ, known_system_names=known_system_names), str(path))


def load_mapping(
    data: object,
    *,
    source: str = "organism",
    environ: Mapping[str, str] | None = None,
    known_system_names: Collection[str] = (),
) -> OrganismConfig:
    """Like `load`, for the parsed content of such a file; errors name it `source`."""
    found = read_mapping(
        data, source=source, environ=environ, known_system_names=known_system_names
    )
    return _sound(found, source)


def read(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    known_system_names: Collection[str] = (),
) -> tuple[OrganismConfig, tuple[Problem, ...]]:
    """Return the configuration in the file at `path`, as far as it is usable, and all problems.

    A configuration with problems serves only to find further problems: faulty values have their
    defaults, a faulty name or description is `unnamed`, and listeners without a usable
    `payload_class` or `handler` are left out; `position` remains the index in the file. A file
    that is missing or damaged raises nothing: it is reported as a problem.

    Args: `environ` fills in `${NAME}`, by default the process's environment;
    `known_system_names` are listeners that `peers` may name although the file does not declare
    them.
    """
    source = str(path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        return _nothing(source), (Problem("", f"cannot be read: {reason}"),)
    except UnicodeDecodeError as exc:
        return _nothing(source), (Problem("", f"is not UTF-8 text: see byte {exc.start}"),)
    data, problems = parse(text)
    if data is None:
        return _nothing(source), problems or (Problem("", "is empty"),)
    with reading(Path(path).resolve(), label=_label(data)) as importer:
        config, found = _read(data, source, environ, known_system_names, importer)
    # Whoever is told how YAML reads a number need not hear what is wrong with that number.
    told = {problem.path for problem in problems if problem.message.startswith(MISREAD)}
    return config, (*problems, *(problem for problem in found if problem.path not in told))


def read_mapping(
    data: object,
    *,
    source: str = "organism",
    environ: Mapping[str, str] | None = None,
    known_system_names: Collection[str] = (),
) -> tuple[OrganismConfig, tuple[Problem, ...]]:
    """Like `read`, for the parsed content of such a file; `source` is only its name for people.

    There is no folder: dotted paths are imported from this process's ordinary `sys.path`.
    """
    return _read(data, source, environ, known_system_names, Importer())


def _read(
    data: object,
    source: str,
    environ: Mapping[str, str] | None,
    known_system_names: Collection[str],
    importer: Importer,
) -> tuple[OrganismConfig, tuple[Problem, ...]]:
    report = Report()
    try:
        tree = Source(data, os.environ if environ is None else environ, report)
    except RecursionError:
        return _nothing(source), (Problem("", "not readable: nested too deeply"),)
    config = _Reading(tree, report, known_system_names, importer).config(source)
    config._importer = importer
    return config, tuple(report.problems)


def _label(data: object) -> str:
    """Return the organism's name, or "" if it has none, to make the names of modules readable."""
    section = data.get("organism") if isinstance(data, dict) else None
    return str(section.get("name", "")) if isinstance(section, dict) else ""


def _sound(found: tuple[OrganismConfig, tuple[Problem, ...]], source: str) -> OrganismConfig:
    config, problems = found
    if problems:
        config.importer.discard()
        raise ConfigurationError(source, problems)
    return config


def _nothing(source: str) -> OrganismConfig:
    config = OrganismConfig(organism=OrganismSection(name=_UNNAMED), listeners=())
    config._source = source
    return config


class _Reading:
    """One pass over the tree of one file."""

    def __init__(
        self,
        tree: Source,
        report: Report,
        known_system_names: Collection[str],
        importer: Importer,
    ) -> None:
        self._tree = tree
        self._report = report
        self._importer = importer
        self._system_names = known_system_names

    def config(self, source: str) -> OrganismConfig:
        data = self._tree.data
        if not isinstance(data, dict):
            self._report.add(
                (), f"must be a mapping with organism and listeners, not {described(data)}"
            )
            return _nothing(source)
        for key in data:
            if key not in _SECTIONS:
                self._report.add((key,), unknown_key(key, _SECTIONS))
        organism = self._organism(data)
        config = OrganismConfig(organism=organism, listeners=tuple(self._listeners(data)))
        config._source = source
        return config

    def _organism(self, data: dict[str, Any]) -> OrganismSection:
        found = self._model(OrganismSection, data.get("organism"), ("organism",))
        return found or OrganismSection(name=_UNNAMED)

    def _listeners(self, data: dict[str, Any]) -> list[ListenerConfig]:
        entries = data.get("listeners")
        if not isinstance(entries, list):
            text = (
                f"must be a list, not {described(entries)}" if "listeners" in data else "is missing"
            )
            self._report.add(("listeners",), text)
            return []
        first_positions = self._first_positions(entries)
        names = dict.fromkeys([*first_positions, *self._system_names])
        found = []
        for position, entry in enumerate(entries):
            at: Place = ("listeners", position)
            listener = self._model(ListenerConfig, entry, at)
            if isinstance(entry, dict):
                self._check_name(entry, at, first_positions)
                self._check_imports(entry, at)
                self._check_peers(entry, at, names)
            if listener is not None:
                listener._position = position
                found.append(listener)
        return found

    def _model(self, model: type[_Model], raw: object, at: Place) -> _Model | None:
        """Return the model of `raw`, with defaults where it has problems, or None."""
        if not isinstance(raw, dict):
            wrong = "is missing" if raw is None else f"must be a mapping, not {described(raw)}"
            self._report.add(at, wrong)
            return None
        try:
            return model.model_validate(raw)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        for error in errors:
            self._report.add(*problem_of(error, model, raw, at))
        faulty = {error["loc"][0] for error in errors}
        rest = {key: value for key, value in raw.items() if key not in faulty}
        rest |= dict.fromkeys(faulty & {"name", "description"}, _UNNAMED)
        try:
            return model.model_validate(rest)
        except ValidationError:
            return None  # a required value is missing; the report has it already

    def _first_positions(self, entries: list[Any]) -> dict[str, int]:
        """Map each name to its first index; faulty listeners count, so that peers find them."""
        positions: dict[str, int] = {}
        for position, entry in enumerate(entries):
            if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
                positions.setdefault(name, position)
        return positions

    def _check_name(self, entry: dict[str, Any], at: Place, first: Mapping[str, int]) -> None:
        name = entry.get("name")
        if isinstance(name, str) and (other := first[name]) != at[1]:
            text = f"listeners[{other}] and listeners[{at[1]}] are both called {described(name)}"
            self._report.add((*at, "name"), text)

    def _check_peers(self, entry: dict[str, Any], at: Place, names: Collection[str]) -> None:
        peers = entry.get("peers")
        if not isinstance(peers, list):
            return
        for index, peer in enumerate(peers):
            here: Place = (*at, "peers", index)
            if not isinstance(peer, str):
                continue  # the model has reported it
            if peer not in names:
                self._report.add(
                    here, f"there is no listener {described(peer)}{nearest(peer, list(names))}"
                )
            elif peer in peers[:index]:
                self._report.add(here, f"{described(peer)} is already peers[{peers.index(peer)}]")

    def _check_imports(self, entry: dict[str, Any], at: Place) -> None:
        for key in ("payload_class", "replies"):
            self._check_classes(entry.get(key), (*at, key))
        path, here = entry.get("handler"), (*at, "handler")
        if (found := self._imported(path, here)) and (fault := handler_fault(found[0])):
            self._report.add(here, self._tree.scrub(f"{described(path)} {fault}"))

    def _check_classes(self, value: object, at: Place) -> None:
        paths = value if isinstance(value, list) else [value]
        for index, path in enumerate(paths):
            here = (*at, index) if isinstance(value, list) else at
            found = self._imported(path, here)
            if found and not inspect.isclass(found[0]):
                self._report.add(here, f"{described(path)} is not a class")
            elif found and path in paths[:index]:
                self._report.add(here, f"{described(path)} stands here twice")

    def _imported(self, path: object, at: Place) -> tuple[object] | None:
        """Return the object in a tuple (the object may be None), or None after a problem."""
        if not isinstance(path, str) or dotted_fault(path):
            return None  # the model has reported it
        try:
            return (self._importer.get(path),)
        except ConfigurationError as exc:
            self._report.add(at, self._tree.scrub(exc.problems[0].message))
            return None
