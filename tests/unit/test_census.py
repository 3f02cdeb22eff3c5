"""The census example: what it counts, what it leaves out, and what it says about broken files.

The file names are hostile on purpose, since a census meets whatever lies in a folder.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from examples.census import charts, measure, ranking, report
from examples.census.director import direct, tally_of
from examples.census.files import is_counted, list_files, python_files, spread
from examples.census.messages import (
    Aggregate,
    Census,
    Failure,
    Files,
    Function,
    HardFunction,
    Measurement,
    Package,
    Ranking,
    Report,
    SourceFile,
    Tally,
    Totals,
)
from examples.census.treemap import Box, squarify
from threadloom.primitives import BufferComplete
from threadloom.routing import (
    XML,
    BufferItem,
    ContextSlot,
    HandlerMetadata,
    Huh,
    UnknownResultsError,
    payload_type,
)
from threadloom.routing.envelope import build_envelope

META = HandlerMetadata(
    thread_id="t", from_id="census.director", own_name=None, is_self_call=False,
    usage_instructions="", message_id="m",
)  # fmt: skip
HOSTILE = "<&>\"'</code><script>alert(1)</script>.py"
TOLERANCE = 1e-6


def measured(source: str | bytes, path: str = "module.py") -> Measurement:
    return measure.measure(path, source.encode() if isinstance(source, str) else source)


def module(path: str, code: int = 100, complexity: int = 30, *imports: str) -> Measurement:
    hardest = Function("f", 1, complexity)
    return Measurement(path, code + 20, code, 2, 1, complexity, hardest, list(imports))


# --- measuring ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "complexity"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("def f(): pass", 1, id="a function"),
        pytest.param("async def f(): pass", 1, id="an async function"),
        pytest.param("f = lambda: 1", 0, id="a lambda is no function"),
        pytest.param("if a: pass\nelif b: pass\nelse: pass", 2, id="if, elif, else"),
        pytest.param("a if b else c", 1, id="a conditional expression"),
        pytest.param("a and b and c or d", 3, id="each and, each or"),
        pytest.param("for a in b: pass\nelse: pass", 1, id="for"),
        pytest.param("while a: pass", 1, id="while"),
        pytest.param("try: a\nexcept B: c\nexcept D: e\nelse: f\nfinally: g", 2, id="except"),
        pytest.param("with a: assert b", 0, id="with and assert"),
        pytest.param("[a for a in b]", 1, id="a comprehension"),
        pytest.param("{a: b for a in c for b in d if e if f}", 4, id="its fors and ifs"),
        pytest.param("(a for a in b if c and d)", 3, id="and within a comprehension"),
        pytest.param("match a:\n case 1: b\n case _: c", 1, id="the last case always matches"),
        pytest.param("match a:\n case 1 | 2: b\n case _ if c: d", 2, id="a guarded wildcard"),
        pytest.param("match a:\n case [x]: b\n case {'k': y}: c", 2, id="patterns"),
        pytest.param(
            "async def f():\n async for a in b: pass\n async with c: [d async for d in e]",
            3, id="async for, and async comprehensions",
        ),
        pytest.param("def f():\n if a: pass\n def g():\n  if b: pass", 4, id="nested functions"),
    ],
)  # fmt: skip
def test_complexity_is_one_per_function_and_one_per_decision(source: str, complexity: int) -> None:
    """The complexity is McCabe's number, shown case by case."""
    assert measured(source).complexity == complexity


@pytest.mark.parametrize(
    ("source", "hardest"),
    [
        pytest.param("x = a if b else c", None, id="no function"),
        pytest.param("def f(): pass", Function("f", 1, 1), id="one"),
        pytest.param("class C:\n def m(self): pass", Function("C.m", 2, 1), id="a method"),
        pytest.param(
            "def f():\n class C:\n  async def g(self):\n   if a: pass",
            Function("f.C.g", 3, 2), id="its whole name",
        ),
        pytest.param("def f(): pass\ndef g(): pass", Function("f", 1, 1), id="the first of equals"),
        pytest.param(
            "@d(a if b else c)\ndef f(x=a or b): pass",
            Function("f", 2, 1), id="decorators and defaults are evaluated outside",
        ),
    ],
)  # fmt: skip
def test_the_hardest_function_is_named_as_in_a_traceback(
    source: str, hardest: Function | None
) -> None:
    """A decision belongs to the function that takes it, not to the function around it."""
    assert measured(source).hardest == hardest


