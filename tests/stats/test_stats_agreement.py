"""Agreement of two judges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.agreement import agree, case_intervals, ordinal_alpha, quadratic_kappa, ranks

SCORES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60)


def _split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pairs, dtype=float)
    return both[:, 0], both[:, 1]


def test_known_values() -> None:
    one, two = _split([(0, 0), (1, 1), (2, 3), (3, 3), (1, 0), (2, 2), (3, 1), (0, 1)])
    found = agree(one, two)
    assert found["exact"] == 0.5
    assert found["within_1"] == 0.875
    assert found["mean_bias"] == pytest.approx(-0.125)
    assert found["pearson"] == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert found["spearman"] == pytest.approx(stats.spearmanr(one, two).statistic)


def test_kappa_equals_its_definition_by_a_table() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    table = np.zeros((4, 4))
    np.add.at(table, (one, two), 1 / 200)
    weights = (np.arange(4)[:, None] - np.arange(4)[None]) ** 2
    expected = 1 - (weights * table).sum() / (weights * np.outer(table.sum(1), table.sum(0))).sum()
    assert quadratic_kappa(one.astype(float), two.astype(float)) == pytest.approx(expected)


def test_alpha_equals_a_count_by_hand() -> None:
    # Values 1 1 | 1 2 | 2 3: totals 3, 2, 1; distances 2.5², 4², 1.5²; observed 2(6.25 + 2.25), expected by pairs.
    one, two = _split([(1, 1), (1, 2), (2, 3)])
    expected = 2 * (3 * 2 * 2.5**2 + 3 * 1 * 4.0**2 + 2 * 1 * 1.5**2) / 5
    assert ordinal_alpha(one, two) == pytest.approx(1 - 2 * (2.5**2 + 1.5**2) / expected)


@settings(max_examples=100, deadline=None)
@given(SCORES)
def test_bounds_symmetry_and_order(pairs: list[tuple[int, int]]) -> None:
    one, two = _split(pairs)
    found, mirrored, shuffled = agree(one, two), agree(two, one), agree(one[::-1], two[::-1])
    for kind, value in found.items():
        if value is None:
            assert mirrored[kind] is None
            continue
        assert np.isfinite(value)
        assert value == pytest.approx(shuffled[kind])
        assert abs(value) <= (3.0 if kind == "mean_bias" else 1.0 + 1e-9)
        assert value == pytest.approx(-(mirrored[kind] or 0.0) if kind == "mean_bias" else mirrored[kind])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=30).filter(lambda scores: len(set(scores)) > 1))
def test_a_judge_agrees_with_itself(scores: list[int]) -> None:
    found = agree(np.array(scores, dtype=float), np.array(scores, dtype=float))
    assert all(found[kind] == pytest.approx(1.0) for kind in found if kind != "mean_bias")


def test_nothing_to_compare_gives_none() -> None:
    assert set(agree(np.zeros(0), np.zeros(0)).values()) == {None}
    flat = agree(np.ones(5), np.ones(5))
    assert flat["exact"] == 1.0
    assert flat["pearson"] is flat["spearman"] is flat["quadratic_kappa"] is flat["ordinal_alpha"] is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_ranks_are_scipys(values: list[int]) -> None:
    np.testing.assert_allclose(ranks(np.array(values, dtype=float)), stats.rankdata(values))


def test_case_intervals_equal_a_bootstrap_of_cases() -> None:
    rng = np.random.default_rng(3)
    cases = np.repeat(np.arange(80), 5)
    shared = np.repeat(rng.integers(0, 4, 80), 5)  # items of a case are alike: an interval over items is too narrow
    one = np.clip(shared + rng.integers(-1, 2, 400), 0, 3).astype(float)
    two = np.clip(shared + np.repeat(rng.integers(-1, 2, 80), 5) + rng.integers(0, 2, 400), 0, 3).astype(float)
    found = case_intervals(one, two, cases)
    draws = []
    for _ in range(1500):
        picked = (5 * rng.integers(0, 80, 80)[:, None] + np.arange(5)).ravel()
        draws.append(agree(one[picked], two[picked]))
    for name in ("quadratic_kappa", "ordinal_alpha", "mean_bias"):
        low, high = np.quantile([float(draw[name] or 0.0) for draw in draws], [0.025, 0.975])
        assert found[name][1] - found[name][0] == pytest.approx(high - low, rel=0.12)
        assert sum(found[name]) / 2 == pytest.approx(float(agree(one, two)[name] or 0.0), abs=2e-3)


def test_case_intervals_need_cases_and_variation() -> None:
    one, two = _split([(0, 1), (1, 2), (2, 2)])
    assert case_intervals(one, two, np.zeros(3, dtype=np.int64)) == {}
    assert case_intervals(one[:0], two[:0], np.zeros(0, dtype=np.int64)) == {}
    assert case_intervals(one[:1], two[:1], np.zeros(1, dtype=np.int64)) == {}
    assert set(case_intervals(np.ones(3), np.ones(3), np.arange(3))) == {"mean_bias"}


@pytest.mark.parametrize("bias", [0.0, 1.0])
@pytest.mark.parametrize("cases", [2, 20, 300])
def test_judges_that_differ_alike_everywhere_have_no_interval_without_width(bias: float, cases: int) -> None:
    one = np.arange(cases) % 2.0
    found = case_intervals(one, one + bias, np.arange(cases))
    low, high = found.pop("mean_bias")
    assert low < bias < high
    assert high - low > 3 / (cases + 4)
    assert found == {}  # complete agreement, or one distance in all cases, tells nothing of the error of kappa


@pytest.mark.parametrize(("cases", "share"), [(20, 0.05), (100, 0.02), (300, 0.01)])
def test_rare_and_large_differences_of_judges_are_covered(cases: int, share: float) -> None:
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(300):
        owner = np.repeat(np.arange(cases), rng.integers(1, 5, cases))
        second = np.where((rng.random(cases) < share)[owner], 0.0, 3.0)
        low, high = case_intervals(np.full(len(owner), 3.0), second, owner)["mean_bias"]
        held += low <= -3 * share <= high
    assert held >= 0.93 * 300
