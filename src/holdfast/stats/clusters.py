"""Means of per-case values over runs, shares of cases, and the interaction of pressure and training in log-odds.

A run gives a statistic, the influence of every case on it, and a variance that no case stands for. Statistics of
several runs are averaged; influences are added case by case, so that cases which runs share are paired by themselves,
and seeds are added as in ``stats.contrasts``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.stats.contrasts import MIN_SEEDS, t_quantile
from holdfast.stats.limits import mean_limits
from holdfast.stats.resample import NOMINAL, Interval

HALF = 0.5  # of a case, unsafe, and as much safe, added to every cell of a table of log-odds


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A statistic of one run: ``value`` (NaN without cases), ``influence`` (cases,), zero where a case is not in it.

    ``present`` (cases,) says which cases are; ``extra`` is variance that no case's influence holds.
    """

    value: float
    influence: Floats
    present: Bools
    extra: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """The mean of statistics over runs. ``case`` is its variance from cases, ``seed`` from seeds, None where unknown.

    ``cases`` counts the distinct cases, ``seeds`` the seeds, ``runs`` the statistics.
    """

    value: float
    case: float | None
    seed: float | None
    cases: int
    seeds: int
    runs: int


def mean_statistic(values: Floats) -> Statistic:
    """The mean of per-case ``values`` (cases,), NaN where a case has none."""
    present: Bools = np.asarray(np.isfinite(values), dtype=np.bool_)
    count = max(int(present.sum()), 1)
    mean = float(values[present].mean()) if present.any() else np.nan
    return Statistic(value=mean, influence=np.where(present, values - mean, 0.0) / count, present=present)


def interaction(cells: Floats) -> Statistic:
    """The log-odds interaction of a 2 × 2 table of shares: (a − b) − (c − d) of the logits of its rows.

    ``cells`` (4, cases) holds each case's share of unsafe episodes in child attacked, child clean, parent attacked,
    parent clean; a case without all four is left out. Each row's logit is that of its mean over cases with half a case
    added to either side (Haldane 1956, Anscombe 1956). The variance is that of the delta method with cases as
    clusters, and the halves count in it as independent: with one episode a case and no pairing it is close to the usual
    Σ 1/(x + ½) + 1/(n − x + ½).
    """
    present: Bools = np.asarray(np.isfinite(cells).all(axis=0), dtype=np.bool_)
    count = int(present.sum())
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    share = (np.where(present, cells, 0.0).sum(axis=1) + HALF) / (count + 2 * HALF)
    slope = 1 / ((count + 2 * HALF) * share * (1 - share))
    influence = signs @ (np.where(present, cells - share[:, None], 0.0) * slope[:, None])
    halves = float(np.sum(HALF * (share**2 + (1 - share) ** 2) * slope**2))
    value = float(signs @ np.log(share / (1 - share))) if count else np.nan
    return Statistic(value=value, influence=influence, present=present, extra=halves)


def pool(statistics: Sequence[Statistic], seeds: Sequence[Hashable]) -> Pooled:
    """The mean of some runs' statistics, those without cases left out; ``seeds`` names the seed of each.

    Statistics of one seed (of several bases) are averaged first, for the variance between seeds.
    """
    by_seed: dict[Hashable, list[float]] = {}
    kept = []
    for statistic, seed in zip(statistics, seeds, strict=True):
        if np.isfinite(statistic.value):
            kept.append(statistic)
            by_seed.setdefault(seed, []).append(statistic.value)
    if not kept:
        return Pooled(value=np.nan, case=None, seed=None, cases=0, seeds=0, runs=0)
    influence = np.mean([one.influence for one in kept], axis=0)
    present = np.any([one.present for one in kept], axis=0)
    cases = int(present.sum())
    # An influence of a logit does not add up to zero: its halves' share lies outside the cases.
    centred = np.where(present, influence - influence.sum() / cases, 0.0)
    extra = sum(one.extra for one in kept) / len(kept) ** 2
    means = [float(np.mean(values)) for values in by_seed.values()]
    return Pooled(
        value=float(np.mean([one.value for one in kept])),
        case=float(centred @ centred) * cases / (cases - 1) + extra if cases >= 2 else None,
        seed=float(np.var(means, ddof=1)) / len(means) if len(means) >= 2 else None,
        cases=cases,
        seeds=len(means),
        runs=len(kept),
    )


def interval_of(
    pooled: Pooled, *, seeds: bool = False, share: bool = False, span: Interval | None = None
) -> Interval | None:
    """The 95 % interval of a pooled mean, or None below two cases; with ``seeds``, None below ``MIN_SEEDS`` seeds.

    A ``share`` has the interval of ``share_interval`` from cases, a mean of values in ``span`` that of
    ``bounded_interval``, others Student's. Both stay within their range. Seeds widen each side as in MOVER: the squared
    distance of the limit and the squared margin of the seeds are added.
    """
    if pooled.case is None or (seeds and (pooled.seed is None or pooled.seeds < MIN_SEEDS)):
        return None
    if share:
        low, high = share_interval(pooled.value, pooled.case, pooled.cases)
    elif span is not None:
        low, high = bounded_interval(pooled.value, pooled.case, pooled.cases, span)
    else:
        margin = t_quantile(pooled.cases - 1) * float(np.sqrt(pooled.case))
        low, high = pooled.value - margin, pooled.value + margin
    if not seeds or pooled.seed is None:
        return low, high
    more = t_quantile(pooled.seeds - 1) ** 2 * pooled.seed
    low = pooled.value - float(np.sqrt((pooled.value - low) ** 2 + more))
    high = pooled.value + float(np.sqrt((high - pooled.value) ** 2 + more))
    ends = (0.0, 1.0) if share else span
    return (low, high) if ends is None else _within(low, high, pooled.value, ends)


