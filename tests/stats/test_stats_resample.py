"""Resampling of cases."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import rounding, within

from holdfast.stats.resample import CHUNK_DRAWS, draw_counts, percentile_interval, resampled_means, row_means


def test_every_resample_draws_as_many_items_as_there_are() -> None:
    counts = draw_counts(np.random.default_rng(0), 50, 7)
    assert counts.shape == (50, 7)
    assert np.all(counts.sum(axis=1) == 7)


def test_a_resample_uses_one_draw_of_cases_for_every_row() -> None:
    values = np.random.default_rng(1).integers(0, 4, (1, 30)).astype(float)
    means = resampled_means(np.concatenate([values, values + 1.0]), 100, np.random.default_rng(2))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)


def test_resampled_means_equal_explicit_resampling_over_chunks_and_gaps() -> None:
    values = np.random.default_rng(3).random((4, 12))
    values[1, :5] = np.nan
    draws = CHUNK_DRAWS + 10
    found = resampled_means(values, draws, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    weights = np.concatenate([draw_counts(rng, CHUNK_DRAWS, 12), draw_counts(rng, 10, 12)])
    for draw in (0, CHUNK_DRAWS - 1, draws - 1):
        repeated = np.repeat(values, weights[draw].astype(int), axis=1)
        # Rows are added up in 32 bits: twelve values, each rounded once.
        expected = np.nanmean(repeated, axis=1)
        assert within(float(np.max(np.abs(found[draw] - expected) / expected)), rounding(13))


def test_a_row_without_cases_in_a_draw_keeps_its_own_mean() -> None:
    values = np.full((1, 40), np.nan)
    values[0, 0] = 2.0
    assert np.all(resampled_means(values, 200, np.random.default_rng(0)) == 2.0)


def test_a_row_without_values_has_no_mean() -> None:
    assert np.isnan(row_means(np.full((1, 3), np.nan))[0])
    assert np.isnan(row_means(np.zeros((1, 0)))[0])


def test_an_interval_needs_draws() -> None:
    assert percentile_interval(np.full(100, np.nan)) is None
    assert percentile_interval(np.arange(10.0)) is None
    low, high = percentile_interval(np.linspace(0, 1, 1001)) or (0.0, 0.0)
    np.testing.assert_allclose((low, high), (0.025, 0.975))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_the_spread_of_resampled_means_is_the_standard_error(cases: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (1, cases)).astype(float)
    found = resampled_means(values, 4000, np.random.default_rng(seed + 1))
    # A deviation of 4,000 draws varies by 1/√8000 of itself.
    np.testing.assert_allclose(found.std(), values.std() / np.sqrt(cases), rtol=7 / np.sqrt(8000), atol=1e-9)
