"""Intervals for contrasts of means: cases alone, or cases and seeds.

A contrast is a vector of weights over rows (a row is one run's case means). What each case adds to it comes from the
linearised influence of the case on each row's mean, so cases that several rows share are paired by themselves; the
limits over cases are those of ``stats.limits``. Its seed variance comes from the same contrast taken within each seed,
over all bases at once or, where their trainings are independent, within each of them. The distances of the limits are
combined on each side as in MOVER (Zou & Donner 2008): distance² = (t_seeds · se_seeds)² + distance_cases².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from holdfast.records.arrays import Bools, Floats
from holdfast.stats.limits import mean_limits
from holdfast.stats.resample import NOMINAL, Interval, row_means

MIN_SEEDS = 3
SCORE_SPAN, CHANGE_SPAN = (0.0, 3.0), (-3.0, 3.0)  # of scores and of their differences
NO_VARIANCE = 1e-20  # squared score points: smaller variances are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows' means, and each case's influence on them.

    ``means`` has shape (rows,), NaN for a row without values; ``influence`` (rows, cases), zero where a row lacks
    the case; ``present`` (rows, cases) says which cases a row has; ``span`` is the range of a value.
    """

    means: Floats
    influence: Floats
    present: Bools
    span: tuple[float, float]


def sample_of(values: Floats, span: tuple[float, float] = SCORE_SPAN) -> Sample:
    """The sample of rows × cases ``values``, each in ``span``, NaN where a row has no value."""
    present = np.isfinite(values)
    means = row_means(values)
    counts = np.maximum(present.sum(axis=1), 1)
    with np.errstate(invalid="ignore"):
        influence = np.where(present, values - means[:, None], 0.0) / counts[:, None]
    return Sample(means=means, influence=influence, present=present, span=span)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPart:
    """The covariance (k, k) of k contrasts' means over the seeds of one part of a study, with its degrees."""

    covariance: Floats
    degrees: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """k contrasts: their ``values``, what each case adds, and how they differ from seed to seed.

    ``weights`` (k, rows) are over the used rows, whose values lie in ``span``. ``effect`` (k, cases) is each touched
    case's influence, ``case`` (k, k) the covariance from it; both None below two cases or where a contrast has no
    value. ``parts`` are independent of each other, and none are there below two seeds. ``cases`` is the number of
    distinct cases touched, ``seeds`` that of the seeds.
    """

    values: Floats
    weights: Floats
    span: tuple[float, float]
    effect: Floats | None
    case: Floats | None
    parts: tuple[SeedPart, ...]
    cases: int
    seeds: int

    @property
    def seed(self) -> Floats | None:
        """The covariance (k, k) from seeds; None below two."""
        return np.sum([part.covariance for part in self.parts], axis=0) if self.parts else None

    @property
    def degrees(self) -> int:
        """The degrees of freedom of the seeds where all parts' seeds differ alike."""
        return sum(part.degrees for part in self.parts)

    def alike(self) -> Spread:
        """The same where all parts' seeds differ alike, so that their degrees add up."""
        seed = self.seed
        return self if seed is None else replace(self, parts=(SeedPart(covariance=seed, degrees=self.degrees),))

    def seed_variances(self, directions: Floats) -> tuple[Floats, Floats]:
        """The variance of ``directions`` (m, k) of the contrasts from seeds, and the degrees of freedom: (m,) each.

        The degrees of several parts are those of Welch and Satterthwaite, as one base's seeds may differ more than
        another's.
        """
        found = np.array([np.einsum("mk,kl,ml->m", directions, one.covariance, directions) for one in self.parts])
        found = np.maximum(found, 0.0)
        own = np.array([one.degrees for one in self.parts], dtype=np.float64)
        total, weighed = found.sum(axis=0), (found**2 / own[:, None]).sum(axis=0)
        degrees = np.divide(total**2, weighed, out=np.full(total.shape, own.sum()), where=weighed > NO_VARIANCE**2)
        return total, degrees


def spread(
    sample: Sample, weights: Floats, by_seed: Sequence[Floats] = (), cells: Sequence[Sequence[Floats]] = ()
) -> Spread:
    """Contrasts ``weights`` (k, rows); ``by_seed`` holds them within each seed.

    ``cells`` are parts of the contrasts whose trainings are independent of each other, each by seed; the contrasts are
    the sums over parts of the means over their seeds. Without them, all of ``by_seed`` is one part.
    """
    weights = np.atleast_2d(weights)
    used = np.any(weights != 0, axis=0)
    values = _values(sample, weights)
    touched = sample.present[used].any(axis=0)
    cases = int(touched.sum())
    effect = case = None
    if cases >= 2 and bool(np.all(np.isfinite(values))):
        effect = weights[:, used] @ sample.influence[used][:, touched]
        case = effect @ effect.T * (cases / (cases - 1))  # as the means are estimated from the same cases
    return Spread(
        values=values,
        weights=weights[:, used],
        span=sample.span,
        effect=effect,
        case=case,
        parts=_seed_parts(sample, cells or [by_seed]),
        cases=cases,
        seeds=len(by_seed),
    )


def _seed_parts(sample: Sample, cells: Sequence[Sequence[Floats]]) -> tuple[SeedPart, ...]:
    """The parts' covariances from seeds; none where one has fewer than two seeds or no values."""
    found = []
    for cell in cells:
        if len(cell) < 2:
            return ()
        values = np.stack([_values(sample, np.atleast_2d(one), idle=0.0) for one in cell])
        if not bool(np.all(np.isfinite(values))):
            return ()
        covariance = np.atleast_2d(np.cov(values, rowvar=False)) / len(cell)
        found.append(SeedPart(covariance=covariance, degrees=len(cell) - 1))
    return tuple(found)


