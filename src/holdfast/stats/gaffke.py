"""Gaffke's test of a bounded mean: the same p-value and bound in whatever order the values stand.

Against "the mean of values in [0, 1] is at most m" put a weight on 0, the worst end, and one on each of the n values
x: D uniform on the simplex, that is Dirichlet(1, …, 1). The p-value is p = P(D₀·0 + Σ Dᵢxᵢ ≤ m), and the lower bound at
level α is the α-quantile of Σ Dᵢxᵢ (Gaffke 2005; Learned-Miller & Thomas 2019, arXiv 1905.06208). Of independent values
whose means are at most m, p is at most α with probability at most α, at every n and every distribution: conjectured by
Gaffke, proven by Vlassis & Thomas 2026 (arXiv 2607.08415, theorem 1; checked by machine in Lean:
github.com/pengzhang91/Feige, ``VlassisThomas.exactCalibration``). Of values that are 0 or 1 it is Clopper–Pearson.

p is computed exactly, to about twelve digits however small it is. With independent exponentials Gᵢ it is
P(Σ (xᵢ − m)Gᵢ ≤ 0), and the inversion of that sum's moment generating function is integrated along the line through its
saddle point (Lugannani & Rice 1980 take its leading term), where nothing cancels. There stands τ, the stake with which
a bettor on the xᵢ at odds m grows richest: with yᵢ = xᵢ/m it maximises τ(1 − τ)·Π(1 − τ + τyᵢ).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from holdfast.records.arrays import Floats, Ints

PRECISION = 1e-12  # of a bound
MOST_ODDS = 1e150  # so that no square of them overflows
NEAR = 1e-2  # (a tenth)² of the peak's width: any point near the saddle point serves, for the integral is the same
# First step of the trapezoid rule in units of the peak's width, and at most; it is halved until two sums agree so well.
# Its error falls like exp(−c/step), so that the last sum is then right to about the square of that.
FIRST_STEP, LARGEST_STEP, AGREEMENT = 1.0, 0.4, 1e-6
NEGLIGIBLE = 1e-15  # beside the sum
BLOCK = 10  # points of the integrand between two looks at whether it is negligible
FEW_VALUES = 64  # samples that share at most so many distinct values are tallied
CHUNK_NUMBERS = 500_000  # bounds memory: numbers handled at once


def p_of_rows(x: Floats, m: float) -> Floats:
    """The p-values of "the mean is at most ``m``" of samples (rows, n) in [0, 1]; 1 where ``m`` is the mean or more."""
    x = np.sort(x, axis=1)  # so that not even rounding depends on the order
    p = np.where(x.mean(axis=1) > m, 0.0, 1.0)
    asked = np.flatnonzero(p == 0.0)
    if m <= 0 or len(asked) == 0:
        return p
    values, counts, rows = _tally(x[asked])
    logs = np.empty(len(counts))
    size = max(1, CHUNK_NUMBERS // (BLOCK * values.shape[1]))
    for start in range(0, len(counts), size):
        part = slice(start, start + size)
        logs[part] = _log_cdf(values if len(values) == 1 else values[part], counts[part], m)
    p[asked] = np.minimum(1.0, np.exp(logs))[rows]
    return p


def lower(x: Floats, alpha: float) -> float:
    """The smallest mean that is not rejected at ``alpha``, at most the mean of ``x`` (n,), all in [0, 1]."""
    x = np.sort(x)
    mean = float(x.mean())
    values, counts, _ = _tally(x[None])
    target = float(special.ndtri(alpha))

    def excess(m: float) -> float:  # on the normal scale, where it is nearly a straight line
        return float(special.ndtri_exp(min(0.0, float(_log_cdf(values, counts, m)[0])))) - target

    if mean <= PRECISION or excess(PRECISION) >= 0:
        return 0.0
    if excess(mean) <= 0:
        return mean
    return min(mean, float(optimize.brentq(excess, PRECISION, mean, xtol=PRECISION)))


def _tally(x: Floats) -> tuple[Floats, Floats, Ints]:
    """The distinct values and how often each stands in each sorted sample, and the row of each sample in that.

    Values have shape (1, values) where the samples share a few, else (rows, n), each once.
    """
    distinct, places = np.unique(x, return_inverse=True)
    if len(distinct) > FEW_VALUES and len(x) > 1:
        return x, np.ones(x.shape), np.arange(len(x))
    rows = np.arange(len(x))[:, None]
    cells = (rows * len(distinct) + places.reshape(x.shape)).ravel()
    counts = np.bincount(cells, minlength=len(x) * len(distinct)).reshape(len(x), len(distinct))
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    return distinct[None], kinds.astype(np.float64), kind.reshape(-1)


def _log_cdf(values: Floats, counts: Floats, m: float) -> Floats:
    """log P(Σ Dᵢxᵢ ≤ m) by row for 0 < m < 1 below the largest value: ``counts`` (rows, values) of ``values``."""
    odds = np.minimum(values, MOST_ODDS * m) / m - 1
    stake = _saddle_point(odds, counts)
    width = np.minimum(stake, 1 - stake)  # to the nearest singularity
    ends = np.stack([-width / (1 - stake), width / stake], axis=1)
    ratios = np.concatenate([width[:, None] * odds / (1 + odds * stake[:, None]), ends], axis=1)
    weights = np.concatenate([counts, np.ones((len(counts), 2))], axis=1)
    peak = -(counts * np.log1p(odds * stake[:, None])).sum(axis=1) - np.log1p(-stake)
    return np.asarray(peak + np.log(width / (math.pi * stake) * _integral(ratios, weights)))


def _saddle_point(odds: Floats, counts: Floats) -> Floats:
    """By row the stake τ in (0, 1) that maximises τ(1 − τ)·Π(1 + τ·odds)^counts, whose log is concave.

    Newton's method on the scale of log τ/(1 − τ), by halves where it leaves what is left of the range.
    """
    high = np.log(counts.sum(axis=1) + 1)
    low, logit = -high, np.zeros(len(counts))
    while True:
        stake = special.expit(logit)
        gains = odds / (1 + odds * stake[:, None])
        slope = (counts * gains).sum(axis=1) - 1 / (1 - stake) + 1 / stake
        bend = (counts * gains * gains).sum(axis=1) + 1 / (1 - stake) ** 2 + 1 / stake**2
        if not (slope * slope > NEAR * bend).any():
            return np.asarray(stake)
        low, high = np.where(slope > 0, logit, low), np.where(slope > 0, high, logit)
        guess = logit + slope / (bend * stake * (1 - stake))
        logit = np.where((guess > low) & (guess < high), guess, (low + high) / 2)


def _integral(ratios: Floats, weights: Floats) -> Floats:
    """By row ∫₀^∞ Re Π(1 − i·ratio·sinh u)^−weight · cosh u du, by the trapezoid rule with ever smaller steps."""
    step = np.minimum(LARGEST_STEP, FIRST_STEP / np.sqrt((weights * ratios * ratios).sum(axis=1)))
    total, points = -_terms(ratios, weights, step, np.zeros(1)).sum(axis=1) / 2, 0
    while True:
        terms = _terms(ratios, weights, step, np.arange(points, points + BLOCK, dtype=np.float64))
        total, points = total + terms.sum(axis=1), points + BLOCK
        if not (np.abs(terms[:, -2:]).max(axis=1) > NEGLIGIBLE * np.abs(total)).any():
            break
    found = np.asarray(total * step, dtype=np.float64)
    rows = np.arange(len(found))
    while len(rows):
        between = _terms(ratios[rows], weights[rows], step[rows], np.arange(0.5, points)).sum(axis=1)
        finer = (found[rows] + between * step[rows]) / 2
        rough = np.abs(finer - found[rows]) > AGREEMENT * np.abs(finer)
        found[rows] = finer
        step[rows] /= 2
        rows, points = rows[rough], 2 * points
    return found


def _terms(ratios: Floats, weights: Floats, step: Floats, places: Floats) -> Floats:
    """The integrand at ``places`` (points,) times each row's step: shape (rows, points)."""
    u = step[:, None] * places
    y = ratios[:, :, None] * np.sinh(u)[:, None, :]
    turns = (weights[:, None, :] @ np.arctan(y))[:, 0]
    logs = (weights[:, None, :] @ np.log1p(y * y))[:, 0]
    return np.asarray(np.cosh(u) * np.exp(-logs / 2) * np.cos(turns))
