"""Points in time on the command line: `2026-11-25T09:00`, or how long ago: `90s`, `2h`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import typer

_AGO = re.compile(r"(\d{1,6})\s*(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def moment_ms(text: str, now: datetime, option: str) -> int:
    """Return a point in time in milliseconds since 1970; without a zone it is local time.

    Raises typer.BadParameter, which names `option`.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return _ms(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    try:
        return _ms(datetime.fromisoformat(text.strip()).astimezone())
    except (ValueError, OverflowError, OSError) as exc:
        hint = "write a time as 2026-11-25T09:00, or how long ago it was as 90s, 30min, 2h or 3d"
        raise typer.BadParameter(hint, param_hint=option) from exc


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
