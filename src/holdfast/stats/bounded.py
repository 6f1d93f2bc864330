"""One-sided bounds for the mean of bounded values, exact bounds for shares and medians, and Holm's adjustment.

The values are taken as independent draws from one distribution on [low, high]; no bound depends on the order in which
they stand. Where a case has several rollouts they are averaged first: what is bounded is then the mean of the case
means, each case counting once. No normal theory is used but for method "t".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
from scipy import special, stats

from holdfast.records.arrays import Bools, Floats
from holdfast.stats import gaffke

BoundMethod = Literal["gaffke", "bernstein", "t"]
Side = Literal["greater", "less"]

ROUNDING = 1e-9  # of the range: sums of scores miss the ends of the range by so much


def order_cases(cases: Sequence[str]) -> list[str]:
    """The cases by the digest of their id: an order that no score has a part in, the same on every machine."""
    return sorted(cases, key=lambda case: hashlib.sha256(case.encode("utf-8", "surrogatepass")).digest())


def cluster_means(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    """The mean of each cluster, in the order in which the clusters first appear.

    Bounds of them are bounds for the mean of the cluster means: every cluster counts once, whatever its size. Raises
    ValueError where the two differ in length.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values but {len(clusters)} cluster names")
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([places[name] for name in clusters], dtype=np.int64)
    return np.asarray(np.bincount(index, weights=values) / np.bincount(index), dtype=np.float64)


def lower_bound(values: Floats, alpha: float, *, low: float, high: float, method: BoundMethod = "gaffke") -> float:
    """A bound that lies above the true mean in at most ``alpha`` of samples, within [low, high].

    - "gaffke": the smallest mean that Gaffke's test does not reject (see ``stats.gaffke``), at most the mean of the
      values. Valid at every n; Clopper–Pearson where all values are ends of the range.
    - "bernstein": the empirical Bernstein bound (Maurer & Pontil 2009, theorem 4). Valid at every n, and wider.
    - "t": Student's. Not valid for small samples of skewed values. Values without any spread tell it nothing: the
      bound of "gaffke" is given there.

    One value bounds nothing by "bernstein" and "t": they give ``low``. Bounds of one method are nested in ``alpha``.
    ``values`` has shape (n,). Raises ValueError for no values, values that are not finite or outside [low, high], and
    levels outside (0, 1).
    """
    _check_level(alpha)
    return low + (high - low) * _lower(_scaled(values, low, high), alpha, method)


def upper_bound(values: Floats, alpha: float, *, low: float, high: float, method: BoundMethod = "gaffke") -> float:
    """A bound that lies below the true mean in at most ``alpha`` of samples: ``lower_bound`` of the negated values."""
    return -lower_bound(-np.asarray(values, dtype=np.float64), alpha, low=-high, high=-low, method=method)


def p_value(
    values: Floats, null: float, *, low: float, high: float, side: Side = "greater", method: BoundMethod = "gaffke"
) -> float:
    """The level at which "the mean is at most ``null``" (side "greater"; "less": at least) is just rejected.

    It is at most α where the bound of the same method excludes ``null`` at α, and only there. Raises as
    ``lower_bound``.
    """
    values = np.asarray(values, dtype=np.float64)
    return float(p_values(values[None], null, low=low, high=high, side=side, method=method)[0])


