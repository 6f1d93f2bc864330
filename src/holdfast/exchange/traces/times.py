"""Moments as any log writes them, in ns since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

# What a plain number counts is told by its size: a moment of this century in s, ms, µs or ns.
_UNITS = ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (1e20, 1))


def read_time(value: Any) -> int | None:
    """A moment in ns; None where it is not told or of no known form."""
    if isinstance(value, bool) or value in (None, "", 0, "0"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _read_date(value)
    except OverflowError:
        return None
    scale = next((scale for limit, scale in _UNITS if 0 < number < limit), None)
    if scale is None:
        return None
    return int(value) if scale == 1 and str(value).isdigit() else int(number * scale)


def _read_date(value: Any) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip().removesuffix(" UTC"))
    except ValueError:
        return None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    seconds = found - datetime(1970, 1, 1, tzinfo=UTC)
    return (seconds.days * 86_400 + seconds.seconds) * 10**9 + seconds.microseconds * 1000
