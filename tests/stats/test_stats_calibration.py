"""Rates, group means and repeats of a judge against known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats.agreement import case_intervals, compare_repeats, confusion, whole_scores
from holdfast.stats.clusters import contrast_interval, equality_p, group_means, rate_interval

BIAS, LOOSE = 0.3, 0.25  # the true bias of simulated judges, and how far it moves from case to case


def test_the_table_of_scores_is_counted_with_missing_ones_apart() -> None:
    truth = np.array([0, 0, 1, 3, 3, 3], dtype=float)
    judged = np.array([0, 1, np.nan, 2.5, 3, np.nan])
    found = confusion(truth, judged)
    assert found.tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 2, 1]]
    assert whole_scores(np.array([0.5, 1.49, -0.2, 3.4])).tolist() == [1, 1, 0, 3]
    with pytest.raises(ValueError, match="missing"):
        whole_scores(np.array([1.0, np.nan]))


def test_a_rate_of_independent_items_is_wilson_with_t() -> None:
    hits = np.arange(40) < 10
    low, high = rate_interval(hits, np.arange(40)) or (0, 0)
    share, t = 0.25, stats.t.ppf(0.975, 39)
    effective = 39.0  # a sample variance has n − 1 below it, so the design effect is n / (n − 1)
    middle = (share + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t * np.sqrt(share * (1 - share) / effective + t**2 / (4 * effective**2)) / (1 + t**2 / effective)
    assert (low, high) == pytest.approx((middle - half, middle + half))


def test_items_of_one_case_that_are_alike_count_once() -> None:
    hits = np.arange(40) < 10
    alone = rate_interval(hits, np.arange(40))
    assert rate_interval(np.repeat(hits, 5), np.repeat(np.arange(40), 5)) == pytest.approx(alone)
    spread_out = rate_interval(np.tile(hits, 5), np.repeat(np.arange(5), 40))
    assert spread_out is not None
    assert alone is not None
    assert spread_out[1] - spread_out[0] < alone[1] - alone[0]


@pytest.mark.parametrize("always", [True, False])
def test_a_rate_without_exception_has_an_interval_by_cases(always: bool) -> None:
    found = rate_interval(np.full(300, always), np.repeat(np.arange(30), 10))
    assert found is not None
    assert found[1 if always else 0] == float(always)
    t = stats.t.ppf(0.975, 29)
    assert found[0 if always else 1] == pytest.approx(1 / (1 + t**2 / 30) if always else t**2 / 30 / (1 + t**2 / 30))
    assert rate_interval(np.full(3, always), np.zeros(3, dtype=np.int64)) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_a_rate_lies_in_its_interval(items: list[tuple[bool, int]]) -> None:
    hits, cases = np.array([one[0] for one in items]), np.array([one[1] for one in items])
    found = rate_interval(hits, cases)
    if len(set(cases.tolist())) < 2:
        assert found is None
        return
    assert found is not None
    assert 0 <= found[0] <= np.mean(hits) <= found[1] <= 1


def test_two_groups_on_the_same_cases_are_a_paired_t() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 30))
    found = group_means(np.concatenate([first, second]), np.repeat([0, 1], 30), np.tile(np.arange(30), 2))
    value, interval = contrast_interval(found, np.array([-1.0, 1.0]), (-3.0, 3.0))
    paired = stats.ttest_rel(second, first)
    assert value == pytest.approx(np.mean(second - first))
    # The limits allow for cases whose like was not met, so they lie a little beyond Student's.
    low, high = paired.confidence_interval()
    assert interval is not None
    assert interval[0] < low and high < interval[1]
    assert interval[1] - interval[0] < 1.35 * (high - low)
    assert equality_p(found) == pytest.approx(paired.pvalue)


def test_many_groups_are_hotelling_of_their_differences() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 25)) + rng.normal(size=25)
    found = group_means(values.ravel(), np.repeat(np.arange(4), 25), np.tile(np.arange(25), 4))
    steps = np.diff(values, axis=0)
    square = 25 * steps.mean(axis=1) @ np.linalg.solve(np.cov(steps), steps.mean(axis=1))
    assert equality_p(found) == pytest.approx(stats.f.sf(square * 22 / (3 * 24), 3, 22))


def test_what_cannot_be_tested_has_no_p() -> None:
    groups, cases = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    assert equality_p(group_means(np.zeros(20), groups, cases)) is None
    assert equality_p(group_means(np.arange(20.0), np.zeros(20, dtype=np.int64), np.arange(20))) is None
    few = group_means(np.arange(8.0) ** 2, np.repeat([0, 1], 4), np.tile(np.arange(4), 2))
    assert equality_p(few) is None
    one_case = group_means(np.arange(4.0), np.repeat([0, 1], 2), np.zeros(4, dtype=np.int64))
    assert contrast_interval(one_case, np.array([-1.0, 1.0]), (0.0, 3.0)) == (2.0, None)


def test_a_mean_of_cases_that_are_all_alike_has_an_interval_with_width() -> None:
    found = group_means(np.full(20, 3.0), np.zeros(20, dtype=np.int64), np.arange(20))
    value, interval = contrast_interval(found, np.ones(1), (0.0, 3.0))
    assert value == 3.0 and interval is not None
    assert interval[0] < 2.6 and interval[1] == 3.0


def test_repeats_are_compared_within_their_item() -> None:
    values = np.array([1, 1, 2, 3, 0, 1, 2, 3], dtype=float)
    items = np.array([7, 7, 9, 9, 4, 4, 4, 1])
    cases = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    found = compare_repeats(values, items, cases)
    assert found is not None
    assert dict(zip(found.cases.tolist(), found.differ.tolist(), strict=True)) == {0: False, 1: True, 2: True}
    assert found.variance == pytest.approx((0 + 0.5 + 2) / (1 + 1 + 2))
    assert compare_repeats(values[:1], items[:1], cases[:1]) is None
    assert compare_repeats(values[:0], items[:0], cases[:0]) is None


# --- coverage --------------------------------------------------------------------------------------------------------


def judge_once(rng: np.random.Generator, cases: int, rollouts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True scores 0..2, a judge that adds a point with a chance that each case shares, and the cases."""
    owner = np.repeat(np.arange(cases), rollouts)
    truth = rng.integers(0, 3, len(owner)).astype(float)
    chance = BIAS + rng.uniform(-LOOSE, LOOSE, cases)
    return truth, truth + (rng.random(len(owner)) < chance[owner]), owner


