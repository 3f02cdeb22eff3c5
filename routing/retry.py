"""When a delivery whose handler asked for another try runs again. Pure.

Exponential backoff with equal jitter: the wait doubles with each failure, half of it is fixed
and half is drawn, so that deliveries which failed together do not come back together.
Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
"""

from __future__ import annotations

import math

#: no wait is longer, however many failures there were
LONGEST_MS = 600_000


def backoff_ms(base_s: float, failures: int, *, draw: float) -> int:
    """Milliseconds to wait after so many failures (from 1).

    `base_s` seconds, doubled for each failure after the first, at most LONGEST_MS; of that,
    between a half (`draw` 0) and all (`draw` near 1).
    """
    if failures < 1:
        raise ValueError(f"failures must be at least 1, got {failures}")
    try:
        full = min(float(LONGEST_MS), math.ldexp(base_s * 1000, failures - 1))
    except OverflowError:  # no float is as large; the cap is
        full = float(LONGEST_MS)
    return round(full * (0.5 + 0.5 * draw))
