"""Where the boxes of a treemap go: rectangles of given areas, as square as they can be.

Source: Bruls, Huizing & van Wijk, "Squarified Treemaps" (2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle, in the units of the drawing."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, margin: float, *, top: float = 0) -> Box:
        """The box within margins, and below a strip of height `top`; never less than nothing."""
        return Box(
            self.x + margin,
            self.y + margin + top,
            max(0.0, self.width - 2 * margin),
            max(0.0, self.height - 2 * margin - top),
        )


def squarify(sizes: Sequence[float], area: Box) -> list[Box]:
    """Fill `area` with one box per size, in proportion; sizes are positive, the largest first."""
    boxes: list[Box] = []
    left = list(sizes)
    while left and area.width > 0 and area.height > 0:
        scale = area.width * area.height / sum(left)
        side = min(area.width, area.height)
        count = _row_length(left, scale, side)
        row = [size * scale for size in left[:count]]
        depth = sum(row) / side
        boxes.extend(_place(row, depth, area))
        left = left[count:]
        if area.width >= area.height:
            area = Box(area.x + depth, area.y, max(0.0, area.width - depth), area.height)
        else:
            area = Box(area.x, area.y + depth, area.width, max(0.0, area.height - depth))
    boxes.extend(Box(area.x, area.y, 0.0, 0.0) for _ in left)  # no room: rounding, or no area
    return boxes


def _row_length(sizes: Sequence[float], scale: float, side: float) -> int:
    """How many of the next boxes make a row whose worst box is as square as it can be."""
    total = 0.0
    best = float("inf")
    for count, size in enumerate(sizes):
        total += size * scale
        # The first of a row is its largest box and the last its smallest.
        largest, smallest = sizes[0] * scale, size * scale
        worst = max(side**2 * largest / total**2, total**2 / (side**2 * smallest))
        if worst > best:
            return count
        best = worst
    return len(sizes)


def _place(row: Sequence[float], depth: float, area: Box) -> list[Box]:
    boxes = []
    offset = 0.0
    for size in row:
        length = size / depth
        if area.width >= area.height:
            boxes.append(Box(area.x, area.y + offset, depth, length))
        else:
            boxes.append(Box(area.x + offset, area.y, length, depth))
        offset += length
    return boxes
