"""How many cases a gate needs: the spread taken apart, and a promise that holds on fresh data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders.bounded_samples import exact_upper

from holdfast.records.arrays import Floats
from holdfast.stats.bounded import exact_lower, p_values
from holdfast.stats.power import PowerRow, plan_cases, read_pilot

SCORES: Any = {"low": -3.0, "high": 3.0}
GATE: Any = {"margin": 0.5, "alpha": 0.05, **SCORES}


def _compare(rng: np.random.Generator, cases: int, rollouts: int) -> Floats:
    """Two unchanged agents on new cases: differences of rollouts, (cases, rollouts), with a true mean of zero."""
    kept = rng.choice([-0.5, 0.0, 0.5], size=(cases, 1), p=[0.2, 0.6, 0.2])
    drawn = rng.choice([-1.0, 0.0, 1.0], size=(2, cases, rollouts), p=[0.2, 0.6, 0.2])
    return np.asarray(kept + drawn[0] - drawn[1])


BETWEEN, WITHIN = 0.1, 0.8  # the variances of what a case keeps, and of a rollout's difference


def _plan(pilot: Floats, seed: int = 0, **settings: Any) -> list[PowerRow]:
    return plan_cases(pilot, **{**GATE, **settings}, rng=np.random.default_rng(seed))


def test_the_plan_holds_on_fresh_comparisons() -> None:
    """Not the pilot's own resamples: new cases of the same two agents, at the planned numbers."""
    rng = np.random.default_rng(1)
    for row in _plan(_compare(rng, 1500, 3), rollouts=(1, 4)):
        assert row.cases is not None and row.power is not None and row.lower is not None
        fresh = np.stack([_compare(rng, row.cases, row.rollouts).mean(axis=1) for _ in range(800)])
        passed = int((p_values(fresh, -0.5, **SCORES) <= 0.05).sum())
        assert exact_upper(passed, 800, 0.01) >= 0.8
        # And it asks for no more than it takes: a fifth fewer cases would not do.
        fewer = fresh[:, : int(0.8 * row.cases)]
        assert exact_lower(int((p_values(fewer, -0.5, **SCORES) <= 0.05).sum()), 800, 0.01) < 0.8


def test_the_power_told_is_met_again() -> None:
    pilot = _compare(np.random.default_rng(2), 60, 3)
    for method in ("gaffke", "bernstein", "t"):
        (row,) = _plan(pilot, method=method, rollouts=(2,))
        assert row.cases is not None and row.power is not None and row.lower is not None
        assert row.power >= 0.8 and row.power - 0.05 < row.lower < row.power
        drawn = read_pilot(pilot, **SCORES).draw(np.random.default_rng(9), 3000, row.cases, 2)
        again = (p_values(drawn, -0.5, **SCORES, method=method) <= 0.05).mean()
        # Four standard errors of a share of 0.8 in the 1,600 draws behind the plan's and in these 3,000.
        assert again == pytest.approx(row.power, abs=0.05)
        assert row.cases_t is not None and row.cases_t <= row.cases


def test_rollouts_cut_the_spread_within_cases_only() -> None:
    rng = np.random.default_rng(3)
    pilot = read_pilot(_compare(rng, 4000, 2), **SCORES)
    for rollouts in (1, 2, 6):
        drawn = pilot.draw(rng, 200, 500, rollouts)
        # Over other seeds the mean varies by 0.003 at most, the variance by 2 % to 5 % of itself.
        assert drawn.mean() == pytest.approx(0, abs=0.01)
        assert drawn.var() == pytest.approx(BETWEEN + WITHIN / rollouts, rel=0.08)
    cases = [row.cases for row in _plan(_compare(rng, 400, 3))]
    assert all(cases) and cases == sorted(cases, reverse=True) and len(set(cases)) == 4  # type: ignore[type-var]
    kept = np.repeat(rng.choice([-1.0, 0.0, 1.0], size=(200, 1)), 3, axis=1)
    one, eight = _plan(kept, rollouts=(1, 8))
    assert one.cases is not None and eight.cases is not None
    assert eight.cases == pytest.approx(one.cases, rel=0.15)  # nothing varies within a case


