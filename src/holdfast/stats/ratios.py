"""Persistence as a ratio: Fieller sets, and the published bootstrap of ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SMALLEST_DENOMINATOR = 1e-9  # the published rule: smaller denominators are dropped


def fieller(numerator: float, denominator: float, margin: Floats) -> tuple[float, float] | None:
    """The set of ratios that the data do not exclude, or None where it is unbounded.

    ``margin`` is the 2 × 2 matrix of squared margins of (numerator, denominator): a ratio ρ is kept where
    (N − ρD)² ≤ margin of N − ρD. The set is bounded only where the denominator differs from zero (Fieller 1954).
    """
    a = denominator**2 - margin[1, 1]
    b = numerator * denominator - margin[0, 1]
    c = numerator**2 - margin[0, 0]
    if not a > 0:
        return None
    # The ratio itself is always in the set, so the root is real up to rounding.
    root = np.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioDraws:
    """A bootstrap of mean ratios: ``values`` (draws,), NaN where skipped; how many key draws were dropped."""

    values: Floats
    dropped: int
    skipped: int


def mean_of_ratios(numerators: Floats, denominators: Floats) -> RatioDraws:
    """The mean over keys of numerator / denominator in each draw; inputs have shape (draws, keys).

    Keys with a denominator of at most ``SMALLEST_DENOMINATOR`` are left out of their draw, as published.
    """
    valid = denominators > SMALLEST_DENOMINATOR
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=valid)
    count = valid.sum(axis=1)
    values = np.divide(ratios.sum(axis=1), count, out=np.full(len(ratios), np.nan), where=count > 0)
    return RatioDraws(values=values, dropped=int((~valid).sum()), skipped=int((count == 0).sum()))
