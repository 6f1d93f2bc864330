"""Agreement of two judges who scored the same things."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def agree(first: Floats, second: Floats) -> Mapping[str, float | None]:
    """Exact and within-one agreement, Pearson, Spearman, quadratic kappa, Krippendorff's ordinal alpha, mean bias.

    Both arrays hold scores of the same items, without gaps. The bias is the mean of second − first. A measure that
    is not defined (no items, no variation) is None.
    """
    if not len(first):
        return dict.fromkeys(
            ("exact", "within_1", "pearson", "spearman", "quadratic_kappa", "ordinal_alpha", "mean_bias")
        )
    gap = second - first
    return {
        "exact": float(np.mean(gap == 0)),
        "within_1": float(np.mean(np.abs(gap) <= 1)),
        "pearson": correlation(first, second),
        "spearman": correlation(ranks(first), ranks(second)),
        "quadratic_kappa": quadratic_kappa(first, second),
        "ordinal_alpha": ordinal_alpha(first, second),
        "mean_bias": float(np.mean(gap)),
    }


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
    if len(levels) < 2:
        return None
    pairs = np.zeros((len(levels), len(levels)))
    np.add.at(pairs, (codes[: len(first)], codes[len(first) :]), 1.0)
    coincidences = pairs + pairs.T
    totals = coincidences.sum(axis=1)
    middle = np.cumsum(totals) - totals / 2  # the distance of two levels is the number of values between them
    distance = (middle[:, None] - middle[None, :]) ** 2
    expected = float((np.outer(totals, totals) * distance).sum() / (totals.sum() - 1))
    observed = float((coincidences * distance).sum())
    return 1.0 - observed / expected
