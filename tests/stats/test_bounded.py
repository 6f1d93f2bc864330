"""One-sided bounds of bounded means: their properties, known values, and how often a gate passes falsely by them."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from builders.bounded_samples import AT_THE_MARGIN, MARGIN, Floats, exact_upper
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.bounded import (
    BoundMethod,
    cluster_means,
    exact_lower,
    holm,
    lower_bound,
    median_interval,
    order_cases,
    p_value,
    p_values,
    upper_bound,
)

METHODS: tuple[BoundMethod, ...] = ("gaffke", "bernstein", "t")
SCORES: Any = {"low": -3.0, "high": 3.0}
LEVEL = 0.05
MOST = 0.055  # what the upper 95 % Monte-Carlo limit of the rate of false passes may be

lists = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3, width=32)), min_size=1, max_size=40)
levels = st.floats(0.002, 0.4)
methods = st.sampled_from(METHODS)


@settings(max_examples=40, deadline=None)
@given(lists, levels, methods)
def test_bounds_stay_in_the_range_and_on_their_side_of_the_mean(
    values: list[float], alpha: float, method: BoundMethod
) -> None:
    x = np.array(values)
    low, high = (bound(x, alpha, **SCORES, method=method) for bound in (lower_bound, upper_bound))
    assert -3 <= low <= x.mean() + 1e-9
    assert x.mean() - 1e-9 <= high <= 3


@settings(max_examples=40, deadline=None)
@given(lists, levels, methods)
def test_a_mirrored_sample_has_mirrored_bounds(values: list[float], alpha: float, method: BoundMethod) -> None:
    x = np.array(values)
    assert lower_bound(-x, alpha, **SCORES, method=method) == -upper_bound(x, alpha, **SCORES, method=method)
    for null in (-0.25, 0.0, 1.0):
        assert p_value(-x, -null, **SCORES, side="less", method=method) == p_value(x, null, **SCORES, method=method)


@settings(max_examples=40, deadline=None)
@given(lists, levels, methods, st.floats(0.1, 5), st.floats(-10, 10))
def test_a_change_of_units_changes_the_bound_alike(
    values: list[float], alpha: float, method: BoundMethod, scale: float, shift: float
) -> None:
    x = np.array(values)
    there = lower_bound(x * scale + shift, alpha, low=-3 * scale + shift, high=3 * scale + shift, method=method)
    assert there == pytest.approx(lower_bound(x, alpha, **SCORES, method=method) * scale + shift, abs=scale * 1e-7)


@settings(max_examples=40, deadline=None)
@given(lists, st.tuples(levels, levels), methods)
def test_a_smaller_level_gives_a_wider_bound(
    values: list[float], two: tuple[float, float], method: BoundMethod
) -> None:
    small, large = sorted(two)
    x = np.array(values)
    at = {alpha: lower_bound(x, alpha, **SCORES, method=method) for alpha in two}
    assert at[small] <= at[large]
    above = {alpha: upper_bound(x, alpha, **SCORES, method=method) for alpha in two}
    assert above[small] >= above[large]


@settings(max_examples=50, deadline=None)
@given(lists, levels, methods, st.floats(-2.99, 2.99))
def test_a_p_value_and_a_bound_of_one_method_agree(
    values: list[float], alpha: float, method: BoundMethod, null: float
) -> None:
    x = np.array(values)
    bound = lower_bound(x, alpha, **SCORES, method=method)
    p = p_value(x, null, **SCORES, method=method)
    assert p >= p_values(x[None], null, **SCORES, method=method)[0] - 1e-12
    if abs(bound - null) > 1e-6 and abs(p - alpha) > 1e-9:
        assert (p <= alpha) == (bound > null)


@settings(max_examples=40, deadline=None)
@given(lists, methods, st.tuples(st.floats(-4, 4), st.floats(-4, 4)))
def test_a_p_value_rises_with_the_mean_it_is_for(
    values: list[float], method: BoundMethod, nulls: tuple[float, float]
) -> None:
    x = np.array(values)
    smaller, larger = (p_value(x, null, **SCORES, method=method) for null in sorted(nulls))
    assert 0 <= smaller <= larger + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.05])
@pytest.mark.parametrize(
    ("values", "shares"),
    [((-3.0, 0.0, 1.0), (0.2, 0.4, 0.4)), ((-3.0, 3.0), (0.7, 0.3)), ((-1.0, 0.0, 3.0), (0.3, 0.55, 0.15))],
)
def test_over_all_samples_that_there_are_rejections_keep_the_level(
    values: tuple[float, ...], shares: tuple[float, ...], alpha: float
) -> None:
    """No simulation: every sample of 6 with its probability, under the mean it truly has."""
    samples = np.array(list(itertools.product(values, repeat=6)))
    weights = np.prod(np.array(list(itertools.product(shares, repeat=6))), axis=1)
    mean = float(np.dot(values, shares))
    for method in ("gaffke", "bernstein"):
        p = p_values(samples, mean, **SCORES, method=method)
        assert float(weights[p <= alpha].sum()) <= alpha
    assert p_values(samples, mean, **SCORES).min() < 0.5  # it can reject at all


def test_the_bound_is_the_quantile_of_means_under_random_weights() -> None:
    """Gaffke's bound by its definition: weights of a Dirichlet(1, …, 1) on the lowest score and on the values."""
    rng = np.random.default_rng(4)
    for n in (5, 12, 60):
        x = rng.choice([-1.0, 0.0, 0.0, 0.3, 1.0], size=n)
        drawn = rng.dirichlet(np.ones(n + 1), size=200_000) @ np.append(x, -3.0)
        share = float((drawn <= lower_bound(x, LEVEL, **SCORES)).mean())
        assert abs(share - LEVEL) < 4 * math.sqrt(LEVEL / 200_000)


