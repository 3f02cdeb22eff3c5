"""The contests: what is done, by whom, and what the outcome has to be.

Each contestant is a function from a stage to the seconds it took; what it does and does not
guarantee stands beside the numbers in docs/performance.md.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import celery

from benchmarks.stage import Stage
from threadloom import tasks

#: hops of a conversation, and of the chain beside it
HOPS = 100
#: of them one after another in a run, so that a run is more than its start
TIMES = 5
ITEMS = 10_000
#: what DBOS does in the time of a cup of tea
FEW = 300
_WAIT_S = 600.0
#: A bare chord takes about two minutes here, and now and then its body never runs: then the next
#: one is measured.
_CHORD_S, _CHORDS = 400.0, 3

Contestant = Callable[[Stage], float]


@dataclass(frozen=True)
class Contest:
    """One row: the same work, done by several."""

    name: str
    title: str
    #: how often the work is done in one run: what times are divided by
    count: int
    #: who is measured against the first one; the first is ours
    contestants: Mapping[str, Contestant]
    #: how ours has to stand to bare Celery: at least so many times as fast
    bar: float
    rounds: int = 5
    #: pool processes of each worker
    processes: int = 1
    #: contestants who do another number of pieces, so that their time per piece compares
    counts: Mapping[str, int] | None = None

    def count_of(self, name: str) -> int:
        return (self.counts or {}).get(name, self.count)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def repeated(work: Callable[[], Any]) -> float:
    """Seconds of so many calls."""
    return sum(timed(work) for _ in range(TIMES))


def calls(kind: str, hops: int) -> Contestant:
    """A conversation of so many deliveries, until its value is here."""

    def run(on: Stage) -> float:
        app = on.ours(kind)
        left = {"left": (hops - 1) // 2}
        return repeated(lambda: tasks.inject(app, "caller", left).get(timeout=_WAIT_S))

    return run


def chain(on: Stage) -> float:
    """A chain of as many tasks."""
    bare = on.bare()

    def run() -> None:
        steps = (bare.step.si(HOPS) if not n else bare.step.s() for n in range(HOPS))
        celery.chain(*steps).apply_async().get(timeout=_WAIT_S)

    return repeated(run)


def replace(on: Stage) -> float:
    """A task that replaces itself as often."""
    bare = on.bare()
    return repeated(lambda: bare.replaced.delay(HOPS).get(timeout=_WAIT_S))


def pipeline(on: Stage) -> float:
    side = on.dramatiq()
    return repeated(lambda: side.run_pipeline(HOPS))


def steps(on: Stage) -> float:
    return sum(on.dbos("steps", HOPS) for _ in range(TIMES))


def buffer(items: int) -> Contestant:
    """So many items echoed, until they are counted."""

    def run(on: Stage) -> float:
        app = on.ours("local")
        work = {"items": items}
        return timed(lambda: tasks.inject(app, "fan.out", work).get(timeout=_WAIT_S))

    return run


def chord(on: Stage) -> float:
    bare = on.bare()
    canvas = celery.chord((bare.step.s(n) for n in range(ITEMS)), bare.collect.s())
    for _ in range(_CHORDS):
        with suppress(celery.exceptions.TimeoutError):
            return timed(lambda: canvas.apply_async().get(timeout=_CHORD_S))
        warnings.warn("a bare chord's body never ran: measured once more", stacklevel=1)
    raise RuntimeError(f"{_CHORDS} bare chords in a row never ran their body")


def chunks(on: Stage) -> float:
    """A hundred tasks of a hundred items each: no item has a task or a retry of its own."""
    bare = on.bare()
    pieces = bare.step.chunks(((n,) for n in range(ITEMS)), 100)
    return timed(lambda: pieces.group().apply_async().get(timeout=_WAIT_S))


def group(on: Stage) -> float:
    side = on.dramatiq()
    return timed(lambda: side.run_group(ITEMS))


def inject_many(on: Stage) -> tuple[float, float]:
    app = on.ours("local")
    payloads = [{"left": n} for n in range(ITEMS)]
    return _sent_and_done(lambda: tasks.inject_many(app, "echo", payloads))


def apply_async(on: Stage) -> tuple[float, float]:
    bare = on.bare()
    return _sent_and_done(lambda: [bare.step.apply_async((n,)) for n in range(ITEMS)])


def _sent_and_done(send: Callable[[], Sequence[Any]]) -> tuple[float, float]:
    """Seconds until so many are sent, and until all of their results are here."""
    began = time.perf_counter()
    results = send()
    sent_s = time.perf_counter() - began
    for result in results:
        result.get(timeout=_WAIT_S)
    return sent_s, time.perf_counter() - began


def send(on: Stage) -> float:
    side = on.dramatiq()
    took_s = timed(lambda: side.send(ITEMS))
    while not side.drained():
        time.sleep(0.1)
    return took_s


def sent(work: Callable[[Stage], tuple[float, float]]) -> Contestant:
    return lambda on: work(on)[0]


def done(work: Callable[[Stage], tuple[float, float]]) -> Contestant:
    return lambda on: work(on)[1]


#: a conversation of that many calls and replies ends with a delivery more
_OURS = {"Threadloom": (HOPS + 1) * TIMES}
_DBOS_FAN, _DBOS_ENQUEUE = f"DBOS queue, {FEW}", f"DBOS enqueue, {FEW}"

CONTESTS = (
    Contest(
        "queued", "one hop through the broker", HOPS * TIMES,
        {"Threadloom": calls("queued", HOPS + 1), "bare Celery chain": chain,
         "bare Celery replace": replace, "Dramatiq pipeline": pipeline},
        bar=1.0, rounds=5, counts=_OURS,
    ),
    Contest(
        "local", "one hop, local continuation", HOPS * TIMES,
        {"Threadloom": calls("local", HOPS + 1), "bare Celery chain": chain,
         "bare Celery replace": replace, "Dramatiq pipeline": pipeline, "DBOS steps": steps},
        bar=8.0, rounds=5, counts=_OURS,
    ),
    Contest(
        "buffer", f"one item of {ITEMS}", ITEMS,
        {"Threadloom buffer": buffer(ITEMS), "bare Celery chord": chord,
         "bare Celery chunks": chunks, "Dramatiq group": group,
         _DBOS_FAN: lambda on: on.dbos("fan", FEW)},
        bar=10.0, rounds=3, processes=2, counts={_DBOS_FAN: FEW},
    ),
    Contest(
        "inject", f"one of {ITEMS} injected", ITEMS,
        {"Threadloom inject_many": sent(inject_many), "bare Celery apply_async": sent(apply_async),
         "Dramatiq send": send, _DBOS_ENQUEUE: lambda on: on.dbos("enqueue", FEW)},
        bar=8.0, rounds=3, processes=2, counts={_DBOS_ENQUEUE: FEW},
    ),
    Contest(
        "done", f"one of {ITEMS} injected and answered", ITEMS,
        {"Threadloom inject_many": done(inject_many), "bare Celery apply_async": done(apply_async),
         _DBOS_FAN: lambda on: on.dbos("fan", FEW)},
        bar=1.0, rounds=3, processes=2, counts={_DBOS_FAN: FEW},
    ),
)  # fmt: skip
