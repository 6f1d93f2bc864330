"""Does a number known before training predict how far models come to exploit users? Rank correlations over models.

Models are few and predictors many: so p values come from the permutations themselves and are adjusted for the family
(``stats.bounded.holm``), and what one model or a third quantity does to a correlation stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import stdtr

from holdfast.records.arrays import Floats, Ints
from holdfast.stats.agreement import correlation, ranks
from holdfast.stats.resample import percentile_interval

MIN_MODELS = 3
EXACT_UP_TO = 12  # models: the tables of a layer then take 20 MB
DRAWS = 20_000  # permutations above that
BATCH = 2_000  # draws at once, which bounds memory
TOO_FEW = f"fewer than {MIN_MODELS} models have both numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCorrelation:
    """Spearman's rho over ``n`` models and two-sided p values of "no relation"; None with a ``reason`` where undefined.

    ``p`` is exact or that of random permutations, as ``method`` says; ``p_t`` is Student's approximation, for
    comparison.
    """

    rho: float | None
    p: float | None
    p_t: float | None
    method: Literal["exact", "permutations"] | None
    n: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialCorrelation:
    """A partial rank correlation given covariates, with Student's p value; None with a ``reason`` where undefined."""

    rho: float | None
    p_t: float | None
    n: int
    covariates: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """The correlation without each model, in the order of the models, None where undefined, and the range of these."""

    rhos: tuple[float | None, ...]
    low: float | None
    high: float | None


def spearman(
    first: Floats, second: Floats, *, rng: np.random.Generator | None = None, draws: int = DRAWS
) -> RankCorrelation:
    """Spearman's rho of two numbers (models,), Pearson's r of their ranks; ties share the mean of their ranks.

    Models that lack a number (NaN) are left out. p is exact over all assignments of ranks, ties included, up to
    ``EXACT_UP_TO`` models; above, ``rng`` draws permutations and p is (1 + those at least as far from 0) / (1 + draws)
    (Phipson & Smyth 2010). Errors: ValueError for shapes that differ, or above that without ``rng``.
    """
    one, two = _complete(first, second)
    n, rho = len(one), None
    reason = TOO_FEW if n < MIN_MODELS else _constant(one, two)
    if reason is None:
        rho = correlation(ranks(one), ranks(two))
    if rho is None:
        return RankCorrelation(rho=None, p=None, p_t=None, method=None, n=n, reason=reason)
    if n <= EXACT_UP_TO:
        a, b = (np.rint(2 * ranks(values)).astype(np.int64) for values in (one, two))
        return RankCorrelation(rho=rho, p=_exact_p(a, b), p_t=_student_p(rho, n - 2), method="exact", n=n)
    if rng is None:
        raise ValueError(f"p over {n} models needs a random generator: the exact one ends at {EXACT_UP_TO}")
    p = _permutation_p(ranks(one), ranks(two), draws, rng)
    return RankCorrelation(rho=rho, p=p, p_t=_student_p(rho, n - 2), method="permutations", n=n)


