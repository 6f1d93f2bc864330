"""Fieller sets and the published mean of ratios."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.stats.ratios import fieller, mean_of_ratios


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(0.5, 2), st.floats(-0.9, 0.9))
def test_a_strong_denominator_gives_the_delta_method(top: float, bottom: float, r: float) -> None:
    scale = 1e-4
    margin = scale**2 * np.array([[1.0, r], [r, 1.0]])
    ratio = top / bottom
    found = fieller(top, bottom, margin)
    assert found is not None
    half = scale / bottom * np.sqrt(1 - 2 * r * ratio + ratio**2)
    # The middle is off by scale²/bottom² of the ratio, at most 2e-7.
    np.testing.assert_allclose(found, (ratio - half, ratio + half), rtol=0, atol=5e-7)


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(-0.9, 0.9))
def test_the_set_holds_exactly_the_ratios_that_are_not_excluded(
    top: float, bottom: float, a: float, b: float, r: float
) -> None:
    margin = np.array([[a * a, r * a * b], [r * a * b, b * b]])
    found = fieller(top, bottom, margin)
    if found is None:
        assert bottom**2 <= margin[1, 1]
        return
    assert found[0] <= top / bottom <= found[1]
    for ratio in found:
        weights = np.array([1.0, -ratio])
        assert (top - ratio * bottom) ** 2 == pytest.approx(weights @ margin @ weights, rel=1e-6, abs=1e-9)


def test_a_denominator_inside_its_margin_gives_an_unbounded_set() -> None:
    assert fieller(1.0, 0.1, np.diag([0.01, 0.04])) is None
    assert fieller(0.0, 0.0, np.zeros((2, 2))) is None


def test_keys_without_a_gain_are_dropped_and_counted() -> None:
    found = mean_of_ratios(
        np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [2.0, 2.0], [-1.0, 0.0]])
    )
    np.testing.assert_allclose(found.values[:2], [0.5, 1.0])
    assert np.isnan(found.values[2])
    assert (found.dropped, found.skipped) == (3, 1)
