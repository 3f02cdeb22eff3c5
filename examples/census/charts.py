"""The two charts of the report, as SVG elements to stand in an HTML page.

Everything is built from elements, so no name of a file or function can become markup. Colours
are the page's business: shapes only have classes (`d0` to `d4`: how dense decisions are).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from statistics import median

from lxml import etree
from lxml.builder import E

from examples.census.messages import Measurement
from examples.census.ranking import package_of
from examples.census.treemap import Box, squarify

#: decisions per 100 lines of code at which the next colour begins
DENSITY_STEPS = (22, 28, 32, 36)
#: modules of fewer code lines say little about density
_TELLING_LINES = 50

_TREEMAP = Box(0, 0, 1200, 660)
_SCATTER = Box(64, 16, 1112, 468)
_SCATTER_HEIGHT = 540
_STRIP = 20.0
#: widths of one character of a label, wide enough for most
_CHARACTER = 6.4
_LABELS = 28
_LABELS_PER_PACKAGE = 2
_TICKS = (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)


def density(module: Measurement) -> float:
    """Decisions and functions per 100 lines of code."""
    return 100 * module.complexity / module.code_lines if module.code_lines else 0.0


def density_class(module: Measurement) -> str:
    """The CSS class of a module's density."""
    return f"d{sum(density(module) >= step for step in DENSITY_STEPS)}"


def describe(module: Measurement) -> str:
    """A module in one line, as a tooltip shows it."""
    return (
        f"{module.path}: {module.code_lines:,} lines of code, {module.functions:,} functions, "
        f"{module.classes:,} classes, complexity {module.complexity:,} "
        f"({density(module):.0f} per 100 lines)"
    )


# --- where the code is --------------------------------------------------------------------------


def treemap(modules: Iterable[Measurement], *, label: str) -> etree._Element:
    """Every module as a box as large as its code, in its package's box."""
    packages: dict[str, list[Measurement]] = defaultdict(list)
    for module in modules:
        if module.code_lines:
            packages[package_of(module.path)].append(module)
    ordered = sorted(packages.items(), key=lambda pair: (-_size(pair[1]), pair[0]))
    chart = _svg(_TREEMAP.width, _TREEMAP.height, label)
    boxes = squarify([_size(members) for _, members in ordered], _TREEMAP)
    for (name, members), box in zip(ordered, boxes, strict=True):
        chart.append(_package_box(name, members, box))
    return chart


def _size(modules: Iterable[Measurement]) -> int:
    return sum(module.code_lines for module in modules)


def _package_box(name: str, modules: Sequence[Measurement], box: Box) -> etree._Element:
    shown = name or "modules in no package"
    drawn = E.g(E.title(f"{shown}: {_size(modules):,} lines of code"), {"class": "package"})
    named = box.width > _CHARACTER * len(shown) + 12 and box.height > 2.5 * _STRIP
    if named:
        drawn.append(_text(box.x + 4, box.y + 14, shown, "strip"))
    ordered = sorted(modules, key=lambda m: (-m.code_lines, m.path))
    inner = box.inset(1.5, top=_STRIP - 2 if named else 0)
    for module, leaf in zip(ordered, squarify([m.code_lines for m in ordered], inner), strict=True):
        drawn.append(_leaf(module, leaf))
    return drawn


def _leaf(module: Measurement, box: Box) -> etree._Element:
    path = PurePosixPath(module.path)
    drawn = E.g(E.title(describe(module)), _rect(box.inset(0.5)), {"class": density_class(module)})
    name = path.stem
    if box.width > _CHARACTER * len(name) + 10 and box.height > 18:
        drawn.append(_text(box.x + 5, box.y + 15, name))
        if box.height > 36 and box.width > 46:
            drawn.append(_text(box.x + 5, box.y + 30, f"{module.code_lines:,}", "minor"))
    return drawn


# --- lines and complexity -----------------------------------------------------------------------


def scatter(modules: Sequence[Measurement], *, label: str) -> etree._Element:
    """Every module as a point: its lines of code across, its complexity up, both logarithmic."""
    across = _Scale(max((m.code_lines for m in modules), default=1), _SCATTER.width)
    up = _Scale(max((m.complexity for m in modules), default=1), _SCATTER.height)
    chart = _svg(_TREEMAP.width, _SCATTER_HEIGHT, label)
    _draw_axes(chart, across, up)
    _draw_typical(chart, modules, across, up)
    points = [(m, _SCATTER.x + across(m.code_lines), _bottom() - up(m.complexity)) for m in modules]
    dots = E.g({"class": "dots"})
    for module, x, y in points:
        dots.append(E.circle(E.title(describe(module)), cx=_n(x), cy=_n(y), r="4.5"))
    chart.append(dots)
    chart.append(_labels(points))
    return chart


