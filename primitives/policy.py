"""When a buffer is complete: its policy as two thresholds that a counter can check.

`best_effort` waits for every item, `all` ends at the first failure, `any` at the first
success, `at_least:N` and `at_least:P%` at so many successes; each also ends as soon as it can
no longer be met. `+fail_fast` behind any of them ends at the first failure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_FAIL_FAST = "fail_fast"


class Thresholds(NamedTuple):
    """A join fires at `need_ok` successes or `need_failed` failures; 0: never for that."""

    need_ok: int
    need_failed: int


def thresholds(policy: str, total: int) -> Thresholds:
    """The thresholds of a policy over `total` items (at least 1).

    Raises ValueError, with what to write instead, for a policy that is none.
    """
    name, *flags = (part.strip() for part in policy.split("+"))
    if flags not in ([], [_FAIL_FAST]) and name != _FAIL_FAST:
        raise ValueError(f"unknown flag in policy {policy!r}: only +{_FAIL_FAST} may follow")
    if name == _FAIL_FAST:
        name, flags = "best_effort", [_FAIL_FAST]
    if name == "best_effort":
        return Thresholds(0, 1 if flags else 0)
    need = _needed(name, policy, total)
    # More failures than this and so many successes cannot come together any more.
    return Thresholds(need, 1 if flags else total - need + 1)


def _needed(name: str, policy: str, total: int) -> int:
    if name == "all":
        return total
    if name == "any":
        return 1
    kind, _, amount = name.partition(":")
    if kind == "at_least" and amount:
        need = _amount(amount, total)
        if need is not None and 1 <= need <= total:
            return need
        raise ValueError(f"policy {policy!r} cannot be met by {total} items")
    raise ValueError(
        f"unknown policy {policy!r}: best_effort, all, any, at_least:N, at_least:P%, or one of "
        f"them with +{_FAIL_FAST}"
    )


def _amount(amount: str, total: int) -> int | None:
    number = amount.removesuffix("%")
    if not (number.isascii() and number.isdigit()):
        return None
    return math.ceil(int(number) * total / 100) if amount.endswith("%") else int(number)


def is_met(policy: str, total: int, ok: int, failed: int) -> bool:
    """Whether a buffer with these counts fulfilled its policy."""
    limits = thresholds(policy, total)
    if limits.need_failed and failed >= limits.need_failed:
        return False
    return ok >= limits.need_ok
