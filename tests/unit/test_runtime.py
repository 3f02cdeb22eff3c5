"""What every process has at hand: ids, and how many lanes a fan-out gets."""

from __future__ import annotations

import uuid

import pytest

from threadloom.routing import Organism
from threadloom.routing.backends import MemoryBackend
from threadloom.tasks.overtime import OvertimeBoard
from threadloom.tasks.runtime import LEAST_LANES, UNKNOWN_LANES, Runtime, new_id


def test_an_id_is_a_random_uuid() -> None:
    """Version 4 of the usual variant, in canonical form, and never the same."""
    made = [new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    for text in made:
        read = uuid.UUID(text)
        assert (str(read), read.version, read.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("processes", "lanes"), [(0, UNKNOWN_LANES), (1, LEAST_LANES), (2, LEAST_LANES), (40, 80)]
)
def test_a_fan_out_has_two_lanes_for_each_process(processes: int, lanes: int) -> None:
    """One that it runs and one that it finds next; many, while no worker is known."""
    backend = MemoryBackend(organism="o")
    if processes:
        backend.announce("w", processes, ttl_ms=60_000)
    assert Runtime(Organism("o", {}), backend).lanes() == lanes


def test_who_is_late_is_seen_on_the_board() -> None:
    """A process that has said when it has to be over; not one that has said that it is."""
    board = OvertimeBoard()
    assert board.late() == set()
    board.expect(30.0)
    assert board.late() == set()
    board.expect(1e-9)
    assert len(board.late()) == 1
    board.expect(None)
    assert board.late() == set()