def cover(runs: int, cases: int, rollouts: int) -> dict[str, float]:
    """How often the intervals of bias and rate hold the truth, and how often a true equality is rejected at 5 %."""
    rng = np.random.default_rng(11)
    held = {"bias": 0, "rate": 0, "naive": 0, "equality": 0}
    for _ in range(runs):
        truth, judged, owner = judge_once(rng, cases, rollouts)
        low, high = case_intervals(truth, judged, owner)["mean_bias"]
        held["bias"] += low <= BIAS <= high
        low, high = rate_interval(judged > truth, owner) or (1.0, 0.0)
        held["rate"] += low <= BIAS <= high
        low, high = rate_interval(judged > truth, np.arange(len(owner))) or (1.0, 0.0)
        held["naive"] += low <= BIAS <= high
        lineage = np.arange(len(owner)) % 4
        held["equality"] += (equality_p(group_means(judged - truth, lineage, owner)) or 1.0) < 0.05
    return {name: count / runs for name, count in held.items()}


def test_intervals_hold_the_true_bias_as_often_as_they_say() -> None:
    found = cover(400, 60, 8)
    error = 3 * np.sqrt(0.05 * 0.95 / 400)
    assert found["bias"] >= 0.95 - error  # more: small moves alone leave room for a case that was missed
    assert found["rate"] == pytest.approx(0.95, abs=error)
    assert found["equality"] == pytest.approx(0.05, abs=error)
    assert found["naive"] < found["rate"]


@pytest.mark.full
@pytest.mark.parametrize(("cases", "rollouts"), [(20, 4), (60, 8), (300, 2)])
def test_coverage_in_full(cases: int, rollouts: int) -> None:
    found = cover(2_500, cases, rollouts)
    assert found["bias"] >= 0.935
    assert found["rate"] == pytest.approx(0.95, abs=0.015)
    assert found["equality"] == pytest.approx(0.05, abs=0.02)
