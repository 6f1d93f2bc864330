"""Intervals for contrasts of means: cases alone, or cases and seeds.

A contrast is a vector of weights over rows (a row is one run's case means). Its case variance comes from the
linearised influence of each case on each row's mean, so cases that several rows share are paired by
themselves. Its seed variance comes from the same contrast taken within each seed. Margins are combined as in
MOVER (Zou & Donner 2008): margin² = (t_{S−1} se_seed)² + (t_{n−1} se_case)².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from holdfast.stats.resample import NOMINAL, row_means

Floats = NDArray[np.float64]
MIN_SEEDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows' means, and each case's influence on them.

    ``means`` has shape (rows,), NaN for a row without values; ``influence`` (rows, cases), zero where a row lacks
    the case; ``present`` (rows, cases) says which cases a row has.
    """

    means: Floats
    influence: Floats
    present: NDArray[np.bool_]


def sample_of(values: Floats) -> Sample:
    """The sample of rows × cases ``values``, NaN where a row has no value."""
    present = np.isfinite(values)
    means = row_means(values)
    counts = np.maximum(present.sum(axis=1), 1)
    with np.errstate(invalid="ignore"):
        influence = np.where(present, values - means[:, None], 0.0) / counts[:, None]
    return Sample(means=means, influence=influence, present=present)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Covariances of k contrasts: ``case`` and ``seed`` (k, k), with the counts behind them.

    ``seed`` is None below two seeds. ``cases`` is the number of distinct cases touched.
    """

    values: Floats
    case: Floats | None
    seed: Floats | None
    cases: int
    seeds: int


def spread(sample: Sample, weights: Floats, by_seed: Sequence[Floats] = ()) -> Spread:
    """Values and covariances of contrasts ``weights`` (k, rows); ``by_seed`` holds them within each seed."""
    weights = np.atleast_2d(weights)
    used = np.any(weights != 0, axis=0)
    values = _values(sample, weights)
    cases = int(sample.present[used].any(axis=0).sum())
    case = None
    if cases >= 2 and bool(np.all(np.isfinite(values))):
        effect = weights[:, used] @ sample.influence[used]
        case = effect @ effect.T * (cases / (cases - 1))
    seed = None
    if len(by_seed) >= 2:
        found = np.stack([_values(sample, np.atleast_2d(one)) for one in by_seed])
        if bool(np.all(np.isfinite(found))):
            seed = np.atleast_2d(np.cov(found, rowvar=False)) / len(by_seed)
    return Spread(values=values, case=case, seed=seed, cases=cases, seeds=len(by_seed))


def _values(sample: Sample, weights: Floats) -> Floats:
    """The contrasts' values; NaN for one that weighs nothing, which has no value rather than a value of zero."""
    used = weights != 0
    rows = used.any(axis=0)
    return np.where(used.any(axis=1), weights[:, rows] @ sample.means[rows], np.nan)


def t_quantile(degrees: int, level: float = NOMINAL) -> float:
    """The two-sided quantile of Student's t."""
    return float(stdtrit(degrees, (1 + level) / 2))


def squared_margin(found: Spread, *, seeds: bool, level: float = NOMINAL) -> Floats | None:
    """The covariance-like matrix whose diagonal holds squared margins of the contrasts, or None.

    ``seeds`` False: cases alone. True: cases and seeds, None below ``MIN_SEEDS`` seeds.
    """
    if found.case is None:
        return None
    margin = t_quantile(found.cases - 1, level) ** 2 * found.case
    if not seeds:
        return margin
    if found.seed is None or found.seeds < MIN_SEEDS:
        return None
    return np.asarray(margin + t_quantile(found.seeds - 1, level) ** 2 * found.seed, dtype=np.float64)


def standard_error(found: Spread, index: int, *, seeds: bool) -> float | None:
    """The standard error of one contrast from cases, or from cases and seeds."""
    if found.case is None or (seeds and found.seed is None):
        return None
    variance = found.case[index, index] + (found.seed[index, index] if seeds and found.seed is not None else 0.0)
    return float(np.sqrt(max(variance, 0.0)))
