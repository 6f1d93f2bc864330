"""The betting bounds of many samples at once: those of ``bounded.lower_bound``, one by one, only faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdfast.stats.betting import CELLS, PRECISION, PRIOR_VARIANCE, PRIOR_WEIGHT, STAKE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ROWS_AT_ONCE = 256  # bounds memory: each plays against up to ``CELLS`` means


def lower_bounds(samples: Sequence[Floats] | Floats, alpha: float, *, low: float, high: float) -> Floats:
    """``lower_bound`` of each of ``samples`` by "betting", with bets sized for ``alpha``: shape (rows,).

    They are finite, within [low, high], and may differ in size; none is empty.
    """
    n = np.array([len(one) for one in samples], dtype=np.int64)
    found = np.zeros(len(n))
    # Those of like size together: shorter ones wait until the longest of their group is through.
    order = np.argsort(n, kind="stable")
    for start in range(0, len(n), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        x = np.zeros((len(rows), int(n[rows].max())))
        for place, row in enumerate(rows):
            x[place, : n[row]] = np.clip((np.asarray(samples[row], dtype=np.float64) - low) / (high - low), 0.0, 1.0)
        found[rows] = _lower(x, n[rows], alpha)
    return low + (high - low) * found


def _lower(x: Floats, n: Ints, alpha: float) -> Floats:
    """The bounds of values in [0, 1]: the first mean that is kept lies in the first part whose end is kept.

    ``x`` has shape (rows, longest), of which the first ``n`` (rows,) of a row are its values.
    """
    mean = x.sum(axis=1) / n
    cells = _first_kept(x, n, mean, alpha)
    tops = cells / CELLS
    stakes = np.empty(x.shape)
    wealth, squares = np.zeros(len(x)), np.full(len(x), PRIOR_VARIANCE * PRIOR_WEIGHT)
    goal = target = np.full(len(x), -math.log(alpha))
    for step in range(x.shape[1]):
        stake = _stake(goal - wealth, squares, tops, step=step, n=n)
        gain = x[:, step] - tops
        stakes[:, step] = stake
        wealth = wealth + np.log1p(stake * gain)
        squares = squares + gain * gain
        goal = np.where(wealth >= goal, target * (np.floor(wealth / target) + 1), goal)
    low, high = (cells - 1) / CELLS, tops
    while float((high - low).max(initial=0.0)) > PRECISION:
        middle = (low + high) / 2
        kept = np.cumsum(np.log1p(stakes * (x - middle[:, None])), axis=1).max(axis=1) < target
        low, high = np.where(kept, low, middle), np.where(kept, middle, high)
    return np.asarray(np.minimum(low, mean))


def _stake(missing: Floats, squares: Floats, tops: Floats, *, step: int, n: Ints) -> Floats:
    """The bets on value number ``step`` (from 0) of ``n``, with so much ``missing`` of the goal's log; none after."""
    stake = np.sqrt(missing / squares * (2 * (PRIOR_WEIGHT + step) / np.maximum(n - step, 1)))
    return np.where(step < n, np.minimum(stake, STAKE / tops), 0.0)


def _first_kept(x: Floats, n: Ints, mean: Floats, alpha: float) -> Ints:
    """By row the number (from 1) of the first part of [0, 1] whose end is not rejected, up to that of the row's mean.

    Who reaches the target is out, so that a few players a row stay after the first values.
    """
    rows, longest = x.shape
    last = np.minimum(np.ceil(mean * CELLS).astype(np.int64) + 1, CELLS)
    row = np.repeat(np.arange(rows), last)
    cell = np.arange(1, len(row) + 1) - np.repeat(np.cumsum(last) - last, last)
    tops = cell / CELLS
    target = -math.log(alpha)
    wealth, squares = np.zeros(len(row)), np.full(len(row), PRIOR_VARIANCE * PRIOR_WEIGHT)
    sizes = n[row]
    for step in range(longest):
        # Only those below the target play, so its square is never their goal.
        stake = _stake(target - wealth, squares, tops, step=step, n=sizes)
        gain = x[row, step] - tops
        wealth += np.log1p(stake * gain)
        squares += gain * gain
        staying = wealth < target
        if not staying.all():
            row, cell, tops, sizes = row[staying], cell[staying], tops[staying], sizes[staying]
            wealth, squares = wealth[staying], squares[staying]
    found = last.copy()
    np.minimum.at(found, row, cell)
    return np.asarray(found, dtype=np.int64)
