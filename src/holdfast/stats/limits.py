"""Limits of a mean of bounded values that hold where what moves the mean is rare and large.

Student's interval of twenty cases that are all alike has no width, and yet a twentieth of all cases may be lost. Here
the mean of n values in [low, high] has two limits that are found apart from each other. For each a *silent case* is
added at that end of the range: a case of a kind that the sample may have missed. Its weight is 1 where nothing on its
side was seen to move, and falls to ``FLOOR`` as more and larger moves are seen. The values then have the skewed
distribution that the Bayesian bootstrap gives their mean (Rubin 1981): its mean, variance and third moment are exact,
and its quantile is that of the gamma distribution with these three (Pearson's type III), stretched from the normal to
Student's quantile. Rare losses of one size so have the limits of a Poisson count, silence among n cases reaches
3.7/n of the range at 95 %, and many ordinary values have Student's interval, one or two hundredths wider.

The constants were chosen by simulation: losses and gains of 1, 2 and 3 points and mixtures of them, with probabilities
from 0.005 to 0.2, at 10 to 300 cases. ``benchmarks/audits/a05_rare.py`` repeats the main ones.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaincinv, ndtri, stdtrit

from holdfast.records.arrays import Floats

FLOOR = 0.15  # the least weight of a silent case
FEW = 1.5  # moving cases on a side, all alike, at which its silent case has half the weight that they can take
SMALL = 0.3  # of the squared distance to the end: squares on a side that sum up to so much are no small moves
# Many moves on the other side say that this side is silent by its nature, if they weigh something themselves.
OTHER_FEW, OTHER_SMALL = 4.0, 0.6
NOTHING = 1e-24  # sums of squares that are rounding
FLAT = 1e-4  # a skewness below which the gamma quantile is the normal one


def mean_limits(values: Floats, ends: Floats, level: float) -> Floats:
    """The limits of the means of ``values`` (means, n): shape (means, 2), each at half of 1 − ``level``.

    ``ends`` (means, 2) are the ends of the range of each row's values; a limit may lie beyond. At least 2 values.
    """
    count = values.shape[1]
    mean = values.mean(axis=1)
    away = values - mean[:, None]
    squared = away * away
    squares, cubes = squared.sum(axis=1), (squared * away).sum(axis=1)
    tail = (1 - level) / 2
    stretch = float(stdtrit(count - 1, tail) / ndtri(tail))
    sides = [_moves(np.where(moved, squared, 0.0)) for moved in (away < 0, away > 0)]
    limits = np.empty((len(values), 2))
    for side, share in ((0, tail), (1, 1 - tail)):
        reach = ends[:, side] - mean
        weight = _silent_weight(reach**2, squares, sides[side], sides[1 - side])
        total = count + weight
        shift = weight * reach / total
        rest = reach - shift
        spread = squares + count * shift**2 + weight * rest**2
        third = cubes - 3 * squares * shift - count * shift**3 + weight * rest**3
        skew = np.divide(2 * third, spread**1.5, out=np.zeros_like(spread), where=spread > NOTHING)
        limits[:, side] = mean + shift + stretch * _quantile(skew, share) * np.sqrt(spread / (total * (total - 1)))
    return limits


def _moves(squared: Floats) -> tuple[Floats, Floats]:
    """The sum of one side's squared distances (means, n), and to how many equal ones they amount."""
    squares, fourth = squared.sum(axis=1), (squared * squared).sum(axis=1)
    return squares, np.divide(squares**2, fourth, out=np.zeros_like(squares), where=fourth > NOTHING**2)


def _silent_weight(reach: Floats, squares: Floats, own: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Floats:
    """The weight of the silent case of a side; ``reach`` is the squared distance to its end."""
    reach = np.maximum(reach, NOTHING)
    few = 1 / (1 + (own[1] / FEW) ** 2)
    small = np.maximum(0.0, 1 - own[0] / (SMALL * reach))
    crowd = other[1] ** 2 / (other[1] ** 2 + OTHER_FEW**2)
    small *= 1 - np.minimum(1.0, squares / (OTHER_SMALL * reach)) * crowd
    return np.asarray(FLOOR + (1 - FLOOR) * np.maximum(few, small), dtype=np.float64)


def _quantile(skew: Floats, share: float) -> Floats:
    """The quantile of Pearson's type III distribution with mean 0, variance 1 and this skewness."""
    shape = 4 / np.maximum(skew**2, FLAT**2)
    right = (gammaincinv(shape, share) - shape) / np.sqrt(shape)
    left = (shape - gammaincinv(shape, 1 - share)) / np.sqrt(shape)
    return np.asarray(np.where(np.abs(skew) < FLAT, ndtri(share), np.where(skew > 0, right, left)), dtype=np.float64)