def test_a_decorators_decisions_are_the_modules() -> None:
    """Decisions in decorators and default values are counted in the file's sum."""
    found = measured("@d(a if b else c)\n@e\nclass C:\n @p\n def f(self, x=a or b): pass\n")
    assert (found.functions, found.classes, found.complexity) == (1, 1, 3)


@pytest.mark.parametrize(
    ("source", "lines", "code_lines"),
    [
        pytest.param("", 0, 0, id="nothing"),
        pytest.param("x = 1", 1, 1, id="no newline at the end"),
        pytest.param("x = 1\n\n  # note\ny = 2  # note\n", 4, 2, id="blanks and comments"),
        pytest.param('"""Doc.\n\nMore.\n"""\nx = 1\n', 5, 1, id="documentation"),
        pytest.param('x = """a\n\n# no comment\n"""\n', 4, 4, id="text is code"),
        pytest.param('x = f"""a\n\n{y}\n"""\n', 4, 4, id="formatted text too"),
        pytest.param("x = 1\r\ny = 2\r\n", 2, 2, id="Windows"),
        pytest.param("x = 1\ry = 2\r", 2, 2, id="old Macintosh"),
        pytest.param("x = 1\n\x0c\ny = 2\n", 3, 2, id="a form feed"),
    ],
)
def test_lines_of_code_are_neither_blank_nor_comment_nor_documentation(
    source: str, lines: int, code_lines: int
) -> None:
    """The count is the same for every kind of line ending."""
    found = measured(source)
    assert (found.lines, found.code_lines) == (lines, code_lines)


def test_imports_are_the_top_level_names_of_other_packages() -> None:
    """Each name is listed once, in order; relative imports and `__future__` are left out."""
    source = (
        "from __future__ import annotations\nimport os.path as p, sys\nfrom os import fspath\n"
        "from . import a\nfrom ..b import c\ndef f():\n from json.decoder import d\n"
    )
    assert measured(source).imports == ["json", "os", "sys"]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("x = 'é'\n".encode(), id="UTF-8"),
        pytest.param("\ufeffx = 'é'\n".encode(), id="a BOM"),
        pytest.param("\ufeff# coding: utf-8\nx = 'é'\n".encode(), id="a BOM and a cookie"),
        pytest.param("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"), id="a cookie"),
        pytest.param(
            "#!/x\n# vim: set fileencoding=cp1252 :\nx = 'é'\n".encode("cp1252"), id="2nd"
        ),
    ],
)
def test_a_file_is_decoded_by_its_bom_or_cookie(source: bytes) -> None:
    """A file is decoded by PEP 263, as the interpreter does it."""
    assert measure.decode(source).endswith("x = 'é'\n")
    assert measured(source).code_lines == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(b"x = 1\ndef f(:\n", "line 2: invalid syntax", id="syntax"),
        pytest.param(b"if x:\ny\n", "line 2: expected an indented block", id="indentation"),
        pytest.param(b"x = '\xe9'\n", "missing encoding declaration", id="no UTF-8"),
        pytest.param(b"# coding: klingon\n", "unknown encoding: klingon", id="no such encoding"),
        pytest.param(b"# coding: hex\n00\n", "not a text encoding", id="no text encoding"),
        pytest.param(b"\xef\xbb\xbf# coding: latin-1\n", "utf-8", id="BOM against cookie"),
        pytest.param(b"# coding: ascii\nx = '\xe9'\n", "ascii", id="not what the cookie says"),
        pytest.param("x = 1\n".encode("utf-16"), "", id="UTF-16"),
        pytest.param(b"x = 1\0\n", "null byte", id="NUL"),
        pytest.param(b"(" * 5_000, "too many nested parentheses", id="too deep"),
    ],
)
def test_a_broken_file_is_answered_with_its_reason(
    tmp_path: Path, source: bytes, reason: str
) -> None:
    """A broken file gives a reason of one line. An exception would be a fault of the listener."""
    (tmp_path / "broken.py").write_bytes(source)
    reply = measure.measure_file(SourceFile(str(tmp_path), "broken.py"), META).payload
    assert isinstance(reply, Huh)
    assert reason in reply.error
    assert reply.error
    assert "\n" not in reply.error
    assert source.startswith(reply.original_attempt)


