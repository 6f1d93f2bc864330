"""Intervals of contrasts from cases and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.contrasts import sample_of, spread, squared_margin, standard_error

RNG = np.random.default_rng(0)


def test_one_row_gives_the_t_interval() -> None:
    values = RNG.integers(0, 4, (1, 25)).astype(float)
    found = spread(sample_of(values), np.array([1.0]))
    expected = stats.t.ppf(0.975, 24) * stats.sem(values[0])
    margin = squared_margin(found, seeds=False)
    assert margin is not None
    assert np.sqrt(margin[0, 0]) == pytest.approx(expected, rel=1e-12)
    assert (found.cases, found.seeds) == (25, 0)


def test_a_difference_is_paired_by_case() -> None:
    values = RNG.integers(0, 4, (2, 30)).astype(float)
    found = spread(sample_of(values), np.array([1.0, -1.0]))
    assert standard_error(found, 0, seeds=False) == pytest.approx(stats.sem(values[0] - values[1]), rel=1e-12)


def test_seeds_and_cases_combine_their_margins() -> None:
    values = RNG.integers(0, 4, (3, 40)).astype(float)
    by_seed = list(np.eye(3))
    found = spread(sample_of(values), np.full(3, 1 / 3), by_seed)
    cases = stats.t.ppf(0.975, 39) * stats.sem(values.mean(axis=0))
    seeds = stats.t.ppf(0.975, 2) * stats.sem(values.mean(axis=1))
    margin = squared_margin(found, seeds=True)
    assert margin is not None
    assert margin[0, 0] == pytest.approx(cases**2 + seeds**2, rel=1e-12)


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_below_three_seeds_there_is_no_margin_for_the_recipe(seeds: int) -> None:
    values = RNG.random((2, 10))
    found = spread(sample_of(values), np.array([0.5, 0.5]), list(np.eye(2)[:seeds]))
    assert squared_margin(found, seeds=True) is None
    assert squared_margin(found, seeds=False) is not None


@pytest.mark.parametrize("cases", [0, 1])
def test_without_two_cases_there_is_no_margin(cases: int) -> None:
    found = spread(sample_of(np.ones((1, cases))), np.array([1.0]))
    assert found.case is None
    assert squared_margin(found, seeds=False) is None
    assert standard_error(found, 0, seeds=False) is None


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
