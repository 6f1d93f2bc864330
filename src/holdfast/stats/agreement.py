"""Agreement of two judges who scored the same things, with intervals that treat cases as random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.records.arrays import Bools, Floats, Ints
from holdfast.stats.clusters import contrast_interval, group_means
from holdfast.stats.contrasts import CHANGE_SPAN, t_quantile

STEP = 1e-6  # of the numeric gradient, as a share of all items
MAX_LEVELS = 40  # distinct scores up to which kappa and alpha have intervals: the table of pairs has their square
NO_WIDTH = 1e-6  # half of an interval: what is below is rounding of the numeric gradient


def agree(first: Floats, second: Floats) -> Mapping[str, float | None]:
    """Exact and within-one agreement, Pearson, Spearman, quadratic kappa, Krippendorff's ordinal alpha, mean bias.

    Both arrays hold scores of the same items, without gaps. The bias is the mean of second − first. A measure that
    is not defined (no items, no variation) is None.
    """
    return {name: measure(first, second) if len(first) else None for name, measure in MEASURES.items()}


def correlation(first: Floats, second: Floats) -> float | None:
    """Pearson's r, or None where one of the two does not vary."""
    one, two = first - np.mean(first), second - np.mean(second)
    scale = float(np.sqrt(np.dot(one, one) * np.dot(two, two)))
    return float(np.clip(np.dot(one, two) / scale, -1.0, 1.0)) if scale > 1e-12 else None


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[codes], dtype=np.float64)


def quadratic_kappa(first: Floats, second: Floats) -> float | None:
    """Cohen's kappa with squared weights: 1 − E(a−b)² / E(a−b')² with b' shuffled; None where it is 0/0."""
    chance = float(np.var(first) + np.var(second) + (np.mean(first) - np.mean(second)) ** 2)
    return 1.0 - float(np.mean((first - second) ** 2)) / chance if chance > 1e-12 else None


def ordinal_alpha(first: Floats, second: Floats) -> float | None:
    """Krippendorff's alpha with the ordinal distance for two judges without gaps; None where nothing varies."""
    levels, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    pairs = np.zeros((len(levels), len(levels)))
    np.add.at(pairs, (codes[: len(first)], codes[len(first) :]), 1.0)
    return _alpha(pairs + pairs.T, 2.0 * len(first) - 1) if len(levels) > 1 else None


MEASURES: Mapping[str, Callable[[Floats, Floats], float | None]] = {
    "exact": lambda first, second: float(np.mean(first == second)),
    "within_1": lambda first, second: float(np.mean(np.abs(second - first) <= 1)),
    "pearson": correlation,
    "spearman": lambda first, second: correlation(ranks(first), ranks(second)),
    "quadratic_kappa": quadratic_kappa,
    "ordinal_alpha": ordinal_alpha,
    "mean_bias": lambda first, second: float(np.mean(second - first)),
}


def _alpha(coincidences: Floats, others: float) -> float:
    """Ordinal alpha, where each judgement may by chance stand beside ``others``."""
    totals = coincidences.sum(axis=1)
    middle = np.cumsum(totals) - totals / 2  # the distance of two levels is the number of values between them
    distance = (middle[:, None] - middle[None, :]) ** 2
    expected = float(totals @ distance @ totals) / others
    return 1.0 - float((coincidences * distance).sum()) / expected if expected > 1e-12 else np.nan


def case_intervals(first: Floats, second: Floats, cases: Ints) -> Mapping[str, tuple[float, float]]:
    """95 % intervals of the mean bias, quadratic kappa and ordinal alpha; items of one case go together.

    ``cases`` numbers the case of each item; scores lie in 0 to 3. The bias has the limits of ``stats.limits``. The
    others are functions of the table of pairs of scores, so a case's influence is the table of its own items, centred,
    times the gradient (delta method; Student's t over cases). They have none where the influences are all alike, as in
    complete agreement, which tells nothing of their error, and above ``MAX_LEVELS`` distinct scores. Nothing has one
    below 2 cases.
    """
    levels, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    _, owner = np.unique(cases, return_inverse=True)
    count, size = int(owner.max(initial=-1)) + 1, len(levels) ** 2
    intervals: dict[str, tuple[float, float]] = {}
    if count < 2:
        return intervals
    bias = group_means(second - first, np.zeros(len(first), dtype=np.int64), cases)
    _, interval = contrast_interval(bias, np.ones(1), CHANGE_SPAN)
    if interval is not None:
        intervals["mean_bias"] = interval
    if not 1 < len(levels) <= MAX_LEVELS:
        return intervals
    cell = codes[: len(first)] * len(levels) + codes[len(first) :]
    # Only cells that occur have an influence, so the gradient is taken in those alone.
    used, column = np.unique(cell, return_inverse=True)
    tables = np.bincount(owner * len(used) + column, minlength=count * len(used)).reshape(count, len(used))
    total = tables.sum(axis=0) / len(first)
    centred = (tables - tables.sum(axis=1, keepdims=True) * total) / len(first)

    def full(shares: Floats) -> Floats:
        table = np.zeros(size)
        table[used] = shares
        return table.reshape(len(levels), len(levels))

    for name, statistic in TABLE_STATISTICS.items():
        value = statistic(full(total), levels)
        slopes = np.empty(len(used))
        for at, step in enumerate(STEP * np.eye(len(used))):
            slopes[at] = statistic(full(total + step), levels) - statistic(full(total - step), levels)
        influence = centred @ slopes / (2 * STEP)
        half = t_quantile(count - 1) * float(np.sqrt(count / (count - 1) * (influence @ influence)))
        if np.isfinite(value) and half > NO_WIDTH:
            intervals[name] = (value - half, min(value + half, 1.0))
    return intervals


def _table_kappa(table: Floats, levels: Floats) -> float:
    """Quadratic kappa of a table of shares (first, second)."""
    shares = table / table.sum()
    apart = (levels[:, None] - levels[None, :]) ** 2
    chance = float(shares.sum(axis=1) @ apart @ shares.sum(axis=0))
    return 1.0 - float((shares * apart).sum()) / chance if chance > 1e-12 else np.nan


TABLE_STATISTICS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "quadratic_kappa": _table_kappa,
    # In the limit of many items.
    "ordinal_alpha": lambda table, levels: _alpha((table + table.T) / table.sum(), 2.0),
}


SCORES = 4  # whole scores of the scale, from 0


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
