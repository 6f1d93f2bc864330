"""Lines in the plane of two objectives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.lines import (
    correlations,
    errors_in_both,
    noiseless_correlation,
    non_dominated,
    ordinary_lines,
    signed_distances,
    slope_p_value,
)

RNG = np.random.default_rng(0)
EQUAL = (1.0, 0.0, 1.0)


def test_ordinary_regression_is_scipys() -> None:
    x, y = RNG.random(12), RNG.random(12)
    fit, line, r = stats.linregress(x, y), ordinary_lines(x, y), float(correlations(x, y))
    found = (float(line.slope), float(line.intercept), r, slope_p_value(r, 12))
    np.testing.assert_allclose(found, (fit.slope, fit.intercept, fit.rvalue, fit.pvalue), rtol=1e-10)


def test_equal_errors_give_total_least_squares() -> None:
    points = RNG.multivariate_normal([0, 0], [[1, -0.7], [-0.7, 1]], 30)
    line = errors_in_both(points[:, 0], points[:, 1], EQUAL)
    direction = np.linalg.svd(points - points.mean(axis=0))[2][0]
    assert float(line.slope) == pytest.approx(direction[1] / direction[0], rel=1e-10)


def test_many_sets_at_once_equal_one_by_one() -> None:
    x, y = RNG.random((5, 9)), RNG.random((5, 9))
    together = errors_in_both(x, y, (1.0, 0.3, 2.0)).slope
    alone = [float(errors_in_both(a, b, (1.0, 0.3, 2.0)).slope) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 4.0), st.floats(-0.8, 0.8))
def test_the_line_does_not_depend_on_which_axis_is_called_x(seed: int, ratio: float, r: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random(8)
    y = -x + 0.3 * rng.standard_normal(8)
    cross = r * np.sqrt(ratio)
    one = errors_in_both(x, y, (1.0, cross, ratio))
    two = errors_in_both(y, x, (ratio, cross, 1.0))
    assert float(one.slope) == pytest.approx(1 / float(two.slope), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(-0.5, 0.5))
def test_points_on_a_line_give_that_line(slope: float, intercept: float, cross: float) -> None:
    x = np.linspace(0, 2, 6)
    line = errors_in_both(x, slope * x + intercept, (1.0, cross, 1.5))
    np.testing.assert_allclose((line.slope, line.intercept), (slope, intercept), atol=1e-7)


@pytest.mark.parametrize("x", [np.zeros(4), np.ones(4)])
def test_a_vertical_line_and_equal_points_have_no_slope(x: np.ndarray) -> None:
    assert np.isnan(errors_in_both(x, np.arange(4.0), EQUAL).slope)
    assert np.isnan(errors_in_both(x, x, EQUAL).slope)
    assert np.isnan(ordinary_lines(x, np.arange(4.0)).slope)
    assert np.isnan(correlations(x, np.arange(4.0)))


def test_distance_is_orthogonal_and_signed() -> None:
    line = errors_in_both(np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0]), EQUAL)
    assert float(signed_distances(line, np.array([2.0]), np.array([2.0]))) == pytest.approx(np.sqrt(2))
    assert float(signed_distances(line, np.array([0.0]), np.array([0.0]))) == pytest.approx(-np.sqrt(2))


def test_non_dominated_points() -> None:
    x, y = np.array([0.0, 1.0, 0.5, 1.0]), np.array([1.0, 0.0, 0.2, -1.0])
    np.testing.assert_array_equal(non_dominated(x, y), [True, True, True, False])
    np.testing.assert_array_equal(non_dominated(np.zeros(2), np.zeros(2)), [True, True])


def test_noise_is_taken_off_the_correlation() -> None:
    rng, found, plain = np.random.default_rng(3), [], []
    true_x = np.linspace(-1, 1, 12)
    true_y = -true_x + 0.4 * np.cos(5 * true_x)
    shared = 0.3  # an error that all points share moves the cloud, and no correlation
    noise = np.zeros((24, 24))
    noise[:12, :12] = noise[12:, 12:] = 0.04 * np.eye(12) + shared**2
    for _ in range(400):
        x = true_x + 0.2 * rng.standard_normal(12) + shared * rng.standard_normal()
        y = true_y + 0.2 * rng.standard_normal(12) + shared * rng.standard_normal()
        found.append(noiseless_correlation(x, y, noise))
        plain.append(float(correlations(x, y)))
    true = float(correlations(true_x, true_y))
    assert abs(np.median(found) - true) < 0.02
    assert np.median(plain) > true + 0.05
    assert noiseless_correlation(true_x, true_y, 100 * np.eye(24)) in (-1.0, 1.0)
