"""Fieller sets and the published mean of ratios."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.stats.contrasts import Spread, limits, mean_of_ratios, ratio_set, sample_of, spread


def _pair(rng: np.random.Generator, cases: int, gain: float, kept: float) -> Spread:
    """N and D of ``cases``: both a base's score taken off, with a true gain and share of it."""
    base = rng.integers(0, 2, cases)
    rows = [base + (rng.random(cases) < gain), base + (rng.random(cases) < gain * kept), base]
    weights = np.array([[0.0, 1.0, -1.0], [1.0, 0.0, -1.0]])
    return spread(sample_of(np.array(rows, dtype=np.float64)), weights)


@pytest.mark.parametrize("seed", range(20))
def test_the_set_holds_exactly_the_ratios_that_are_not_excluded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = _pair(rng, int(rng.integers(10, 200)), float(rng.uniform(0.02, 0.8)), float(rng.uniform(0, 1)))
    ends = ratio_set(found, seeds=False)
    gain = limits(found, np.array([[0.0, 1.0]]), seeds=False)
    assert gain is not None
    assert (ends is None) == bool(gain[0, 0] <= 0 <= gain[0, 1])
    if ends is None:
        return
    assert ends[0] < found.values[0] / found.values[1] < ends[1]
    width = ends[1] - ends[0]
    outside = np.concatenate([ends[0] - width * np.geomspace(1e-6, 1e3, 30), ends[1] + width * np.geomspace(1e-6, 1e3)])
    both = limits(found, np.stack([np.ones(len(outside)), -outside], axis=1), seeds=False)
    assert both is not None
    assert not np.any((both[:, 0] <= 0) & (both[:, 1] >= 0))
    both = limits(found, np.array([[1.0, -one] for one in ends]), seeds=False)
    assert both is not None
    np.testing.assert_allclose(np.abs(both).min(axis=1), 0.0, atol=1e-7)


def test_the_set_is_that_of_the_delta_method_where_the_gain_is_strong() -> None:
    rng = np.random.default_rng(1)
    low, middle = rng.integers(0, 2, 4000), rng.integers(0, 2, 4000)
    found = spread(sample_of(np.array([low + 2.0, middle + 1.0])), np.array([[0.0, 1.0], [1.0, 0.0]]))
    ends = ratio_set(found, seeds=False)
    assert ends is not None and found.case is not None
    ratio = found.values[0] / found.values[1]
    direction = np.array([1.0, -ratio])
    half = 1.96 * np.sqrt(direction @ found.case @ direction) / found.values[1]
    np.testing.assert_allclose(ends, (ratio - half, ratio + half), atol=0.02 * half)


def test_a_gain_that_may_be_zero_has_an_unbounded_set() -> None:
    values = np.array([[1.0, 2.0, 0.0] * 10, [1.0, 1.0, 1.0] * 10])
    assert ratio_set(spread(sample_of(values), np.array([[0.0, 1.0], [1.0, -1.0]])), seeds=False) is None


def test_without_two_cases_there_is_no_set() -> None:
    with pytest.raises(ValueError, match="two cases"):
        ratio_set(spread(sample_of(np.ones((2, 1))), np.eye(2)), seeds=False)


def test_keys_without_a_gain_are_dropped_and_counted() -> None:
    found = mean_of_ratios(
        np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [2.0, 2.0], [-1.0, 0.0]])
    )
    np.testing.assert_allclose(found.values[:2], [0.5, 1.0])
    assert np.isnan(found.values[2])
    assert (found.dropped, found.skipped) == (3, 1)