class _Scale:
    """Positions on a logarithmic axis that begins at 0."""

    def __init__(self, greatest: float, length: float) -> None:
        self._greatest = max(greatest, 1)
        self._unit = length / math.log1p(self._greatest * 1.15)

    def __call__(self, value: float) -> float:
        return self._unit * math.log1p(value)

    def ticks(self) -> list[int]:
        """The round numbers on the axis."""
        return [tick for tick in _TICKS if tick <= self._greatest]


def _bottom() -> float:
    return _SCATTER.y + _SCATTER.height


def _draw_axes(chart: etree._Element, across: _Scale, up: _Scale) -> None:
    right = _SCATTER.x + _SCATTER.width
    grid = E.g({"class": "grid"})
    for tick in up.ticks():
        y = _bottom() - up(tick)
        grid.append(_line(_SCATTER.x, y, right, y))
        grid.append(_text(_SCATTER.x - 10, y + 4, f"{tick:,}", "end"))
    for tick in across.ticks():
        x = _SCATTER.x + across(tick)
        grid.append(_line(x, _SCATTER.y, x, _bottom()))
        grid.append(_text(x, _bottom() + 20, f"{tick:,}", "middle"))
    grid.append(_text(right, _bottom() + 44, "lines of code →", "end axis"))
    title = _text(0, 0, "complexity →", "end axis")
    title.set("transform", f"translate(14 {_n(_SCATTER.y)}) rotate(-90)")
    grid.append(title)
    chart.append(grid)


def _draw_typical(
    chart: etree._Element, modules: Sequence[Measurement], across: _Scale, up: _Scale
) -> None:
    """The curve on which a module of the median density lies."""
    telling = [density(m) for m in modules if m.code_lines >= _TELLING_LINES]
    if not telling:
        return
    typical = median(telling)
    longest = max(m.code_lines for m in modules)
    lines = [longest ** (step / 40) for step in range(41)]
    points = " ".join(
        f"{_n(_SCATTER.x + across(x))},{_n(_bottom() - up(x * typical / 100))}"
        for x in lines
        if x * typical / 100 >= 0.5
    )
    note = f"the median: {typical:.0f} per 100 lines"
    chart.append(E.polyline(E.title(note), {"class": "typical", "points": points}))


def _labels(points: Sequence[tuple[Measurement, float, float]]) -> etree._Element:
    """Names of the most telling points, as far as they run into nothing."""
    taken = [Box(x - 3, y - 3, 6, 6) for _, x, y in points]
    named: Counter[str] = Counter()
    drawn = E.g({"class": "names"})
    for module, x, y in sorted(points, key=lambda point: -_remoteness(point[0])):
        package = package_of(module.path)
        name = PurePosixPath(module.path).with_suffix("").as_posix().removesuffix("/__init__")
        width = _CHARACTER * len(name)
        if package and named[package] == _LABELS_PER_PACKAGE:
            continue
        for left, below in ((x + 8, y + 4), (x - 8 - width, y + 4), (x - width / 2, y - 9)):
            box = Box(left - 4, below - 11, width + 8, 14)
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                named[package] += 1
                drawn.append(_text(left, below, name))
                break
        if len(drawn) == _LABELS:
            break
    return drawn


def _remoteness(module: Measurement) -> float:
    """How much a module stands out, by its size or by how far it is from a usual density."""
    if module.code_lines < _TELLING_LINES:
        return 0.0
    usual = module.code_lines * 0.3
    unusual = abs(math.log1p(module.complexity) - math.log1p(usual))
    return math.log1p(module.code_lines) + unusual


def _inside(box: Box) -> bool:
    return box.x >= _SCATTER.x and box.x + box.width <= _TREEMAP.width and box.y >= 0


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


# --- shapes -------------------------------------------------------------------------------------


def _svg(width: float, height: float, label: str) -> etree._Element:
    return E.svg(
        {"viewBox": f"0 0 {_n(width)} {_n(height)}", "role": "img", "aria-label": label},
    )


def _rect(box: Box) -> etree._Element:
    return E.rect(
        x=_n(box.x), y=_n(box.y), width=_n(box.width), height=_n(box.height), rx="2",
    )  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float) -> etree._Element:
    return E.line(x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2))


def _text(x: float, y: float, text: str, classes: str = "") -> etree._Element:
    drawn = E.text(text, x=_n(x), y=_n(y))
    if classes:
        drawn.set("class", classes)
    return drawn


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
