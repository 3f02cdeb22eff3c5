"""The report as one HTML page without any outside resource: `census.render`.

The page is built from elements and serialised by lxml, so no name can become markup.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from lxml import etree
from lxml.builder import E

from examples.census import charts
from examples.census.messages import Failure, HardFunction, Ranking, Report, Totals
from threadloom import HandlerMetadata, HandlerResponse

#: rows of each ranking on the page, and in the reply
ROWS = 15

_METHOD = (
    "Counted is every .py file of the library; installed packages, IDLE, the turtle demos and "
    "the test suites are left out, but not the files that test suites keep because they are "
    "broken. Lines of code are those that are neither blank, nor a comment, nor documentation. "
    "Complexity is McCabe’s: one for each function and one for each decision. Importers of a "
    "module are the files of other packages that import it, or something in it, by its full name."
)


def render(message: Ranking, _meta: HandlerMetadata) -> HandlerResponse:
    """Reply with the page, and with the numbers that a terminal has room for."""
    return HandlerResponse.respond(
        Report(
            python_version=message.python_version,
            totals=message.totals,
            longest=message.modules[:ROWS],
            imported=message.imported[:ROWS],
            hardest=message.hardest[:ROWS],
            failures=message.failures,
            page=page(message),
        )
    )


def page(ranking: Ranking) -> str:
    """The report as the text of an HTML document."""
    name = f"Census of the Python {ranking.python_version} standard library"
    document = E.html(
        E.head(
            E.meta(charset="utf-8"),
            E.meta(name="viewport", content="width=device-width, initial-scale=1"),
            E.meta(name="color-scheme", content="light dark"),
            E.title(name),
            E.style(Path(__file__).with_name("report.css").read_text(encoding="utf-8")),
        ),
        E.body(E.main(*_sections(ranking))),
        lang="en",
    )
    return etree.tostring(document, method="html", encoding="unicode", doctype="<!DOCTYPE html>")


def _sections(ranking: Ranking) -> Iterable[etree._Element]:
    yield E.header(
        E.p(f"Python {ranking.python_version}", {"class": "kicker"}),
        E.h1("Census of the standard library"),
        E.p({"class": "root"}, E.code(_from_home(Path(ranking.root)))),
    )
    yield _tiles(ranking.totals, len(ranking.failures))
    yield _figure(
        "Where the code is",
        "Each box is a module, as large as its code, in the box of its package. "
        "The colour says how dense decisions are.",
        charts.treemap(ranking.modules, label="Treemap of modules by lines of code"),
        _legend(),
    )
    yield _figure(
        "Long and complex are not the same",
        "Each point is a module; both axes are logarithmic. The line is the median: above it "
        "decisions are dense, far below it lie tables and lists.",
        charts.scatter(ranking.modules, label="Lines of code and complexity of each module"),
    )
    yield E.div({"class": "columns"}, *_rankings(ranking))
    yield _failures(ranking.failures)
    yield E.footer(E.p(_METHOD))


def _from_home(folder: Path) -> str:
    home = Path.home()
    return str("~" / folder.relative_to(home)) if folder.is_relative_to(home) else str(folder)


def _tiles(totals: Totals, failed: int) -> etree._Element:
    numbers = [
        ("files measured", totals.files),
        ("lines", totals.lines),
        ("lines of code", totals.code_lines),
        ("functions", totals.functions),
        ("classes", totals.classes),
        ("complexity", totals.complexity),
    ]
    tiles = [E.div(E.dt(name), E.dd(f"{number:,}")) for name, number in numbers]
    tiles.append(E.div(E.dt("files that failed"), E.dd(f"{failed:,}")))
    if failed:
        tiles[-1].set("class", "bad")
    return E.dl({"class": "tiles"}, *tiles)


def _figure(
    title: str, caption: str, chart: etree._Element, *legend: etree._Element
) -> etree._Element:
    return E.figure(
        E.figcaption(E.h2(title), E.p(caption), *legend), E.div({"class": "chart"}, chart)
    )


def _legend() -> etree._Element:
    steps = charts.DENSITY_STEPS
    names = [
        f"under {steps[0]}",
        *(f"{low}–{high}" for low, high in itertools.pairwise(steps)),
        f"{steps[-1]} or more",
    ]
    return E.p(
        {"class": "legend"},
        "complexity per 100 lines of code",
        *(E.span(E.i({"class": f"d{step}"}), name) for step, name in enumerate(names)),
    )


def _rankings(ranking: Ranking) -> Iterable[etree._Element]:
    yield _bars(
        "Most imported modules",
        "files of other packages that import it",
        [(_name(i.module), i.importers) for i in ranking.imported[:ROWS]],
    )
    yield _bars(
        "Most complex functions",
        "complexity; the first of each module",
        [
            (_name(dotted_name(h), f"{h.path}:{h.function.line}"), h.function.complexity)
            for h in ranking.hardest[:ROWS]
        ],
    )
    yield _bars(
        "Longest modules",
        "lines of code",
        [(_name(m.path, charts.describe(m)), m.code_lines) for m in ranking.modules[:ROWS]],
    )
    packages = [package for package in ranking.packages if package.name]
    yield _bars(
        "Largest packages",
        "lines of code",
        [
            (_name(p.name, f"{p.totals.files:,} files"), p.totals.code_lines)
            for p in packages[:ROWS]
        ],
    )


def dotted_name(hard: HardFunction) -> str:
    """A function's name with its module's, as in a traceback of the interpreter's own."""
    module = PurePosixPath(hard.path).with_suffix("")
    return ".".join((*module.parts, hard.function.name)).replace(".__init__.", ".", 1)


def _name(name: str, note: str = "") -> etree._Element:
    return E.code(name, title=note) if note else E.code(name)


def _bars(title: str, unit: str, rows: Sequence[tuple[etree._Element, int]]) -> etree._Element:
    """A table whose numbers are also bars."""
    greatest = max((number for _, number in rows), default=1) or 1
    body = [
        E.tr(
            E.th(name, scope="row"),
            E.td(E.i({"style": f"width:{100 * number / greatest:.1f}%"}), {"class": "bar"}),
            E.td(f"{number:,}", {"class": "number"}),
        )
        for name, number in rows
    ]
    return E.section(E.h2(title), E.p(unit, {"class": "unit"}), E.table(E.tbody(*body)))


def _failures(failures: Sequence[Failure]) -> etree._Element:
    if not failures:
        return E.section(E.h2("Every file was measured"))
    rows = [E.tr(E.th(E.code(f.path), scope="row"), E.td(f.reason)) for f in failures]
    return E.section(
        {"class": "failures"},
        E.h2("Files that failed"),
        E.p(
            "They cannot be read, decoded or parsed; the rest of the census is complete.",
            {"class": "unit"},
        ),
        E.table(E.tbody(*rows)),
    )
