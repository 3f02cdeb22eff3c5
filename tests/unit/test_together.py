"""How many conversations share a message, and the list of results that is returned."""

from __future__ import annotations

import dataclasses

import pytest
from celery import Celery

from threadloom.routing.organism import Listener, Organism
from threadloom.tasks.injection import Results
from threadloom.tasks.together import MOST, per_message

LISTENER = Listener("desk", lambda *_: None, {}, "Takes anything.")
ORGANISM = Organism("office", {"desk": LISTENER})


@pytest.mark.parametrize(
    ("count", "lanes", "expected"),
    [(1, 4, 1), (7, 4, 1), (8, 4, 2), (200, 4, 50), (10_000, 4, MOST), (50, 64, 1)],
)
def test_all_workers_have_something_and_no_message_is_long(
    count: int, lanes: int, expected: int
) -> None:
    """A few conversations are spread over the lanes; of many, at most a hundred share a message."""
    assert per_message(count, LISTENER, ORGANISM, lanes) == expected


@pytest.mark.parametrize("options", [{"queue": "own"}, {"rate_limit": "1/s"}, {"local": False}])
def test_where_a_message_is_a_turn_nothing_shares_one(options: dict[str, object]) -> None:
    """The listener's queue then counts its messages, and so does its rate limit."""
    listener = dataclasses.replace(LISTENER, **options)  # type: ignore[arg-type]
    assert per_message(10_000, listener, ORGANISM, 4) == 1


def test_an_organism_without_slices_has_a_message_for_each() -> None:
    """Without slices every delivery goes over the broker, so none share a message."""
    organism = dataclasses.replace(ORGANISM, local_slice_ms=0)
    assert per_message(10_000, LISTENER, organism, 4) == 1


def test_results_are_a_sequence_made_as_it_is_read() -> None:
    """Each id gives the same object each time it is asked for, and slices are such sequences."""
    results = Results(Celery(set_as_current=False), ["a", "b", "c"])
    assert len(results) == 3
    assert [result.id for result in results] == ["a", "b", "c"]
    assert results[-1] is results[2]
    assert results[1:].ids == ("b", "c")
    assert results[0] in results
    with pytest.raises(IndexError):
        results[3]
