"""The contests as a picture: how many times as fast Threadloom is, on a scale by powers of ten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot

_COLOURS = {"bare": "#37814a", "Dramatiq": "#9a5b13", "DBOS": "#5a5fc7"}


def draw(content: dict[str, Any], file: Path) -> None:
    """One bar per contestant and row, beside the line at which both are equally fast."""
    bars = [
        (contest["title"], each["name"], each["ratio"])
        for contest in content["contests"]
        for each in contest["contestants"][1:]
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(bars) + 1.2))
    for place, (_, name, ratio) in enumerate(reversed(bars)):
        colour = next(found for prefix, found in _COLOURS.items() if name.startswith(prefix))
        axes.barh(place, ratio - 1, left=1, color=colour, height=0.7)
        axes.text(max(ratio, 1) * 1.05, place, f"{ratio:.1f}×", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)))
    axes.set_yticklabels([f"{title}: {name}" for title, name, _ in reversed(bars)], fontsize=9)
    axes.set_xscale("log")
    ratios = [ratio for *_, ratio in bars]
    axes.set_xlim(min(0.5, 0.7 * min(ratios)), max(ratios) * 2)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.axvline(1, color="#444", linewidth=1)
    axes.set_xlabel("Threadloom is so many times as fast (1: equally fast)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
    figure.savefig(file.with_suffix(".png"), dpi=110)
