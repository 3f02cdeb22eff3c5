"""Policies as thresholds: a table by hand, and every small buffer against its definition."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadloom.primitives.policy import thresholds


@pytest.mark.parametrize(
    ("policy", "total", "expected"),
    [
        ("best_effort", 5, (0, 0)),
        ("best_effort+fail_fast", 5, (0, 1)),
        ("fail_fast", 5, (0, 1)),
        ("all", 5, (5, 1)),
        ("all", 1, (1, 1)),
        ("all+fail_fast", 5, (5, 1)),
        ("any", 5, (1, 5)),
        ("any+fail_fast", 5, (1, 1)),
        ("at_least:3", 5, (3, 3)),
        ("at_least:5", 5, (5, 1)),
        ("at_least:1", 5, (1, 5)),
        ("at_least:3+fail_fast", 5, (3, 1)),
        ("at_least:50%", 5, (3, 3)),
        ("at_least:100%", 5, (5, 1)),
        ("at_least:1%", 5, (1, 5)),
        ("at_least:29%", 100, (29, 72)),
        ("at_least:07", 10, (7, 4)),
        # A buffer without items meets every policy.
        ("best_effort", 0, (0, 0)),
        ("at_least:3", 0, (0, 0)),
        ("any", 0, (0, 0)),
    ],
)
def test_the_thresholds_of_a_policy(policy: str, total: int, expected: tuple[int, int]) -> None:
    """A policy gives the number of successes and the number of failures at which the join ends."""
    assert thresholds(policy, total) == expected


@pytest.mark.parametrize(
    "policy",
    [
        "", "most", "ALL", " all", "all ", "at_least", "at_least:", "at_least:x", "at_least:-1",
        "at_least:1.5", "at_least:%", "at_least:5 %", "at_least:٣", "at_least:" + "9" * 400,
        "at_least:" + "9" * 400 + "%", "5", "5%", "best_effort+", "all+any",
        "all+fail_fast+fail_fast", "fail_fast+fail_fast", "+fail_fast",
    ],
)  # fmt: skip
@pytest.mark.parametrize("total", [0, 3])
def test_what_is_no_policy_is_refused(policy: str, total: int) -> None:
    """An unknown policy is refused even for a buffer without items, with a text that lists the
    policies.
    """
    with pytest.raises(ValueError, match="policy"):
        thresholds(policy, total)


@pytest.mark.parametrize("policy", ["at_least:0", "at_least:0%", "at_least:4", "at_least:101%"])
def test_what_cannot_be_met_or_asks_for_nothing_is_refused(policy: str) -> None:
    """Four of three, or none of three, is a mistake of the policy's author."""
    with pytest.raises(ValueError, match="cannot be met by 3 items"):
        thresholds(policy, 3)


def ends_after(policy: str, answers: tuple[bool, ...]) -> int:
    """Return how many answers a join with these thresholds takes before it fires, counted as a
    backend does.
    """
    need_ok, need_failed = thresholds(policy, len(answers))
    ok = failed = 0
    for success in answers:
        ok, failed = ok + success, failed + (not success)
        if (need_ok and ok >= need_ok) or (need_failed and failed >= need_failed):
            break
    return ok + failed


def should_end_after(needed: float, fail_fast: bool, answers: tuple[bool, ...]) -> int:
    """Return the same number by definition: the answers until it is certain whether `needed`
    will be reached.
    """
    for count in range(1, len(answers) + 1):
        ok, left = sum(answers[:count]), len(answers) - count
        if ok >= needed or (needed != inf and ok + left < needed):
            return count
        if fail_fast and ok < count:
            return count
    return len(answers)


def needed_by(policy: str, total: int) -> float:
    """Return how many successes a policy asks for; `best_effort` waits for all items."""
    if policy == "best_effort":
        return inf
    if policy in ("all", "any"):
        return total if policy == "all" else 1
    amount = policy.removeprefix("at_least:")
    if amount.endswith("%"):
        return next(n for n in itertools.count() if n * 100 >= int(amount[:-1]) * total)
    return int(amount)


@given(
    st.lists(st.booleans(), min_size=1, max_size=12).map(tuple),
    st.sampled_from(["best_effort", "all", "any", "number", "percent"]),
    st.booleans(),
    st.data(),
)
def test_a_buffer_ends_exactly_when_its_policy_is_decided(
    answers: tuple[bool, ...], kind: str, fail_fast: bool, data: st.DataObject
) -> None:
    """The join ends neither an answer too early nor one too late, in every order of answers."""
    policy = kind
    if kind == "number":
        policy = f"at_least:{data.draw(st.integers(1, len(answers)))}"
    if kind == "percent":
        policy = f"at_least:{data.draw(st.integers(1, 100))}%"
    expected = should_end_after(needed_by(policy, len(answers)), fail_fast, answers)
    flagged = f"{policy}+fail_fast" if fail_fast else policy
    assert ends_after(flagged, answers) == expected