def _within(low: float, high: float, mean: float, ends: Interval) -> Interval:
    """An interval cut at the ends of a range, but never short of the mean."""
    return max(low, min(ends[0], mean)), min(high, max(ends[1], mean))


def bounded_interval(mean: float, variance: float, cases: int, span: Interval) -> Interval:
    """The interval of a mean over ``cases`` values in ``span``, whose mean has this ``variance``.

    Two cases are added, one at either end of the span, and the quantile is Student's t. For differences of −1, 0 and 1
    these are the two discordant pairs of Bonett & Price (2012). So no change in 60 cases is [−0.05, 0.05] and not 0:
    as few cases may all be alike by luck.
    """
    middle = (cases * mean + sum(span)) / (cases + 2)
    squares = variance * cases * (cases - 1) + cases * (mean - middle) ** 2 + sum((end - middle) ** 2 for end in span)
    margin = t_quantile(max(cases - 1, 1)) * float(np.sqrt(squares)) / (cases + 2)
    return _within(middle - margin, middle + margin, mean, span)


def share_interval(share: float, variance: float, cases: int) -> Interval:
    """Wilson's interval of a share with the ``variance`` of its mean over ``cases`` clusters.

    The number of trials is the one that gives this variance to a binomial share (Korn & Graubard 1998), the number of
    cases where the share does not vary, and the quantile is Student's t. So no harm in 60 cases is [0, 0.06] and not 0.
    """
    binomial = share * (1 - share)
    trials = binomial / variance if variance > 0 and binomial > 0 else float(cases)
    return _wilson(share, trials, cases)


def _wilson(share: float, trials: float, cases: int) -> Interval:
    """Wilson's interval of a share of so many ``trials``, with the quantile of Student's t over ``cases``."""
    z = t_quantile(max(cases - 1, 1)) ** 2
    middle = (share + z / (2 * trials)) / (1 + z / trials)
    half = float(np.sqrt(z * (share * (1 - share) / trials + z / (4 * trials**2)))) / (1 + z / trials)
    # At a share of 0 or 1 the end is that very number, which rounding may miss.
    return 0.0 if share == 0 else max(0.0, middle - half), 1.0 if share == 1 else min(1.0, middle + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMeans:
    """Means of k groups, the influence (k, cases) of each case on them, and their covariance (k, k) from it."""

    means: Floats
    influence: Floats
    covariance: Floats
    cases: int


def rate_interval(hits: Bools, cases: Ints) -> Interval | None:
    """The 95 % interval of a share of items, of which those of one case go together; None below two cases.

    Wilson's interval at the effective number of items, which is their number over the design effect, with Student's t
    over cases. Where all items are alike no design effect can be seen, and each case counts as one item.
    """
    pooled = group_means(hits.astype(np.float64), np.zeros(len(hits), dtype=np.int64), cases)
    if pooled.cases < 2:
        return None
    share, variance, size = float(pooled.means[0]), float(pooled.covariance[0, 0]), float(len(hits))
    plain = share * (1 - share)
    effective = pooled.cases if plain == 0 else min(plain / variance, size) if variance > 0 else size
    return _wilson(share, effective, pooled.cases)


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


def contrast_interval(groups: GroupMeans, weights: Floats, span: Interval) -> tuple[float, Interval | None]:
    """A contrast of group means of values in ``span``, and its 95 % interval over cases; none below two cases."""
    value = float(weights @ groups.means)
    if groups.cases < 2:
        return value, None
    added = value + weights @ groups.influence * groups.cases  # what it would be if all cases were like this one
    extremes = np.multiply.outer(weights, span)
    ends = np.array([extremes.min(axis=1).sum(), extremes.max(axis=1).sum()])
    low, high = mean_limits(added[None], ends[None], NOMINAL)[0]
    return value, (max(float(low), float(ends[0])), min(float(high), float(ends[1])))


def equality_p(groups: GroupMeans) -> float | None:
    """The p value of "all groups have one mean" (Wald's F with Hotelling's degrees of freedom).

    None for one group, with no more than twice as many cases as groups, and where a difference does not vary.
    """
    contrasts = len(groups.means) - 1
    if contrasts < 1 or groups.cases <= 2 * len(groups.means):
        return None
    steps = np.eye(contrasts, contrasts + 1) - np.eye(contrasts, contrasts + 1, k=1)
    apart, spread = steps @ groups.means, steps @ groups.covariance @ steps.T
    if np.linalg.matrix_rank(spread, tol=1e-12) < contrasts:
        return None
    square = float(apart @ np.linalg.solve(spread, apart))
    degrees = groups.cases - contrasts
    return float(fdtrc(contrasts, degrees, square * degrees / (contrasts * (groups.cases - 1))))
