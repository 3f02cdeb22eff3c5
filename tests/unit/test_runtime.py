"""What every process provides: ids, and the number of lanes of a fan-out."""

from __future__ import annotations

import uuid

import pytest

from threadloom.routing import Organism
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.overtime import OvertimeBoard
from threadloom.tasks.runtime import LEAST_LANES, UNKNOWN_LANES, Runtime, new_id


def test_an_id_is_a_random_uuid() -> None:
    """An id is a version 4 UUID of the usual variant, in canonical form, and never comes twice."""
    made = [new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    for text in made:
        read = uuid.UUID(text)
        assert (str(read), read.version, read.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("processes", "lanes"), [(0, UNKNOWN_LANES), (1, LEAST_LANES), (2, LEAST_LANES), (40, 80)]
)
def test_a_fan_out_has_two_lanes_for_each_process(processes: int, lanes: int) -> None:
    """One item runs and the next one waits. While no worker is known, there are many lanes."""
    backend = MemoryBackend(organism="o")
    if processes:
        backend.announce("w", processes, ttl_ms=60_000)
    assert Runtime(Organism("o", {}), backend).lanes() == lanes


def test_who_is_late_is_seen_on_the_board() -> None:
    """A process is late after the time by which it said it would be done, unless it has said
    that it is done.
    """
    board = OvertimeBoard()
    assert board.late() == set()
    board.expect(30.0)
    assert board.late() == set()
    board.expect(1e-9)
    assert len(board.late()) == 1
    board.expect(None)
    assert board.late() == set()