def test_a_file_that_is_gone_is_answered_with_its_reason(tmp_path: Path) -> None:
    """The path is the one that the sender gave; the reason is the operating system's."""
    reply = measure.measure_file(SourceFile(str(tmp_path), "gone.py"), META).payload
    assert reply == Huh.of("No such file or directory", b"")


def test_a_reason_is_never_longer_than_a_line_of_a_table() -> None:
    """A reason is cut, because a parser may quote the text that it read."""
    reason = measure.reason_of(ValueError("a  b\n" * 200))
    assert len(reason) == 200
    assert reason.startswith("a b a b")
    assert reason.endswith("…")
    assert measure.reason_of(RecursionError()) == "RecursionError"


def test_old_escapes_are_no_failure() -> None:
    """Old escapes make the compiler warn; the census ignores its warnings, which are errors in
    tests.
    """
    assert measured(r"x = '\d'").code_lines == 1


# --- choosing files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "counted"),
    [
        ("os.py", True),
        ("json/decoder.py", True),
        ("test.py", True),
        ("os.pyc", False),
        ("README", False),
        ("site-packages/x.py", False),
        ("a/__pycache__/x.py", False),
        ("idlelib/x.py", False),
        ("test/test_os.py", False),
        ("json/tests/test_x.py", False),
        ("test/badsyntax_x.py", True),
        ("test/tokenizedata/bad_coding.py", True),
        ("lib2to3/tests/data/crlf.py", True),
    ],
)
def test_tests_and_applications_are_left_out_but_not_the_broken_files(
    path: str, counted: bool
) -> None:
    """A census of the standard library includes the files that its tests keep because they are
    broken.
    """
    assert is_counted(Path(path)) is counted