def test_the_bound_lies_where_the_p_value_reaches_the_level() -> None:
    rng = np.random.default_rng(4)
    for n in (12, 60, 150):
        x = rng.choice([-1.0, 0.0, 0.0, 1.0], size=n)
        bound = lower_bound(x, LEVEL, **SCORES)
        assert p_value(x, bound - 1e-6, **SCORES) <= LEVEL < p_value(x, bound + 1e-6, **SCORES)


def test_bernstein_and_t_are_the_textbook_ones() -> None:
    x = np.array([0.0, 1.0, -2.0, 1.0, 0.0, 3.0] * 40)
    n, spread = len(x), x.std(ddof=1)
    term = math.log(2 / LEVEL)
    bernstein = x.mean() - spread * math.sqrt(2 * term / n) - 6 * 7 * term / (3 * (n - 1))
    assert lower_bound(x, LEVEL, **SCORES, method="bernstein") == pytest.approx(bernstein)
    expected = stats.ttest_1samp(x, 0.3, alternative="greater")
    assert p_value(x, 0.3, **SCORES, method="t") == pytest.approx(expected.pvalue)
    low, _ = stats.ttest_1samp(x, 0.0, alternative="greater").confidence_interval(0.95)
    assert lower_bound(x, LEVEL, **SCORES, method="t") == pytest.approx(low)


@pytest.mark.parametrize("method", ["bernstein", "t"])
def test_one_value_bounds_nothing(method: BoundMethod) -> None:
    one = np.array([2.0])
    assert lower_bound(one, LEVEL, **SCORES, method=method) == -3
    assert upper_bound(one, LEVEL, **SCORES, method=method) == 3
    assert p_value(one, -2.0, **SCORES, method=method) == 1


def test_one_value_bounds_next_to_nothing_by_gaffke() -> None:
    assert lower_bound(np.array([3.0]), LEVEL, **SCORES) == pytest.approx(-3 + 6 * LEVEL)  # Markov's inequality


def test_equal_values_give_t_no_interval_of_width_zero() -> None:
    for n, value in ((2, 0.0), (10, 0.1), (200, 1 / 3)):
        x = np.full(n, value)
        assert lower_bound(x, LEVEL, **SCORES, method="t") == lower_bound(x, LEVEL, **SCORES) < value - 0.01
        assert p_value(x, value - 0.01, **SCORES, method="t") > LEVEL
        assert p_values(x[None], value - 0.01, **SCORES, method="t")[0] > LEVEL


def test_a_mean_outside_the_range_is_certain() -> None:
    x = np.zeros(10)
    for method in METHODS:
        assert p_value(x, -3.5, **SCORES, method=method) == 0
        assert p_value(x, 3.0, **SCORES, method=method) == 1
        assert p_values(x[None], 3.5, **SCORES, method=method)[0] == 1


@pytest.mark.parametrize(
    ("values", "alpha", "low", "says"),
    [
        ([], 0.05, -3.0, "no values"),
        ([0.0, float("nan")], 0.05, -3.0, "finite"),
        ([0.0, 3.5], 0.05, -3.0, "outside the range from -3 to 3"),
        ([0.0, 1.0], 1.0, -3.0, "between 0 and 1"),
        ([0.0, 1.0], 0.05, 3.0, "is empty"),
    ],
)
def test_what_cannot_be_bounded_is_refused(values: list[float], alpha: float, low: float, says: str) -> None:
    for bound in (lower_bound, upper_bound):
        with pytest.raises(ValueError, match=says.replace("-3 to 3", ".3 to 3")):
            bound(np.array(values), alpha, low=low, high=3.0)


def test_many_values_take_little_time() -> None:
    x = np.random.default_rng(0).choice([-3.0, -1.0, 0.0, 1.0, 3.0], size=15_000)
    started = time.process_time()
    low, high = lower_bound(x, LEVEL, **SCORES), upper_bound(x, LEVEL, **SCORES)
    assert time.process_time() - started < 4  # about 1 s on an idle machine
    assert x.mean() - 0.1 < low < x.mean() < high < x.mean() + 0.1


