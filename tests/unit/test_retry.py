"""When a delivery runs again: the bounds of the backoff, and what a handler may ask for."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from threadloom.config import TransientError
from threadloom.routing import RetryLater
from threadloom.routing.retry import LONGEST_MS, backoff_ms

BASES_S = st.floats(min_value=0, max_value=1e6)
FAILURES = st.integers(min_value=1, max_value=10_000)
DRAWS = st.floats(min_value=0, max_value=1, exclude_max=True)


@pytest.mark.parametrize(
    ("base_s", "failures", "least_ms", "most_ms"),
    [
        (1.0, 1, 500, 1_000),
        (1.0, 2, 1_000, 2_000),
        (1.0, 3, 2_000, 4_000),
        (0.4, 3, 800, 1_600),
        (0.0, 9, 0, 0),
        (1.0, 10, 256_000, 512_000),
        (1.0, 11, 300_000, 600_000),
        (1.0, 5_000, 300_000, 600_000),
        (1e308, 5_000, 300_000, 600_000),
        (5e-324, 5_000, 300_000, 600_000),
    ],
)
def test_the_wait_doubles_up_to_ten_minutes(
    base_s: float, failures: int, least_ms: int, most_ms: int
) -> None:
    """The wait lies between half and all of base, 2·base, 4·base …"""
    assert backoff_ms(base_s, failures, draw=0.0) == least_ms
    assert backoff_ms(base_s, failures, draw=math.nextafter(1.0, 0.0)) == most_ms


@given(BASES_S, FAILURES, DRAWS, DRAWS)
@example(base_s=4.4952054599072817e-13, failures=41, first=0.5, second=0.0)  # many doublings
def test_no_draw_makes_a_later_wait_shorter_than_an_earlier_one(
    base_s: float, failures: int, first: float, second: float
) -> None:
    """Until the cap is reached, the longest wait equals the shortest wait after the next
    failure.
    """
    earlier = backoff_ms(base_s, failures, draw=first)
    later = backoff_ms(base_s, failures + 1, draw=second)
    assert 0 <= earlier <= LONGEST_MS
    assert earlier <= later + 1 or later >= LONGEST_MS // 2


@given(BASES_S, FAILURES)
def test_the_draw_spreads_what_failed_together(base_s: float, failures: int) -> None:
    """Half of the wait is drawn evenly at random."""
    waits = [backoff_ms(base_s, failures, draw=draw) for draw in (0.0, 0.25, 0.5, 0.75)]
    steps = [later - earlier for earlier, later in pairwise(waits)]
    assert max(steps) - min(steps) <= 2, "but for rounding"
    assert waits[0] * 3 <= waits[2] * 2 + 3


@pytest.mark.parametrize("failures", [0, -1])
def test_before_the_first_failure_there_is_no_wait(failures: int) -> None:
    """A caller that counts failures from 0 gets an error."""
    with pytest.raises(ValueError, match="failures must be at least 1"):
        backoff_ms(1.0, failures, draw=0.0)


# --- RetryLater ------------------------------------------------------------------------------


def test_retry_later_is_a_transient_error() -> None:
    """It may have a reason, and it has a delay only if the handler gives one."""
    assert isinstance(RetryLater(), TransientError)
    assert str(RetryLater()) == "the handler asked for another run"
    assert (str(RetryLater("dry", 2.5)), RetryLater("dry", 2.5).after_s) == ("dry", 2.5)
    assert RetryLater("dry").after_s is None
    assert RetryLater("dry", 0).after_s == 0


@pytest.mark.parametrize("after_s", [-1, -1e-9, math.nan, math.inf])
def test_a_wait_that_is_none_is_refused_where_it_is_written(after_s: float) -> None:
    """An invalid delay raises in the handler's own line instead of waiting for ever or failing
    later.
    """
    with pytest.raises(ValueError, match="after_s must be at least 0 seconds"):
        RetryLater("dry", after_s)


@pytest.mark.parametrize("arguments", [(), ("dry",), ("dry", 2.5)])
def test_it_survives_other_processes(arguments: tuple[Any, ...]) -> None:
    """The error is rebuilt from its arguments, as pickle and Celery's JSON do."""
    error = RetryLater(*arguments)
    for rebuilt in (
        pickle.loads(pickle.dumps(error)),
        RetryLater(*json.loads(json.dumps(error.args))),
    ):
        assert (str(rebuilt), rebuilt.args) == (str(error), error.args)
