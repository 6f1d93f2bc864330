"""Gaffke's bound of a bounded mean: known values far into the tails, and that no order of the values matters."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from holdfast.records.arrays import Floats
from holdfast.stats import gaffke

shares = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, width=32))
samples = st.lists(shares, min_size=1, max_size=40).map(np.array)
levels = st.floats(1e-9, 0.4)


def p_of(x: Floats, m: float) -> float:
    """The p-value of one sample."""
    return float(gaffke.p_of_rows(x[None], m)[0])


@pytest.mark.parametrize("n", [1, 2, 20, 72, 300, 3000, 20_000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
def test_of_zeros_and_ones_it_is_clopper_and_pearson(n: int, share: float) -> None:
    """P(at least k of n | m), also where it is 1e-290."""
    events = max(1, round(share * n))
    x = np.repeat([1.0, 0.0], [events, n - events])
    for m in (1e-6, 1e-3, 0.05, 0.2, 0.45, 0.8, 0.95):
        expected = float(special.betainc(events, n - events + 1, m))
        if m < events / n and expected > 1e-290:
            assert p_of(x, m) == pytest.approx(expected, rel=1e-10, abs=0)
    for alpha in (0.05, 1e-4, 1e-8):
        assert gaffke.lower(x, alpha) == pytest.approx(special.betaincinv(events, n - events + 1, alpha), abs=1e-10)


def _exact(x: list[float], m: float) -> Fraction:
    """P(Σ Dᵢzᵢ ≤ m) of distinct z = 0, x in rational numbers: Σ over z ≤ m of (m − z)ⁿ/Π(z' − z), a B-spline."""
    z = [Fraction(0), *map(Fraction, x)]
    total = Fraction(0)
    for one in z:
        if one <= Fraction(m):
            total += (Fraction(m) - one) ** len(x) / math.prod(other - one for other in z if other != one)
    return total


@pytest.mark.parametrize("power", [1, 8])
def test_of_any_values_it_is_what_rational_numbers_say(power: int) -> None:
    rng = np.random.default_rng(power)
    for n in (1, 2, 3, 8, 13):
        x = rng.random(n) ** power
        for fraction in (0.9, 0.5, 0.1, 1e-4):
            m = float(x.mean() * fraction)
            assert p_of(x, m) == pytest.approx(float(_exact(x.tolist(), m)), rel=1e-10, abs=0)


def test_values_that_stand_several_times_are_the_limit_of_such_that_hardly_differ() -> None:
    x = np.repeat([0.1, 0.4, 0.9], 4)
    apart = (x + np.arange(12) * 1e-9).tolist()
    assert p_of(x, 0.3) == pytest.approx(float(_exact(apart, 0.3)), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(samples, st.randoms(use_true_random=False), levels)
def test_no_order_of_the_values_changes_a_digit(x: Floats, random: object, alpha: float) -> None:
    shuffled = x[np.random.default_rng(random.getrandbits(32)).permutation(len(x))]  # type: ignore[attr-defined]
    assert gaffke.lower(shuffled, alpha) == gaffke.lower(x, alpha)
    assert p_of(shuffled, 0.3) == p_of(x, 0.3)


@settings(max_examples=25, deadline=None)
@given(samples, st.tuples(levels, levels), st.floats(0.001, 0.999))
def test_bounds_are_nested_and_agree_with_p_values(x: Floats, two: tuple[float, float], m: float) -> None:
    small, large = (gaffke.lower(x, alpha) for alpha in sorted(two))
    assert 0 <= small <= large <= x.mean()
    bound, p = gaffke.lower(x, two[0]), p_of(x, m)
    assert 0 <= p <= 1
    if abs(bound - m) > 1e-9:
        assert (p <= two[0]) == (bound > m)


@settings(max_examples=25, deadline=None)
@given(samples, st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)))
def test_a_p_value_rises_with_the_mean_it_is_for(x: Floats, two: tuple[float, float]) -> None:
    smaller, larger = (p_of(x, m) for m in sorted(two))
    assert smaller <= larger * (1 + 1e-10)


@pytest.mark.parametrize("kinds", [3, 0])
def test_many_samples_at_once_are_the_same_as_one_by_one(kinds: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 4, (200, 30)) / 3 if kinds else rng.random((200, 30))
    one_by_one = [p_of(row, 0.44) for row in x]
    np.testing.assert_allclose(gaffke.p_of_rows(x, 0.44), one_by_one, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.05, 0.01])
@pytest.mark.parametrize(
    ("values", "chances"),
    [((0.0, 0.5, 0.7), (0.2, 0.4, 0.4)), ((0.0, 1.0), (0.7, 0.3)), ((0.2, 0.3, 1.0), (0.55, 0.3, 0.15))],
)
def test_over_all_samples_that_there_are_rejections_keep_the_level(
    values: tuple[float, ...], chances: tuple[float, ...], alpha: float
) -> None:
    """No simulation: every sample of 7 with its probability, under the mean it truly has."""
    x = np.array(list(itertools.product(values, repeat=7)))
    weights = np.prod(np.array(list(itertools.product(chances, repeat=7))), axis=1)
    p = gaffke.p_of_rows(x, float(np.dot(values, chances)))
    assert float(weights[p <= alpha].sum()) <= alpha


def test_the_ends_are_what_they_must_be() -> None:
    assert gaffke.lower(np.zeros(9), 0.05) == 0.0
    assert gaffke.lower(np.ones(1), 0.05) == pytest.approx(0.05)  # Markov's inequality
    assert p_of(np.full(4, 0.5), 0.5) == 1.0
    assert p_of(np.full(4, 0.5), 0.0) == 0.0
    assert p_of(np.array([0.5]), 1e-310) < 1e-100
