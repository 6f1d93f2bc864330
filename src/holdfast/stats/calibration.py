"""A judge against known truth: tables of scores, rates and group means with case-clustered intervals, repeats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from holdfast.stats.contrasts import t_quantile
from holdfast.stats.limits import mean_limits
from holdfast.stats.resample import NOMINAL

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
SCORES = 4  # whole scores of the scale, from 0

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeans:
    """Means of k groups, the influence (k, cases) of each case on them, and their covariance (k, k) from it."""

    means: Floats
    influence: Floats
    covariance: Floats
    cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Items that were judged more than once: which of them got different scores, and the case of each.

    ``variance`` is the pooled variance of the repeats of one item, in squared score points.
    """

    differ: Bools
    cases: Ints
    variance: float


def whole_scores(values: Floats) -> Ints:
    """The scores rounded to the scale's whole ones, halves up. Errors: ValueError where one is missing."""
    if not np.isfinite(values).all():
        raise ValueError("a score is missing")
    return np.clip(np.floor(values + 0.5), 0, SCORES - 1).astype(np.int64)


def confusion(truth: Floats, judged: Floats) -> Ints:
    """Counts (true score, judged score), shape (4, 5); the last column counts judgements that are missing (NaN)."""
    there = np.isfinite(judged)
    column = np.full(len(judged), SCORES, dtype=np.int64)
    column[there] = whole_scores(judged[there])
    cells = whole_scores(truth) * (SCORES + 1) + column
    return np.bincount(cells, minlength=SCORES * (SCORES + 1)).reshape(SCORES, SCORES + 1)


def rate_interval(hits: Bools, cases: Ints) -> Interval | None:
    """The 95 % interval of a share of items, of which those of one case go together; None below two cases.

    Wilson's interval at the effective number of items, which is their number over the design effect, with Student's t
    over cases. Where all items are alike no design effect can be seen, and each case counts as one item.
    """
    _, owner = np.unique(cases, return_inverse=True)
    count, size = int(owner.max(initial=-1)) + 1, len(hits)
    if count < 2:
        return None
    share = float(np.mean(hits))
    influence = np.bincount(owner, weights=hits - share) / size
    variance = count / (count - 1) * float(influence @ influence)
    plain = share * (1 - share)
    effective = float(count) if plain == 0 else min(plain / variance, size) if variance > 0 else float(size)
    square = t_quantile(count - 1) ** 2
    middle = (share + square / (2 * effective)) / (1 + square / effective)
    half = np.sqrt(square * (plain / effective + square / (4 * effective**2))) / (1 + square / effective)
    # At a share of 0 or 1 the end is that very number, which rounding may miss.
    low = 0.0 if share == 0 else max(0.0, float(middle - half))
    return low, 1.0 if share == 1 else min(1.0, float(middle + half))


def group_means(values: Floats, groups: Ints, cases: Ints) -> GroupMeans:
    """Means of the groups 0..k−1, none of them empty, with a covariance that pairs groups on the cases they share.

    ``groups`` and ``cases`` say where each value belongs. The covariance is NaN below two cases.
    """
    _, owner = np.unique(cases, return_inverse=True)
    count, size = int(owner.max(initial=-1)) + 1, int(groups.max(initial=-1)) + 1
    sizes = np.bincount(groups, minlength=size)
    means = np.bincount(groups, weights=values, minlength=size) / sizes
    cell = groups * count + owner
    sums = np.bincount(cell, weights=values - means[groups], minlength=size * count).reshape(size, count)
    influence = sums / sizes[:, None]
    factor = count / (count - 1) if count > 1 else np.nan
    covariance = np.asarray(influence @ influence.T * factor, dtype=np.float64)
    return GroupMeans(means=means, influence=influence, covariance=covariance, cases=count)


def contrast_interval(found: GroupMeans, weights: Floats, span: Interval) -> tuple[float, Interval | None]:
    """A contrast of group means of values in ``span``, and its 95 % interval over cases; none below two cases."""
    value = float(weights @ found.means)
    if found.cases < 2:
        return value, None
    added = value + weights @ found.influence * found.cases
    extremes = np.multiply.outer(weights, span)
    ends = np.array([extremes.min(axis=1).sum(), extremes.max(axis=1).sum()])
    low, high = mean_limits(added[None], ends[None], NOMINAL)[0]
    return value, (max(float(low), float(ends[0])), min(float(high), float(ends[1])))


def equality_p(found: GroupMeans) -> float | None:
    """The p value of "all groups have one mean" (Wald's F with Hotelling's degrees of freedom).

    None for one group, with no more than twice as many cases as groups, and where a difference does not vary.
    """
    contrasts = len(found.means) - 1
    if contrasts < 1 or found.cases <= 2 * len(found.means):
        return None
    steps = np.eye(contrasts, contrasts + 1) - np.eye(contrasts, contrasts + 1, k=1)
    apart, spread = steps @ found.means, steps @ found.covariance @ steps.T
    if np.linalg.matrix_rank(spread, tol=1e-12) < contrasts:
        return None
    square = float(apart @ np.linalg.solve(spread, apart))
    degrees = found.cases - contrasts
    return float(fdtrc(contrasts, degrees, square * degrees / (contrasts * (found.cases - 1))))


def compare_repeats(values: Floats, items: Ints, cases: Ints) -> Repeats | None:
    """How far scores of one item differ from repeat to repeat; None where no item has two scores.

    ``items`` and ``cases`` say whose score each value is; values are finite.
    """
    _, first, owner, sizes = np.unique(items, return_index=True, return_inverse=True, return_counts=True)
    repeated = sizes > 1
    if not repeated.any():
        return None
    low, high = np.full(len(sizes), np.inf), np.full(len(sizes), -np.inf)
    np.minimum.at(low, owner, values)
    np.maximum.at(high, owner, values)
    means = np.bincount(owner, weights=values) / sizes
    squares = float(np.sum((values - means[owner]) ** 2))
    return Repeats(
        differ=np.asarray(high[repeated] > low[repeated]),
        cases=cases[first][repeated],
        variance=squares / float(np.sum(sizes - 1)),
    )
