"""Adding up and putting in order: `census.aggregate` and `census.rank`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from examples.census.messages import (
    Aggregate,
    HardFunction,
    Imported,
    Measurement,
    Package,
    Ranking,
    Tally,
    Totals,
)
from threadloom import HandlerMetadata, HandlerResponse

#: functions that a ranking names
HARDEST = 30


def aggregate(message: Tally, _meta: HandlerMetadata) -> HandlerResponse:
    """Reply with the sums, over all files and per package, and with who is imported."""
    by_package: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in message.measurements:
        by_package[package_of(measurement.path)].append(measurement)
    return HandlerResponse.respond(
        Aggregate(
            message,
            totals_of(message.measurements),
            [Package(name, totals_of(members)) for name, members in by_package.items()],
            [Imported(*pair) for pair in importers(message.measurements).items()],
        )
    )


def rank(message: Aggregate, _meta: HandlerMetadata) -> HandlerResponse:
    """Reply with the same in order, the greatest first; names decide between equals."""
    tally = message.tally
    hardest = [HardFunction(m.path, m.hardest) for m in tally.measurements if m.hardest]
    hardest.sort(key=lambda h: (-h.function.complexity, h.path))
    return HandlerResponse.respond(
        Ranking(
            root=tally.root,
            python_version=tally.python_version,
            totals=message.totals,
            modules=sorted(tally.measurements, key=lambda m: (-m.code_lines, m.path)),
            packages=sorted(message.packages, key=lambda p: (-p.totals.code_lines, p.name)),
            imported=sorted(message.imported, key=lambda i: (-i.importers, i.module)),
            hardest=hardest[:HARDEST],
            failures=sorted(tally.failures, key=lambda f: f.path),
        )
    )


def package_of(path: str) -> str:
    """The top-level package of a file; "" for a module that is in none."""
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else ""


def totals_of(measurements: Iterable[Measurement]) -> Totals:
    """The sums over some files."""
    totals = Totals()
    for m in measurements:
        totals.files += 1
        totals.lines += m.lines
        totals.code_lines += m.code_lines
        totals.functions += m.functions
        totals.classes += m.classes
        totals.complexity += m.complexity
    return totals


def importers(measurements: Iterable[Measurement]) -> Counter[str]:
    """How many files import each module; files of the module's own package do not count."""
    return Counter(
        module for m in measurements for module in m.imports if module != package_of(m.path)
    )