def test_exact_bounds_of_shares_have_known_values() -> None:
    for n, expected in ((144, 0.0206), (300, 0.00994), (3000, 0.000998)):
        assert exact_upper(0, n, LEVEL) == pytest.approx(1 - LEVEL ** (1 / n), rel=1e-12)
        assert exact_upper(0, n, LEVEL) == pytest.approx(expected, rel=5e-3)
    assert exact_lower(0, 50, LEVEL) == 0 and exact_upper(50, 50, LEVEL) == 1
    assert exact_lower(50, 50, LEVEL) == pytest.approx(LEVEL ** (1 / 50))
    assert (exact_lower(0, 0, LEVEL), exact_upper(0, 0, LEVEL)) == (0, 1)
    both = stats.binomtest(7, 40).proportion_ci(confidence_level=0.9, method="exact")
    assert (exact_lower(7, 40, LEVEL), exact_upper(7, 40, LEVEL)) == pytest.approx((both.low, both.high))
    for events, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="cannot be"):
            exact_upper(events, n, LEVEL)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 200), levels)
def test_exact_bounds_cut_the_tail_they_should(events: int, n: int, alpha: float) -> None:
    events = min(events, n)
    if events < n:
        assert stats.binom.cdf(events, n, exact_upper(events, n, alpha)) == pytest.approx(alpha, rel=1e-6)
    if events > 0:
        assert stats.binom.sf(events - 1, n, exact_lower(events, n, alpha)) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize(("level", "least"), [(0.9, 5), (0.95, 6), (0.6, 3)])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(level: float, least: int) -> None:
    """Between the j-th least and largest it misses by twice the binomial probability of fewer than j."""
    for n in range(1, 40):
        found = median_interval(np.arange(1.0, n + 1)[::-1], level)
        if n < least:
            assert found is None
            continue
        assert found is not None
        rank = int(found[0])
        assert found == (rank, n + 1 - rank)
        held, narrower = (1 - 2 * stats.binom.cdf(count - 1, n, 0.5) for count in (rank, rank + 1))
        assert held >= level > narrower or rank == n + 1 - rank


def test_holm_has_known_values_and_keeps_the_order_given() -> None:
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_clusters_count_once_whatever_their_size() -> None:
    values = np.array([1.0, 3.0, 0.0, 2.0, 2.0, 5.0])
    np.testing.assert_allclose(cluster_means(values, ["b", "b", "a", "b", "a", 7]), [2.0, 1.0, 5.0])
    with pytest.raises(ValueError, match="6 values but 2 cluster names"):
        cluster_means(values, ["a", "b"])


def test_the_order_of_cases_comes_from_their_ids_alone() -> None:
    cases = [f"case {number}" for number in range(50)]
    found = order_cases(cases)
    assert sorted(found) == sorted(cases) and found != cases
    assert order_cases(cases[::-1]) == found
    assert [case for case in found if case in cases[:20]] == order_cases(cases[:20])


def _upper_rate(samples: Floats, method: BoundMethod) -> float:
    """The upper 95 % Monte-Carlo limit of the rate at which the gate passes."""
    p = p_values(samples, -MARGIN, **SCORES, method=method)
    return exact_upper(int((p <= LEVEL).sum()), len(samples), 0.05)


@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_the_samples_have_the_mean_they_are_meant_to_have(name: str) -> None:
    drawn = AT_THE_MARGIN[name](np.random.default_rng(1), (1000, 400))
    assert abs(drawn.mean() + MARGIN) < 4 * drawn.std() / math.sqrt(drawn.size)
    assert drawn.min() >= -3 and drawn.max() <= 3


@pytest.mark.parametrize("n", [5, 20, 72])
@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_a_gate_passes_falsely_no_more_often_than_its_level(name: str, n: int) -> None:
    samples = AT_THE_MARGIN[name](np.random.default_rng(n), (8000, n))
    assert _upper_rate(samples, "gaffke") <= MOST
    assert _upper_rate(samples, "bernstein") <= MOST


@pytest.mark.full
@pytest.mark.parametrize("n", [5, 10, 20, 50, 72, 144, 300, 500])
@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_a_gate_passes_falsely_no_more_often_than_its_level_at_any_size(name: str, n: int) -> None:
    samples = AT_THE_MARGIN[name](np.random.default_rng(1000 + n), (30_000, n))
    assert _upper_rate(samples, "gaffke") <= MOST
    assert _upper_rate(samples, "bernstein") <= MOST


@pytest.mark.parametrize(
    ("name", "n"),
    [("rare and severe", 50), ("rare and severe", 72), ("rarer, with noise", 20), ("rarer, with noise", 72)],
)
def test_a_t_bound_passes_rare_severe_drops_too_often(name: str, n: int) -> None:
    """Why "t" is not the default: it passes before it has seen one of the drops."""
    p = p_values(AT_THE_MARGIN[name](np.random.default_rng(n), (4000, n)), -MARGIN, **SCORES, method="t")
    assert exact_lower(int((p <= LEVEL).sum()), 4000, 0.01) > MOST