def _values(sample: Sample, weights: Floats, idle: float = np.nan) -> Floats:
    """The contrasts' values; one that weighs nothing is ``idle``: it has no value rather than a value of zero."""
    used = weights != 0
    rows = used.any(axis=0)
    return np.where(used.any(axis=1), weights[:, rows] @ sample.means[rows], idle)


def t_quantile(degrees: float) -> float:
    """The two-sided 95 % quantile of Student's t."""
    return float(stdtrit(degrees, (1 + NOMINAL) / 2))


def mean_interval(values: Floats) -> Interval | None:
    """Student's 95 % interval of the mean of one value for each seed; None below ``MIN_SEEDS`` of them."""
    if len(values) < MIN_SEEDS:
        return None
    mean = float(np.mean(values))
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half


def limits(
    contrasts: Spread, directions: Floats, *, seeds: bool, level: float = NOMINAL, reach: Floats | None = None
) -> Floats | None:
    """The lower and the upper limit of ``directions`` (m, k) of the contrasts, shape (m, 2), or None.

    ``seeds`` False: cases alone. True: cases and seeds, None below ``MIN_SEEDS`` seeds. What a case can add lies
    between the ends that the weights give to values of the span, and so do the limits; ``reach`` (m,) sets other ends,
    so far from the value, which do not cut the limits.
    """
    if contrasts.effect is None or (seeds and (not contrasts.parts or contrasts.seeds < MIN_SEEDS)):
        return None
    values = directions @ contrasts.values
    # What the contrasts would be if all cases were like this one; the mean of that is their value.
    added = values[:, None] + directions @ contrasts.effect * contrasts.cases
    if reach is None:
        weights = directions @ contrasts.weights
        extremes = weights[..., None] * np.array(contrasts.span)
        ends = np.stack([extremes.min(axis=2).sum(axis=1), extremes.max(axis=2).sum(axis=1)], axis=1)
    else:
        ends = values[:, None] + reach[:, None] * np.array([-1.0, 1.0])
    # A case that stands in more rows than others adds more than a case can on average.
    ends = np.stack([np.minimum(ends[:, 0], added.min(axis=1)), np.maximum(ends[:, 1], added.max(axis=1))], axis=1)
    both = mean_limits(added, ends, level)
    if seeds:
        variance, degrees = contrasts.seed_variances(directions)
        more = stdtrit(degrees, (1 + level) / 2) ** 2 * variance
        away = np.sqrt((both - values[:, None]) ** 2 + more[:, None])
        both = values[:, None] + away * np.array([-1.0, 1.0])
    return both if reach is not None else np.clip(both, ends[:, :1], ends[:, 1:])


def interval(contrasts: Spread, *, seeds: bool, level: float = NOMINAL) -> Interval | None:
    """The interval of the first contrast; see ``limits``."""
    both = limits(contrasts, np.eye(1, len(contrasts.values)), seeds=seeds, level=level)
    return None if both is None else (float(both[0, 0]), float(both[0, 1]))


def standard_errors(contrasts: Spread, index: int) -> tuple[float | None, float | None]:
    """The standard errors of one contrast from cases and from seeds, None where unknown."""
    both = (contrasts.case, contrasts.seed)
    case, seed = (None if one is None else float(np.sqrt(max(one[index, index], 0.0))) for one in both)
    return case, seed


SMALLEST_DENOMINATOR = 1e-9  # the published rule: smaller denominators are dropped
FIRST_STEPS = np.geomspace(1e-2, 1e2, 30)  # looked at first on either side of a ratio, of the scale of its set
NARROWER = 8  # steps into which the one with an end is cut
PRECISION = 1e-8


def ratio_set(contrasts: Spread, *, seeds: bool) -> Interval | None:
    """The ratios of the first contrast to the second that the data do not exclude, or None where they are unbounded.

    A ratio ρ is kept where the interval of N − ρD holds zero (Fieller 1954), with the limits of ``stats.contrasts``.
    The set is bounded only where the interval of D excludes zero. Where N − ρD leaves gaps, the set is what they span.
    Raises ValueError where there are no such intervals.
    """
    gain = limits(contrasts, np.array([[0.0, 1.0]]), seeds=seeds)
    if gain is None:
        raise ValueError("no intervals without two cases, and none over seeds below three")
    if gain[0, 0] <= 0 <= gain[0, 1]:
        return None
    middle = float(contrasts.values[0] / contrasts.values[1])
    # The scale of the search: how far N / D goes when D stands at its limit next to zero and N at either of its own.
    top = limits(contrasts, np.array([[1.0, 0.0]]), seeds=seeds)
    assert top is not None
    scale = float(np.abs(top).max() / np.abs(gain).min()) + abs(middle)
    return _edge(contrasts, middle, -scale, seeds), _edge(contrasts, middle, scale, seeds)


def _edge(contrasts: Spread, middle: float, scale: float, seeds: bool) -> float:
    """The farthest kept ratio from ``middle`` in the direction of ``scale``."""
    steps = np.concatenate([[0.0], scale * FIRST_STEPS])
    while abs(steps[-1] - steps[0]) > PRECISION * (1 + abs(middle)):
        ratios = middle + steps
        both = limits(contrasts, np.stack([np.ones(len(ratios)), -ratios], axis=1), seeds=seeds)
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
