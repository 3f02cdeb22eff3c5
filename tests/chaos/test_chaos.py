"""The short form of the chaos run; `make chaos MINUTES=5 SEED=7` is the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos.__main__ import EVERY_S, table
from tests.chaos.nursery import Nursery
from tests.chaos.run import chaos

SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
DURATION_S = 35.0


@pytest.mark.timeout(180)
def test_nothing_is_lost_and_nothing_happens_twice(nursery: Nursery, tmp_path: Path) -> None:
    """Workers, connections, Redis and the queue are struck, and every conversation is right."""
    report = chaos(tmp_path, nursery, seed=SEED, duration_s=DURATION_S, every_s=EVERY_S)
    Console().print(table(report))
    suffered = "\n".join(map(str, report.flaws))
    assert not report.flaws, f"seed {SEED}\n{suffered}\n{report.story}"
    assert not report.gave_up, f"seed {SEED}\n{report.gave_up}"
    assert report.sigkills, "nothing was killed"
    assert report.conversations, "nothing was begun"
