"""One call-and-reply hop through the broker, beside one hop of a bare Celery chain.

    python -m benchmarks.hop [--hops 40] [--rounds 10]

Both run on the same private Redis, each with one worker of the same concurrency, in turn, so
that a drift of the machine meets both. A hop is one delivery: of ours a call or a reply,
validated, peers checked, committed to the registry; of the chain one task. The chain promises
none of that, and loses its tail when a worker dies at the wrong moment (docs/guarantees.md).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from celery import Celery, chain

import tasks
from config.celery_settings import celery_url
from service.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parent.parent
ORGANISM = Path(__file__).parent / "hop.yaml"


@contextmanager
def worker(app: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A worker process with one pool process, ready when the body begins."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, "worker", "-c", "1", "-l", "INFO",
             "--without-gossip", "--without-mingle"],
            cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while " ready." not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the worker of {app} ended at start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def run_chain(bare: Celery, hops: int) -> None:
    """A chain of `hops` tasks, until its result is here."""
    first, *rest = (bare.signature("bare.step", args=() if n else (hops,)) for n in range(hops))
    chain(first, *rest).apply_async().get(timeout=120)


def run_calls(app: Celery, hops: int) -> None:
    """A conversation of `hops` deliveries, until its value is here."""
    tasks.inject(app, "caller", {"left": (hops - 1) // 2}).get(timeout=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hops", type=int, default=41, help="hops per conversation or chain")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of runs")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(EmbeddedRedis(folder / "redis", persistent=False))
        bare_url = celery_url(redis.url(1))
        os.environ["BENCHMARK_URL"] = bare_url
        ours = {"THREADLOOM_ORGANISM": str(ORGANISM), "THREADLOOM_REDIS_URL": redis.url(0)}
        stack.enter_context(worker("tasks", ours, folder / "ours.log"))
        stack.enter_context(worker("benchmarks.bare", {}, folder / "bare.log"))
        from benchmarks.bare import app as bare  # its URL is in the environment only now

        app = tasks.create_app(ORGANISM, redis_url=redis.url(0))
        run_chain(bare, 3), run_calls(app, 3)  # connections and code are warm
        pairs = [
            (
                timed(lambda: run_chain(bare, options.hops)),
                timed(lambda: run_calls(app, options.hops)),
            )
            for _ in range(options.rounds)
        ]
    report(pairs, options.hops)


def report(pairs: list[tuple[float, float]], hops: int) -> None:
    """Print medians per hop and the ratio, pair by pair."""
    theirs = [1000 * bare / hops for bare, _ in pairs]
    own = [1000 * mine / hops for _, mine in pairs]
    ratios = sorted(mine / bare for bare, mine in pairs)
    print(f"bare Celery chain   {statistics.median(theirs):6.2f} ms per hop (median)")
    print(f"Threadloom          {statistics.median(own):6.2f} ms per hop (median)")
    print(
        f"ratio               {statistics.median(ratios):6.2f}    "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} pairs)"
    )


if __name__ == "__main__":
    main()