def p_values(
    samples: Floats, null: float, *, low: float, high: float, side: Side = "greater", method: BoundMethod = "gaffke"
) -> Floats:
    """``p_value`` of each row of ``samples`` (rows, n): shape (rows,)."""
    if side == "less":
        return p_values(-samples, -null, low=-high, high=-low, method=method)
    x = _scaled(samples, low, high)
    m = (null - low) / (high - low)
    if m < 0 or m >= 1:
        return np.full(len(x), float(m >= 1))
    if method == "gaffke":
        return gaffke.p_of_rows(x, m)
    n = x.shape[1]
    if n == 1:
        return np.ones(len(x))
    gap, deviation = x.mean(axis=-1) - m, x.std(axis=-1, ddof=1)
    if method == "bernstein":
        # The level δ at which the bound equals m: with u = √ln(2/δ), a·u² + b·u = mean − m.
        a, b = 7 / (3 * (n - 1)), deviation * np.sqrt(2 / n)
        u = (np.sqrt(b * b + 4 * a * np.maximum(gap, 0.0)) - b) / (2 * a)
        return np.asarray(np.minimum(1.0, 2 * np.exp(-u * u)), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.asarray(special.stdtr(n - 1, -gap * np.sqrt(n) / deviation), dtype=np.float64)
    flat = _flat(x)
    if flat.any():
        p[flat] = gaffke.p_of_rows(x[flat], m)
    return p


def exact_lower(events: int, n: int, alpha: float) -> float:
    """The Clopper–Pearson lower 1 − α bound of a share with ``events`` of ``n``; 0 without events."""
    if not 0 <= events <= n:
        raise ValueError(f"{events} events of {n} cannot be")
    _check_level(alpha)
    return 0.0 if events == 0 else float(special.betaincinv(events, n - events + 1, alpha))


def median_interval(values: Floats, level: float) -> tuple[float, float] | None:
    """An interval of the median between two of the values, or None where even the least and largest are too narrow.

    By the sign test: each value lies below the median with probability 1/2, so the number that do is binomial, and the
    j-th least and the j-th largest hold the median between them but for twice the probability of fewer than j (Conover
    1999, section 3.2; ``scipy.stats.quantile_test``). Five values hold it with 93.75 %. Ties only widen it.
    """
    found = stats.quantile_test(values, p=0.5).confidence_interval(level)
    return (float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p-value adjusted for the number of tests by Holm's step-down rule (1979), in the order of the input.

    Rejecting where the adjusted value is at most α errs anywhere with probability at most α, whatever the dependence.
    """
    ranked = sorted(p_values, key=lambda name: p_values[name])
    steps = (min(1.0, (len(ranked) - rank) * p_values[name]) for rank, name in enumerate(ranked))
    adjusted = dict(zip(ranked, accumulate(steps, max), strict=True))
    return {name: adjusted[name] for name in p_values}


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p-value adjusted by Benjamini and Hochberg's step-up rule (1995), in the order of the input.

    Of what is rejected where the adjusted value is at most α, a share of at most α is false on average, where the tests
    are independent or depend positively (Benjamini & Yekutieli 2001).
    """
    ranked = sorted(p_values, key=lambda name: p_values[name], reverse=True)
    steps = (min(1.0, p_values[name] * len(ranked) / (len(ranked) - rank)) for rank, name in enumerate(ranked))
    adjusted = dict(zip(ranked, accumulate(steps, min), strict=True))
    return {name: adjusted[name] for name in p_values}


def _check_level(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {alpha:g}")


def _scaled(values: Floats, low: float, high: float) -> Floats:
    """The values with [low, high] mapped to [0, 1]."""
    x = np.asarray(values, dtype=np.float64)
    if not high > low:
        raise ValueError(f"the range from {low:g} to {high:g} is empty")
    if x.shape[-1] == 0:
        raise ValueError("no values to bound")
    if not np.isfinite(x).all():
        raise ValueError("values to bound must be finite numbers")
    x = (x - low) / (high - low)
    if x.min() < -ROUNDING or x.max() > 1 + ROUNDING:
        raise ValueError(f"a value lies outside the range from {low:g} to {high:g}")
    return np.clip(x, 0.0, 1.0)


def _flat(x: Floats) -> Bools:
    """Rows whose values do not differ, rounding aside."""
    return np.asarray(np.ptp(x, axis=-1) <= ROUNDING)


def _lower(x: Floats, alpha: float, method: BoundMethod) -> float:
    n = len(x)
    if method == "gaffke" or (method == "t" and n > 1 and _flat(x)):
        return gaffke.lower(x, alpha)
    if n == 1:
        return 0.0
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(n)
    if method == "t":
        below = error * float(special.stdtrit(n - 1, 1 - alpha))
    else:
        needed = math.log(2 / alpha)
        below = error * math.sqrt(2 * needed) + 7 * needed / (3 * (n - 1))
    return min(1.0, max(0.0, mean - below))
