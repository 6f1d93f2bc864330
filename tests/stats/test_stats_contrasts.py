"""Intervals of contrasts from cases and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.contrasts import interval, sample_of, spread, standard_errors

RNG = np.random.default_rng(0)


def test_many_ordinary_cases_have_nearly_the_t_interval() -> None:
    values = RNG.integers(0, 4, (1, 400)).astype(float)
    found = spread(sample_of(values), np.array([1.0]))
    half = stats.t.ppf(0.975, 399) * stats.sem(values[0])
    both = interval(found, seeds=False)
    assert both is not None
    low, high = both
    assert half <= found.values[0] - low <= 1.03 * half
    assert half <= high - found.values[0] <= 1.03 * half
    assert (found.cases, found.seeds) == (400, 0)


def test_a_difference_is_paired_by_case() -> None:
    values = RNG.integers(0, 4, (2, 30)).astype(float)
    found = spread(sample_of(values), np.array([1.0, -1.0]))
    assert standard_errors(found, 0)[0] == pytest.approx(stats.sem(values[0] - values[1]), rel=1e-12)


def test_seeds_and_cases_combine_their_distances_on_each_side() -> None:
    values = np.where(RNG.random((3, 40)) < 0.1, 0.0, 3.0)  # skewed, so that the sides differ
    found = spread(sample_of(values), np.full(3, 1 / 3), list(np.eye(3)))
    alone, both = interval(found, seeds=False), interval(found, seeds=True)
    assert alone is not None and both is not None
    seeds = stats.t.ppf(0.975, 2) * stats.sem(values.mean(axis=1))
    low = found.values[0] - np.hypot(found.values[0] - alone[0], seeds)
    assert both[0] == pytest.approx(low, rel=1e-12)
    assert both[1] == pytest.approx(min(found.values[0] + np.hypot(alone[1] - found.values[0], seeds), 3.0), rel=1e-12)
    assert found.values[0] - alone[0] > alone[1] - found.values[0]


def test_seeds_of_independent_parts_are_pooled_with_the_degrees_of_welch_and_satterthwaite() -> None:
    values = RNG.integers(0, 4, (6, 200)).astype(float)
    means = values.mean(axis=1)
    cells = [[np.eye(6)[3 * part + seed] / 2 for seed in range(3)] for part in range(2)]
    by_seed = [one + other for one, other in zip(*cells, strict=True)]
    found = spread(sample_of(values), np.full(6, 1 / 6), by_seed, cells)
    own = np.array([means[:3].var(ddof=1), means[3:].var(ddof=1)]) / 3 / 4
    variance, degrees = found.seed_variances(np.ones((1, 1)))
    assert variance[0] == pytest.approx(own.sum(), rel=1e-9)
    assert degrees[0] == pytest.approx(own.sum() ** 2 / (own**2 / 2).sum(), rel=1e-9)
    assert 2 <= degrees[0] <= 4
    alone, both = interval(found, seeds=False), interval(found, seeds=True)
    assert alone is not None and both is not None
    margin = stats.t.ppf(0.975, degrees[0]) * np.sqrt(own.sum())
    assert both[0] == pytest.approx(found.values[0] - np.hypot(found.values[0] - alone[0], margin), rel=1e-9)


@pytest.mark.parametrize("cases", [2, 5, 20, 300])
@pytest.mark.parametrize("change", [-1.0, 0.0, 1.1])
def test_no_interval_is_without_width(cases: int, change: float) -> None:
    values = np.array([np.full(cases, 1.5 + change / 2), np.full(cases, 1.5 - change / 2)])
    found = spread(sample_of(values), np.array([1.0, -1.0]))
    both = interval(found, seeds=False)
    assert both is not None
    # A case whose like was missed in n cases has at most 3.7/n of them, at 97.5 %.
    least = min(0.9 * 3.69 * (3 + change) / (cases + 3.69), 3 + change)
    assert both[0] <= change - least
    assert both[1] >= change + min(0.9 * 3.69 * (3 - change) / (cases + 3.69), 3 - change)
    assert both[0] >= -3 and both[1] <= 3


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("start", [0.0, 1.5, 3.0])
def test_intervals_mirror_with_their_scale(sign: int, start: float) -> None:
    moved = np.where(np.arange(50) < 3, np.clip(start + sign, 0, 3), start)[None]
    one = interval(spread(sample_of(moved), np.ones(1)), seeds=False)
    other = interval(spread(sample_of(3 - moved), np.ones(1)), seeds=False)
    assert one is not None and other is not None
    np.testing.assert_allclose(one, (3 - other[1], 3 - other[0]), atol=1e-12)


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_below_three_seeds_there_is_no_interval_for_the_recipe(seeds: int) -> None:
    values = RNG.random((2, 10))
    found = spread(sample_of(values), np.array([0.5, 0.5]), list(np.eye(2)[:seeds]))
    assert interval(found, seeds=True) is None
    assert interval(found, seeds=False) is not None


@pytest.mark.parametrize("cases", [0, 1])
def test_without_two_cases_there_is_no_interval(cases: int) -> None:
    found = spread(sample_of(np.ones((1, cases))), np.array([1.0]))
    assert found.case is None
    assert interval(found, seeds=False) is None
    assert standard_errors(found, 0) == (None, None)


def test_a_row_without_scores_makes_the_contrast_undefined_but_only_where_it_is_used() -> None:
    sample = sample_of(np.stack([np.full(5, np.nan), np.arange(5.0)]))
    assert np.isnan(spread(sample, np.array([1.0, 0.0])).values[0])
    assert spread(sample, np.array([0.0, 1.0])).values[0] == 2.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_order_of_cases_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((4, 15))
    values[rng.random((4, 15)) < 0.2] = np.nan
    weights, order = rng.standard_normal((2, 4)), rng.permutation(15)
    one, two = spread(sample_of(values), weights), spread(sample_of(values[:, order]), weights)
    assert one.case is not None and two.case is not None
    np.testing.assert_allclose(one.values, two.values)
    np.testing.assert_allclose(one.case, two.case)


def test_a_contrast_that_weighs_nothing_has_no_value() -> None:
    found = spread(sample_of(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]])), np.array([[1.0, -1.0], [0.0, 0.0]]))
    assert found.values[0] == pytest.approx(4 / 3)
    assert np.isnan(found.values[1]) and found.case is None