def test_a_change_in_the_pilot_is_taken_out_and_values_stay_in_range() -> None:
    rng = np.random.default_rng(4)
    pilot = np.clip(_compare(rng, 80, 4) - 1.6, -3, 3)
    for change in (0.0, -0.5):
        drawn = read_pilot(pilot, **SCORES, change=change).draw(rng, 2000, 80, 3)
        assert drawn.mean() == pytest.approx(change, abs=0.005)  # four times what other seeds vary by
        assert drawn.min() >= -3 and drawn.max() <= 3


def test_a_true_drop_of_the_margin_passes_no_more_often_than_the_level() -> None:
    pilot = _compare(np.random.default_rng(5), 100, 3)
    worse, better = (
        p_values(
            read_pilot(pilot, **SCORES, change=change).draw(np.random.default_rng(1), draws, 60, 2), -0.5, **SCORES
        )
        for change, draws in ((-0.5, 4000), (0.3, 400))
    )
    assert exact_upper(int((worse <= 0.05).sum()), 4000, 0.05) <= 0.055
    assert (better <= 0.05).mean() > 0.95


def test_one_rollout_a_case_plans_one_rollout_and_says_why() -> None:
    rng = np.random.default_rng(6)
    for pilot in (_compare(rng, 50, 1), _compare(rng, 50, 1)[:, 0]):
        (row,) = _plan(pilot)
        assert row.rollouts == 1 and row.cases is not None and "one rollout" in row.note


def test_missing_rollouts_are_left_out() -> None:
    rng = np.random.default_rng(7)
    full = _compare(rng, 3000, 3)
    holes = full.copy()
    holes[:1000, 1] = np.nan
    holes[:200, 2] = np.nan  # one rollout left: says nothing of rollouts
    holes[-5:] = np.nan  # nothing left
    pilot = read_pilot(holes, **SCORES)
    assert pilot.repeated and len(pilot.values) == 3000 - 205
    # Over other seeds the variance varies by 1.6 % of itself.
    assert pilot.draw(rng, 300, 300, 1).var() == pytest.approx(BETWEEN + WITHIN, rel=0.08)


def test_a_margin_that_no_number_of_cases_meets_gives_none() -> None:
    (row,) = _plan(_compare(np.random.default_rng(8), 40, 2), margin=0.002, rollouts=(1,))
    assert (row.cases, row.power, row.lower, row.cases_t) == (None, None, None, None)


def test_smaller_margins_and_more_power_need_more_cases() -> None:
    pilot = _compare(np.random.default_rng(9), 60, 2)

    def cases(**settings: Any) -> int:
        found = _plan(pilot, rollouts=(2,), **settings)[0].cases
        assert found is not None
        return found

    assert cases(margin=0.8) < cases() < cases(margin=0.3)
    assert cases() < cases(power=0.95)
    assert cases() < cases(alpha=0.01)


def test_equal_seeds_give_equal_plans() -> None:
    pilot = _compare(np.random.default_rng(10), 30, 2)
    assert _plan(pilot, 3, rollouts=(2,)) == _plan(pilot, 3, rollouts=(2,))


@pytest.mark.parametrize(
    ("pilot", "says"),
    [
        (np.zeros((1, 4)), "at least 2 scored cases, found 1"),
        (np.array([[1.0, 0.0], [np.nan, np.nan]]), "at least 2 scored cases, found 1"),
        (np.full((9, 3), 0.5), "all values of the pilot are equal"),
        (np.array([[0.0], [4.0]]), "outside -3 to 3"),
    ],
)
def test_a_pilot_that_tells_nothing_is_refused(pilot: Floats, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _plan(pilot)
