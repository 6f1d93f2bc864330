"""Resampling of cases: one draw of cases serves every run and every judge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from holdfast.records.arrays import Floats

Interval = tuple[float, float]
Weights = NDArray[np.float32]

CHUNK_DRAWS = 2_000  # bounds memory: a chunk of weights is CHUNK_DRAWS × cases of 4 bytes
NOMINAL = 0.95


def draw_counts(rng: np.random.Generator, draws: int, size: int) -> Weights:
    """How often each of ``size`` items is drawn, with replacement, in each of ``draws`` resamples of ``size`` items.

    Shape (draws, size).
    """
    picked = rng.integers(0, size, size=(draws, size), dtype=np.int64)
    picked += size * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float32)


def resampled_means(values: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Every row's mean in every resample of the columns: shape (draws, rows).

    ``values`` is rows × cases with NaN where a row has no value. A row that a resample leaves without any case
    keeps its own mean there.
    """
    present = np.isfinite(values)
    # Single precision is exact here for whole scores (sums stay far below 2**24) and twice as fast.
    filled = np.where(present, values, 0.0).astype(np.float32).T
    there = present.astype(np.float32).T
    means = row_means(values)
    found = np.empty((draws, values.shape[0]))
    for start in range(0, draws, CHUNK_DRAWS):
        part = found[start : start + CHUNK_DRAWS]
        part[:] = means
        weights = draw_counts(rng, len(part), values.shape[1])
        counts = (weights @ there).astype(np.float64)
        np.divide(weights @ filled, counts, out=part, where=counts > 0)
    return found


def row_means(values: Floats, axis: int = -1) -> Floats:
    """The mean along an axis, by default of each row, of the finite values; NaN where there are none."""
    counts = np.isfinite(values).sum(axis=axis)
    sums = np.nansum(values, axis=axis)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0), dtype=np.float64)


def percentile_interval(draws: NDArray[np.floating]) -> Interval | None:
    """The central 95 % of the finite draws, or None where fewer than 40 are finite."""
    finite = np.asarray(draws)[np.isfinite(draws)]
    if len(finite) < 40:
        return None
    low, high = np.quantile(finite, [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])
    return float(low), float(high)
