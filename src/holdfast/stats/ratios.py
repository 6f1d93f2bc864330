"""Persistence as a ratio: Fieller sets, and the published bootstrap of ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.stats.contrasts import Spread, limits
from holdfast.stats.resample import NOMINAL

Floats = NDArray[np.float64]
SMALLEST_DENOMINATOR = 1e-9  # the published rule: smaller denominators are dropped
FIRST_STEPS = np.geomspace(1e-2, 1e2, 30)  # looked at first on either side of a ratio, of the scale of its set
NARROWER = 8  # steps into which the one with an end is cut
PRECISION = 1e-8


def ratio_set(found: Spread, *, seeds: bool, level: float = NOMINAL) -> tuple[float, float] | None:
    """The ratios of the first contrast to the second that the data do not exclude, or None where they are unbounded.

    A ratio ρ is kept where the interval of N − ρD holds zero (Fieller 1954), with the limits of ``stats.contrasts``.
    The set is bounded only where the interval of D excludes zero. Where N − ρD leaves gaps, the set is what they span.
    Raises ValueError where there are no such intervals.
    """
    gain = limits(found, np.array([[0.0, 1.0]]), seeds=seeds, level=level)
    if gain is None:
        raise ValueError("no intervals without two cases, and none over seeds below three")
    if gain[0, 0] <= 0 <= gain[0, 1]:
        return None
    middle = float(found.values[0] / found.values[1])
    # The scale of the search: how far N / D goes when D stands at its limit next to zero and N at either of its own.
    top = limits(found, np.array([[1.0, 0.0]]), seeds=seeds, level=level)
    assert top is not None
    scale = float(np.abs(top).max() / np.abs(gain).min()) + abs(middle)
    return _edge(found, middle, -scale, seeds, level), _edge(found, middle, scale, seeds, level)


def _edge(found: Spread, middle: float, scale: float, seeds: bool, level: float) -> float:
    """The farthest kept ratio from ``middle`` in the direction of ``scale``."""
    steps = np.concatenate([[0.0], scale * FIRST_STEPS])
    while abs(steps[-1] - steps[0]) > PRECISION * (1 + abs(middle)):
        ratios = middle + steps
        both = limits(found, np.stack([np.ones(len(ratios)), -ratios], axis=1), seeds=seeds, level=level)
        assert both is not None
        kept = np.flatnonzero((both[:, 0] <= 0) & (both[:, 1] >= 0))
        last = int(kept[-1]) if len(kept) else 0
        if last == len(steps) - 1:  # a set that is bounded, but wider than was looked at
            steps = np.concatenate([[steps[-1]], steps[-1] * FIRST_STEPS / FIRST_STEPS[0]])
            continue
        steps = np.linspace(steps[last], steps[last + 1], NARROWER)
    return middle + float(steps[0])


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
