"""What the census' listeners send each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from threadloom import payload


@payload
@dataclass
class Census:
    """Take the census of the Python files below `root`, or of `limit` of them (0: of all)."""

    root: str
    limit: int = 0


@payload
@dataclass
class SourceFile:
    """One file to measure: `path` below `root`."""

    root: str
    path: str


@payload
@dataclass
class Function:
    """A function or method, with its qualified name and its McCabe complexity."""

    name: str
    line: int
    complexity: int


@payload
@dataclass
class Measurement:
    """One file in numbers."""

    path: str
    lines: int
    #: lines that are neither blank, nor a comment, nor documentation
    code_lines: int
    functions: int
    classes: int
    #: the complexities of all functions, and the decisions outside them
    complexity: int
    #: the most complex function, if there is one
    hardest: Function | None = None
    #: top-level names of the modules it imports absolutely, each once, sorted
    imports: list[str] = field(default_factory=list)


@payload
@dataclass
class Failure:
    """A file that could not be measured, and why."""

    path: str
    reason: str


@payload
@dataclass
class Files:
    """The files that are counted: paths below `root`, in order, separated by slashes."""

    root: str
    python_version: str
    paths: list[str]
    #: files whose paths no message can hold, and so nobody can be asked to measure
    unnameable: list[Failure] = field(default_factory=list)


@payload
@dataclass
class Tally:
    """What came back from measuring: every file is in one of the two lists."""

    root: str
    python_version: str
    measurements: list[Measurement]
    failures: list[Failure]


@payload
@dataclass
class Totals:
    """Sums over some files."""

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0


@payload
@dataclass
class Package:
    """The sums of one package; `name` is empty for modules that are in none."""

    name: str
    totals: Totals


@payload
@dataclass
class Imported:
    """How many of the counted files import a module from outside of it."""

    module: str
    importers: int


@payload
@dataclass
class Aggregate:
    """The census added up."""

    tally: Tally
    totals: Totals
    packages: list[Package]
    imported: list[Imported]


@payload
@dataclass
class HardFunction:
    """A complex function and the file it is in."""

    path: str
    function: Function


@payload
@dataclass
class Ranking:
    """The census in order: every list with its greatest first, except the failures, by path."""

    root: str
    python_version: str
    totals: Totals
    modules: list[Measurement]
    packages: list[Package]
    imported: list[Imported]
    hardest: list[HardFunction]
    failures: list[Failure]


@payload
@dataclass
class Report:
    """The census for people: the numbers worth telling, and an HTML page with all of them."""

    python_version: str
    totals: Totals
    longest: list[Measurement]
    imported: list[Imported]
    hardest: list[HardFunction]
    failures: list[Failure]
    page: str
