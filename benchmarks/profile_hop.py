"""Where the time of a local hop goes: `python -m benchmarks.profile_hop [--hops 3000]`.

One process, a private Redis, one conversation that goes on in one run; a clock around each part of
`tasks/delivery.py`. The clocks themselves take a few µs of the whole.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from threadloom import tasks
from threadloom.routing.backends.redis import deliveries as registry
from threadloom.service import EmbeddedRedis
from threadloom.tasks import delivery
from threadloom.tasks.delivery import Deliverer
from threadloom.tasks.hop_events import HopEvents
from threadloom.tasks.publisher import Publisher

_ORGANISM = Path(__file__).parent / "ours.yaml"
_PARTS = {
    "receive": "envelope and payload: parse, two schemas, typed object",
    "run_handler": "handler, its time limit armed and disarmed",
    "plan": "plan: peers, threads, reply or call, new envelope",
    "rows": "what goes to the registry as JSON, and back",
    "run": "the registry, round trip and script",
    "events": "task events",
}


class Clocks:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time every call of a function, and count it to a part."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - began

        setattr(owner, name, timed)


def profile(hops: int, folder: Path) -> tuple[float, Counter[str]]:
    """Seconds of the whole conversation, and of its parts."""
    content = yaml.safe_load(_ORGANISM.read_text())
    content["organism"]["local_slice_ms"] = 3_600_000
    organism = folder / "organism.yaml"
    organism.write_text(yaml.safe_dump(content))
    with EmbeddedRedis(folder / "redis", persistent=False) as server:
        app = tasks.create_app(organism, redis_url=server.url(1))
        runtime = tasks.runtime_of(app)
        deliverer = Deliverer(runtime, Publisher(app, runtime))
        events = HopEvents(app, hostname="profile")

        def converse(left: int) -> float:
            name = tasks.inject(app, "caller", {"left": left}).id
            began = time.perf_counter()
            deliverer.deliver(
                lambda: runtime.backend.begin(name, name, owner="profile", lease_ms=60_000),
                root_id=name, native=True, limit_s=30.0, hops=events,
            )  # fmt: skip
            events.flush()
            return time.perf_counter() - began

        converse(100)
        clocks = Clocks()
        for part in ("receive", "run_handler", "plan"):
            clocks.around(delivery, part, part)
        for name in ("commit_args", "commit_result"):
            clocks.around(registry, name, "rows")
        clocks.around(runtime.backend._line, "run", "run")  # type: ignore[attr-defined]
        clocks.around(events, "record", "events")
        return converse((hops - 1) // 2), clocks.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hops", type=int, default=3_000)
    hops: int = parser.parse_args().hops
    with tempfile.TemporaryDirectory(prefix="profile-") as name:
        whole, seconds = profile(hops, Path(name))
    table = Table("part", "µs per hop")
    for part, title in _PARTS.items():
        table.add_row(title, f"{seconds[part] / hops * 1e6:.0f}")
    table.add_row("the rest", f"{(whole - sum(seconds.values())) / hops * 1e6:.0f}")
    table.add_row("all", f"{whole / hops * 1e6:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