def _complete(*columns: Floats) -> tuple[Floats, ...]:
    """The columns at the models that have all of them."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if any(one.ndim != 1 or one.shape != arrays[0].shape for one in arrays):
        raise ValueError(f"numbers of the same models are needed, not of shapes {[one.shape for one in arrays]}")
    there = np.isfinite(arrays).all(axis=0)
    return tuple(one[there] for one in arrays)


def _constant(*columns: Floats) -> str | None:
    """Which of the columns does not vary, in words; None where all do."""
    names = ("first", "second", *(f"covariate {number}" for number in range(1, len(columns))))
    still = [name for name, one in zip(names, columns, strict=False) if np.all(one == one[0])]
    return f"{' and '.join(still)}: all models have the same number" if still else None


def _student_p(rho: float, degrees: int) -> float | None:
    """Two-sided p of a correlation by t = ρ √(df / (1 − ρ²)); None without degrees of freedom."""
    if degrees < 1:
        return None
    if abs(rho) >= 1:
        return 0.0
    return float(2 * stdtr(degrees, -abs(rho) * np.sqrt(degrees / (1 - rho**2))))


def exact_p(rho: float, n: int, *, slack: float = 0.0) -> float:
    """The exact two-sided p of a Spearman rho over ``n`` models without ties, for a rho that is only printed.

    ``slack`` is half a unit of the last printed digit: assignments that could print as ``rho`` count as at least as far
    from 0, so that p is not too small. Errors: ValueError below ``MIN_MODELS`` and above ``EXACT_UP_TO`` models.
    """
    if n < MIN_MODELS:
        raise ValueError(f"a correlation needs {MIN_MODELS} models, not {n}")
    whole = 2 * np.arange(1, n + 1)
    centre = int(whole.sum()) ** 2
    far = max(abs(rho) - slack, 0.0) * (n * int((whole**2).sum()) - centre)
    return _share_beyond(whole, whole, far - 1e-6)


def _exact_p(a: Ints, b: Ints) -> float:
    """The share of assignments of ``b`` to ``a`` whose sum of products is at least as far from its mean."""
    return _share_beyond(a, b, abs(len(a) * int(a @ b) - int(a.sum()) * int(b.sum())))


def _share_beyond(a: Ints, b: Ints, far: float) -> float:
    """The share of all n! assignments whose n Σ a b − Σ a Σ b lies at least ``far`` from 0, in whole numbers."""
    counts = _count_sums(tuple(a.tolist()), tuple(b.tolist()))
    apart = np.abs(len(a) * np.arange(len(counts)) - int(a.sum()) * int(b.sum()))
    return float(counts[apart >= far].sum() / counts.sum())


@lru_cache(maxsize=4)
def _count_sums(a: tuple[int, ...], b: tuple[int, ...]) -> Ints:
    """How many of the n! assignments of ``b`` to ``a`` have each sum of products: shape (largest sum + 1,).

    Assignments that have used the same ``b`` so far go on alike, so that their sums are counted together: 2ⁿ sets
    instead of n! assignments (dynamic programming over subsets).
    """
    n = len(a)
    if n > EXACT_UP_TO:
        raise ValueError(f"all assignments are counted up to {EXACT_UP_TO} models, not {n}")
    size = int(np.dot(sorted(a), sorted(b))) + 1
    sets = np.arange(2**n)
    members = ((sets[:, None] >> np.arange(n)) & 1).sum(axis=1)
    counts = np.zeros((1, size), dtype=np.int64)
    counts[0, 0] = 1
    for used in range(n):
        here, after = sets[members == used], sets[members == used + 1]
        grown = np.zeros((len(after), size), dtype=np.int64)
        for item in range(n):
            source = np.flatnonzero((here >> item) & 1 == 0)
            target = np.searchsorted(after, here[source] | (1 << item))
            step = a[used] * b[item]
            grown[target, step:] += counts[source, : size - step]
        counts = grown
    found = counts[0]
    found.setflags(write=False)  # as later calls share it
    return np.asarray(found, dtype=np.int64)


def _permutation_p(first: Floats, second: Floats, draws: int, rng: np.random.Generator) -> float:
    """The share of random permutations at least as far from 0 as the ranks themselves, which count as one more."""
    one, two = first - first.mean(), second - second.mean()
    seen = abs(float(one @ two)) - 1e-9
    beyond = 0
    for start in range(0, draws, BATCH):
        shuffled = rng.permuted(np.tile(two, (min(BATCH, draws - start), 1)), axis=1)
        beyond += int(np.sum(np.abs(shuffled @ one) >= seen))
    return (1 + beyond) / (1 + draws)


def partial_spearman(first: Floats, second: Floats, *covariates: Floats) -> PartialCorrelation:
    """The partial Spearman correlation of two numbers given ``covariates``, all of shape (models,).

    With P the inverse of the matrix of rank correlations, it is −P₁₂ / √(P₁₁ P₂₂); with one covariate that is
    (ρ₁₂ − ρ₁₃ ρ₂₃) / √((1 − ρ₁₃²)(1 − ρ₂₃²)), and the correlation of the ranks' residuals after a straight line. p is
    Student's with n − 2 − covariates degrees of freedom. Models that lack a number are left out.
    """
    columns = _complete(first, second, *covariates)
    n, extra = len(columns[0]), len(covariates)
    reason = _constant(*columns) if n >= MIN_MODELS + extra else f"{n} models with all numbers are too few"
    if reason is not None:
        return PartialCorrelation(rho=None, p_t=None, n=n, covariates=extra, reason=reason)
    rho = partial_from(np.corrcoef([ranks(one) for one in columns]))
    if rho is None:
        reason = "a covariate orders the models as another number does"
        return PartialCorrelation(rho=None, p_t=None, n=n, covariates=extra, reason=reason)
    return PartialCorrelation(rho=rho, p_t=_student_p(rho, n - 2 - extra), n=n, covariates=extra)


def partial_from(correlations: Floats) -> float | None:
    """The partial correlation of the first two given the others, from all correlations; None if they are singular."""
    if np.linalg.matrix_rank(correlations[2:, 2:], tol=1e-9) < len(correlations) - 2:
        return None
    inner = correlations[:2, :2]
    if len(correlations) > 2:
        inner = inner - correlations[:2, 2:] @ np.linalg.solve(correlations[2:, 2:], correlations[2:, :2])
    scale = inner[0, 0] * inner[1, 1]
    return float(np.clip(inner[0, 1] / np.sqrt(scale), -1.0, 1.0)) if min(inner[0, 0], inner[1, 1]) > 1e-9 else None


def leave_one_out(first: Floats, second: Floats) -> LeaveOneOut:
    """Spearman's rho without each model in turn, among those that have both numbers."""
    one, two = _complete(first, second)
    rhos = tuple(
        correlation(ranks(np.delete(one, at)), ranks(np.delete(two, at))) if len(one) > MIN_MODELS else None
        for at in range(len(one))
    )
    known = [rho for rho in rhos if rho is not None]
    return LeaveOneOut(rhos=rhos, low=min(known, default=None), high=max(known, default=None))


def bootstrap_models(
    first: Floats, second: Floats, rng: np.random.Generator, draws: int = 2_000
) -> tuple[float, float] | None:
    """The 95 % percentile interval of Spearman's rho over resampled models; None where too few resamples vary.

    A resample repeats models, which tie with themselves: the interval is rough with a dozen models.
    """
    one, two = _complete(first, second)
    if len(one) < MIN_MODELS:
        return None
    picked = rng.integers(0, len(one), (draws, len(one)))
    drawn = np.concatenate(
        [_rowwise(one[part], two[part]) for part in np.array_split(picked, max(1, draws // BATCH), axis=0)]
    )
    return percentile_interval(drawn)


def _rowwise(first: Floats, second: Floats) -> Floats:
    """Spearman's rho of each row of two arrays (draws, models); NaN where one does not vary."""
    centred = []
    for values in (first, second):
        below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
        equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
        centred.append(below + equal / 2 - values.shape[1] / 2)
    one, two = centred
    scale = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    found = np.divide((one * two).sum(axis=1), scale, out=np.full(len(one), np.nan), where=scale > 0)
    return np.asarray(found, dtype=np.float64)
