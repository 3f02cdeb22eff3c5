"""When a buffer is complete: its policy as two thresholds that a counter can check.

`best_effort` waits for every item, `all` ends at the first failure, `any` at the first
success, `at_least:N` and `at_least:P%` at so many successes; each also ends as soon as it can
no longer be met. `fail_fast`, alone or as `+fail_fast` behind one of them, ends at the first
failure.
"""

from __future__ import annotations

from typing import NamedTuple

_FAIL_FAST = "fail_fast"
_BEST_EFFORT = "best_effort"
_AT_LEAST = "at_least:"
#: digits of N or P: more than any total has
_MAX_DIGITS = 9


class Thresholds(NamedTuple):
    """A join fires at `need_ok` successes or `need_failed` failures; 0: never for that.

    Whatever they are, it fires when every branch has answered.
    """

    need_ok: int
    need_failed: int


def thresholds(policy: str, total: int) -> Thresholds:
    """The thresholds of a policy over `total` items.

    Raises ValueError, with what to write instead, for a policy that is none, or that `total`
    items cannot meet; no items meet every policy.
    """
    name, flag = _parts(policy)
    if name == _BEST_EFFORT:
        return Thresholds(0, 1 if flag else 0)
    need = _needed(name, policy, total)
    if not total:
        return Thresholds(0, 0)
    if not 1 <= need <= total:
        raise ValueError(f"policy {policy!r} cannot be met by {total} items")
    # More failures than this and so many successes cannot come together any more.
    return Thresholds(need, 1 if flag else total - need + 1)


def _parts(policy: str) -> tuple[str, bool]:
    """The policy's name and whether it ends at the first failure."""
    name, plus, flag = policy.partition("+")
    if policy == _FAIL_FAST:
        return _BEST_EFFORT, True
    if plus and flag != _FAIL_FAST:
        raise ValueError(f"unknown flag in policy {policy!r}: only +{_FAIL_FAST} may follow")
    return name, bool(plus)


def _needed(name: str, policy: str, total: int) -> int:
    """How many successes a policy asks for."""
    if name in ("all", "any"):
        return total if name == "all" else 1
    amount = name.removeprefix(_AT_LEAST)
    number = amount.removesuffix("%")
    is_number = number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS
    if amount == name or not is_number:
        raise ValueError(
            f"unknown policy {policy!r}: best_effort, all, any, at_least:N, at_least:P%, or one "
            f"of them with +{_FAIL_FAST}"
        )
    if amount.endswith("%"):
        return -(-int(number) * total // 100)  # rounded up, without a float's error
    return int(number)