def test_files_are_listed_in_the_same_order_everywhere(tmp_path: Path) -> None:
    """The order does not depend on the file system, and a folder named like a file is not
    listed.
    """
    for name in ("b.py", "a/z.py", "a/b/c.py", HOSTILE.replace("/", "_"), "site-packages/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    names = [path.as_posix() for path in python_files(tmp_path)]
    assert names == [HOSTILE.replace("/", "_"), "b.py", "a/z.py", "a/b/c.py"]


def test_a_root_that_cannot_be_listed_raises(tmp_path: Path) -> None:
    """An empty census would be wrong, so an unreadable root raises."""
    with pytest.raises(FileNotFoundError):
        list(python_files(tmp_path / "gone"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_xml_cannot_hold_is_a_failure_and_not_the_end(tmp_path: Path) -> None:
    """A file name may hold any byte but two, while XML excludes even some ASCII characters."""
    for name in (b"ok.py", b"\xff.py", b"\x01.py", "\ufffe.py".encode()):
        (tmp_path / os.fsdecode(name)).touch()
    files = list_files(Census(str(tmp_path)), META).payload
    assert files.paths == ["ok.py"]
    assert sorted(f.path for f in files.unnameable) == [r"\udcff.py", r"\ufffe.py", r"\x01.py"]
    payload_type(Files).to_element(files)  # raises for what cannot be sent

    assert tally_of([], files).failures == files.unnameable


@given(count=st.integers(0, 300), limit=st.integers(1, 300))
def test_a_limit_spreads_over_all_files(count: int, limit: int) -> None:
    """The census takes as many files as it was asked for, or all there are.

    Each file comes once, in order, and the first file is always included.
    """
    paths = tuple(Path(f"{index:03}.py") for index in range(count))
    chosen = spread(paths, limit)
    assert len(chosen) == min(count, limit)
    assert list(chosen) == sorted(set(chosen))
    assert chosen[:1] == paths[:1]


# --- collecting --------------------------------------------------------------------------------


def test_what_the_buffer_collected_gets_its_paths_back() -> None:
    """A success is read as it is; a failure gets its path by its index."""
    measurement = module("b.py", 10, 5)
    reply = XML(payload_type(Measurement).to_element(measurement))
    items = [BufferItem(0, False, error="line 1: broken"), BufferItem(1, True, reply)]
    tally = tally_of(items, Files("/lib", "3.11.7", ["a.py", "b.py"]))
    assert tally.failures == [Failure("a.py", "line 1: broken")]
    assert tally.measurements == [measurement]


def test_results_by_reference_are_not_mistaken_for_none() -> None:
    """Results by reference are looked up, since a census of no files would be wrong."""
    results = XML(etree.Element("results", ref="elsewhere", total="3"))
    files = XML(payload_type(Files).to_element(Files("/lib", "3.11.7", ["a.py"] * 3)))
    envelope = build_envelope("census.files", "census.director", str(uuid4()), files.element)
    slot = ContextSlot(0, "m", "census.files", "census.director", "Files", envelope)
    with pytest.raises(UnknownResultsError):
        direct(BufferComplete("b", 3, 3, results), replace(META, context=(slot,)))


# --- adding up and ranking ----------------------------------------------------------------------


def ranked(measurements: list[Measurement], failures: list[Failure]) -> Ranking:
    tally = Tally("/lib", "3.11.7", measurements, failures)
    aggregate: Aggregate = ranking.aggregate(tally, META).payload
    found: Ranking = ranking.rank(aggregate, META).payload
    return found


def test_the_census_is_added_up_and_put_in_order() -> None:
    """The greatest comes first, equal ones by name, and a package's imports of itself do not
    count.
    """
    census = ranked(
        [
            module("b.py", 10, 5, "os", "json"),
            module("a.py", 10, 5, "os"),
            module("json/__init__.py", 50, 7, "json", "os"),
            module("json/scanner.py", 60, 5),
        ],
        [Failure("z.py", "late"), Failure("c.py", "early")],
    )
    assert census.totals == Totals(4, 210, 130, 8, 4, 22)
    assert [m.path for m in census.modules] == [
        "json/scanner.py", "json/__init__.py", "a.py", "b.py",
    ]  # fmt: skip
    assert census.packages == [
        Package("json", Totals(2, 150, 110, 4, 2, 12)),
        Package("", Totals(2, 60, 20, 4, 2, 10)),
    ]
    assert [(i.module, i.importers) for i in census.imported] == [("os", 3), ("json", 1)]
    assert [h.path for h in census.hardest] == [
        "json/__init__.py", "a.py", "b.py", "json/scanner.py",
    ]  # fmt: skip
    assert [f.path for f in census.failures] == ["c.py", "z.py"]


def test_only_the_hardest_functions_are_named() -> None:
    """The ranking lists a few functions, not the whole census again."""
    census = ranked([module(f"m{number}.py", 10, number) for number in range(1, 50)], [])
    assert len(census.hardest) == ranking.HARDEST
    assert census.hardest[0] == HardFunction("m49.py", Function("f", 1, 49))


# --- the page -----------------------------------------------------------------------------------


def parsed(page: str) -> Any:
    return etree.HTML(page)


@pytest.mark.parametrize("number", [0, 1, 200])
def test_no_name_becomes_markup(number: int) -> None:
    """Names of files, functions and packages, and reasons, are escaped everywhere on the page."""
    path = f"<b>&amp;pkg</b>/{HOSTILE.replace('/', '_')}"
    others = [module(f"p{n % 7}/m{n}.py", 10 * n + 1, n) for n in range(number)]
    census = ranked([module(path, 5_000, 900, "<u>"), *others], [Failure(HOSTILE, "<i>&")])
    page = report.page(census)
    tree = parsed(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not tree.xpath("//script | //b | //u | //main//i[not(@class) and not(@style)]")
    assert any(path in "".join(title.itertext()) for title in tree.iter("title"))
    [row] = tree.xpath("//section[@class='failures']//tr")
    assert ["".join(cell.itertext()) for cell in row] == [HOSTILE, "<i>&"]
    assert not tree.xpath("//@src | //@href"), "it needs nothing from outside"


def test_the_page_of_an_empty_census_is_whole() -> None:
    """An empty census gives a whole page and no division by zero."""
    tree = parsed(report.page(ranked([], [])))
    assert len(tree.xpath("//svg")) == 2
    assert tree.xpath("//h2[text()='Every file was measured']")


def test_the_reply_has_the_page_and_the_first_rows() -> None:
    """The reply has as many rows as a terminal has room for, and every failure."""
    failures = [Failure(f"f{n:02}.py", "broken") for n in range(40)]
    found: Report = report.render(
        ranked([module(f"m{n}.py", n + 1) for n in range(40)], failures), META
    ).payload
    assert len(found.longest) == len(found.hardest) == report.ROWS
    assert found.failures == failures
    assert "f39.py" in found.page


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("/home/ann/lib", "~/lib"),
        ("/home/ann", "~"),
        ("/home/anna/lib", "/home/anna/lib"),
        ("/srv/home/ann/lib", "/srv/home/ann/lib"),
    ],
)
def test_only_the_home_folder_is_shortened(
    monkeypatch: pytest.MonkeyPatch, root: str, shown: str
) -> None:
    """A path that only begins like the home folder, or contains it in the middle, stays as it
    is.
    """
    monkeypatch.setenv("HOME", "/home/ann")
    tree = parsed(report.page(Ranking(root, "3.11", Totals(), [], [], [], [], [])))
    assert tree.xpath("string(//p[@class='root'])") == shown


@pytest.mark.parametrize(
    ("path", "function", "name"),
    [
        ("os.py", "walk", "os.walk"),
        ("json/decoder.py", "C.m", "json.decoder.C.m"),
        ("json/__init__.py", "load", "json.load"),
        ("os.py", "C.__init__", "os.C.__init__"),
    ],
)
def test_a_function_is_named_with_its_module(path: str, function: str, name: str) -> None:
    """A function is named with its module's import path."""
    assert report.dotted_name(HardFunction(path, Function(function, 1, 1))) == name


# --- charts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "complexity", "expected"),
    [(0, 5, "d0"), (100, 21, "d0"), (100, 22, "d1"), (100, 35, "d3"), (100, 36, "d4")],
)
def test_a_colour_begins_at_its_step(code: int, complexity: int, expected: str) -> None:
    """A module without code has the lowest density, whatever its decisions are."""
    assert charts.density_class(module("m.py", code, complexity)) == expected


def test_every_module_with_code_is_in_both_charts() -> None:
    """Each module has one box and one point, both named by tooltips; a module without code has
    no box.
    """
    modules = [module(f"p{n % 5}/m{n}.py", n * n, n) for n in range(40)]
    boxes = charts.treemap(modules, label="boxes")
    points = charts.scatter(modules, label="points")
    assert len(boxes.findall(".//rect")) == 39
    assert len(points.findall(".//circle")) == 40
    described = {charts.describe(m) for m in modules}
    assert {t.text for t in points.iterfind(".//circle/title")} == described
    assert described - {t.text for t in boxes.iter("title")} == {charts.describe(modules[0])}


@given(
    st.lists(st.integers(1, 50_000), max_size=80).map(lambda sizes: sorted(sizes, reverse=True)),
    st.floats(1, 2_000),
    st.floats(1, 2_000),
)
def test_boxes_fill_their_area_in_proportion(sizes: list[int], width: float, height: float) -> None:
    """Each box has the size of its share and lies inside the area; all boxes fill it and none
    overlap.
    """
    area = Box(3, 5, width, height)
    boxes = squarify(sizes, area)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        share = width * height * size / sum(sizes)
        assert box.width * box.height == pytest.approx(share, rel=1e-6, abs=TOLERANCE)
        assert box.x >= 3 - TOLERANCE
        assert box.y >= 5 - TOLERANCE
        assert box.x + box.width <= 3 + width + TOLERANCE * width
        assert box.y + box.height <= 5 + height + TOLERANCE * height


def test_no_area_has_room_for_nothing() -> None:
    """An area of no size gives one box of no size for each module."""
    assert squarify([2, 1], Box(0, 0, 0, 9)) == [Box(0, 0, 0, 0)] * 2
    assert Box(0, 0, 2, 2).inset(1.5, top=4) == Box(1.5, 5.5, 0, 0)
