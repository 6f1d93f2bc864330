"""Looking often: no false alarms beyond the level, drops caught in the time promised, streams without pairing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders.bounded_samples import exact_upper
from numpy.typing import NDArray

from holdfast.records.arrays import Floats
from holdfast.stats.bounded import exact_lower, order_cases, p_values
from holdfast.stats.power import gather
from holdfast.stats.sequential import WINDOWS, ChangeMonitor, Look, alarms, delay, spend

ALPHA = 0.05
SCORES: Any = {"low": -3.0, "high": 3.0}
WATCH: Any = {**SCORES, "alpha": ALPHA, "margin": 0.25}
CASES, ROLLOUTS = 72, 2
SHARES = np.array([0.12, 0.20, 0.25, 0.43])  # of the scores 0 to 3


def _draw(rng: np.random.Generator, easy: Floats, rollouts: int, worse: float = 0.0) -> Floats:
    """Mean scores of rollouts of easy and hard cases, with a true mean that is lower by ``worse`` in every case."""
    high = rng.random((*easy.shape, rollouts)) < easy[..., None]
    scores = np.where(high, 3.0, rng.choice(3, size=high.shape, p=[0.3, 0.3, 0.4]))
    # A share of the rollouts ends in what loses, on average, what is asked for: the true change is exact in every case.
    mean = 3.0 * easy + 1.1 * (1 - easy)
    spoiled = rng.random(high.shape) < (worse / mean)[..., None]
    return np.asarray(np.where(spoiled, 0.0, scores).mean(axis=-1))


def simulate(rng: np.random.Generator, runs: int, looks: int, *, worse: float = 0.0, before: int = 0) -> Floats:
    """Differences of all looks to one shared baseline, (runs, cases, looks): worse from look ``before`` on."""
    easy = rng.choice([0.2, 0.6, 0.95], size=(runs, CASES))
    baseline = _draw(rng, easy, ROLLOUTS)
    later = [_draw(rng, easy, ROLLOUTS, worse if look >= before else 0.0) - baseline for look in range(looks)]
    return np.stack(later, axis=2)


def _naive(differences: Floats) -> NDArray[np.bool_]:
    """A 5 % t test at every look."""
    looks = range(differences.shape[2])
    p = [p_values(differences[:, :, look], 0.0, **SCORES, side="less", method="t") for look in looks]
    return np.asarray(np.stack(p, axis=1) <= ALPHA)


def _upper(hits: NDArray[np.bool_]) -> float:
    """The upper 95 % Monte-Carlo limit of the share of runs with any hit."""
    return exact_upper(int(hits.any(axis=1).sum()), len(hits), 0.05)


def test_all_looks_together_spend_no_more_than_the_level() -> None:
    # One in 100,000 is left for later looks.
    assert sum(spend(look, ALPHA) for look in range(1, 100_000)) == pytest.approx(ALPHA, rel=2e-5)
    assert sum(spend(look, ALPHA) for look in range(1, 100_000)) < ALPHA
    assert spend(1, ALPHA) == ALPHA / 2
    with pytest.raises(ValueError, match="numbered from 1"):
        spend(0, ALPHA)


def test_a_thousand_unchanged_runs_alarm_no_more_often_than_the_level() -> None:
    """With no margin at all, which is the hardest: any upper bound below zero is a false alarm."""
    differences = simulate(np.random.default_rng(1), 1000, 20)
    assert _upper(alarms(differences, **SCORES, alpha=ALPHA, margin=0.0)) <= ALPHA
    naive = _naive(differences)
    assert exact_lower(int(naive[:, :5].any(axis=1).sum()), 1000, 0.05) > 0.10
    assert exact_lower(int(naive.any(axis=1).sum()), 1000, 0.05) > 0.16


def test_runs_that_sit_exactly_at_the_margin_alarm_no_more_often_than_the_level() -> None:
    differences = simulate(np.random.default_rng(2), 1000, 20, worse=0.25)
    assert differences.mean() == pytest.approx(-0.25, abs=0.008)  # four times what other seeds vary by
    assert _upper(alarms(differences, **WATCH)) <= ALPHA


@pytest.mark.full
@pytest.mark.parametrize("worse", [0.0, 0.25])
def test_fifty_looks_alarm_no_more_often_than_the_level(worse: float) -> None:
    rng = np.random.default_rng(3)
    found = np.concatenate(
        [alarms(simulate(rng, 500, 50, worse=worse), **SCORES, alpha=ALPHA, margin=worse) for _ in range(6)]
    )
    assert _upper(found) <= ALPHA


def _as_look(values: Floats, order: Any = None) -> dict[str, float]:
    places = range(len(values)) if order is None else order
    return {f"case {place}": float(values[place]) for place in places}


def _watch(run: Floats, **settings: Any) -> list[Look]:
    """A monitor's looks at one run, (cases, looks)."""
    monitor = ChangeMonitor(**{**WATCH, **settings})
    return [monitor.look(_as_look(run[:, look])) for look in range(run.shape[1])]


def _alarms(look: Look) -> bool:
    return any(window.alarm for window in look.windows)


def test_the_monitor_alarms_where_the_fast_simulation_does() -> None:
    rng = np.random.default_rng(4)
    runs = simulate(rng, 4, 9, worse=0.7, before=2)
    order = [int(name.split()[1]) for name in order_cases([f"case {place}" for place in range(CASES)])]
    fast = alarms(runs[:, order], **WATCH)
    for run, expected in zip(runs, fast, strict=True):
        assert [_alarms(look) for look in _watch(run)] == expected.tolist()
    assert fast.any() and not fast.all()


def test_a_look_says_what_it_saw() -> None:
    rng = np.random.default_rng(5)
    run = simulate(rng, 1, 9, worse=1.2, before=4)[0]
    looks = _watch(run)
    assert [tuple(window.looks for window in look.windows) for look in looks[:8:3]] == [(1,), (1, 2, 4), (1, 2, 4)]
    assert tuple(window.looks for window in looks[8].windows) == WINDOWS
    for number, look in enumerate(looks):
        newest = look.windows[0]
        assert newest.change == pytest.approx(run[:, number].mean())
        assert -3 <= newest.lower <= newest.change <= newest.upper <= 3
        assert look.level == spend(number + 1, ALPHA) and newest.cases == CASES
        for window in look.windows:
            assert window.change == pytest.approx(run[:, number + 1 - window.looks : number + 1].mean())
            assert window.alarm == (window.upper < -0.25) and window.warning == (window.upper < 0)
    assert not any(map(_alarms, looks[:4])) and _alarms(looks[-1])


def test_a_small_drop_is_a_warning_and_no_alarm() -> None:
    rng = np.random.default_rng(6)
    looks = _watch(simulate(rng, 1, 12, worse=0.45)[0], margin=0.6)
    assert any(window.warning for look in looks for window in look.windows) and not any(map(_alarms, looks))


def test_rollout_noise_averages_out_over_looks() -> None:
    """A drop that no single look can show is found by looking on."""
    rng = np.random.default_rng(7)
    easy = np.full((150, 300), 0.5)
    sharp = _draw(rng, easy, 60)  # a baseline with many rollouts: what is left is the looks' own noise
    runs = np.stack([_draw(rng, easy, 1, 0.4) - sharp for _ in range(12)], axis=2)
    windows = alarms(runs, **WATCH)
    alone = np.stack([p_values(runs[:, :, look], -0.25, **SCORES, side="less") for look in range(12)], axis=1)
    assert (alone <= [spend(look, ALPHA) for look in range(1, 13)])[:, 4:].mean() < 0.25
    assert windows[:, 4:].mean() > 0.5


def test_cases_that_a_look_lacks_are_left_out_of_its_windows() -> None:
    monitor = ChangeMonitor(**WATCH)
    monitor.look({"a": 0.0, "b": 1.0, "c": -1.0})
    second = monitor.look({"c": 1.0, "b": 0.0, "d": 3.0})
    assert [(window.looks, window.cases) for window in second.windows] == [(1, 3), (2, 2)]
    assert second.windows[1].change == pytest.approx(np.mean([0.5, 0.0]))
    assert [window.looks for window in monitor.look({"e": 1.0}).windows] == [1]
    with pytest.raises(ValueError, match="without any case"):
        monitor.look({})
    with pytest.raises(ValueError, match="outside the range"):
        monitor.look({"a": 3.5})


def test_the_order_in_which_cases_are_given_does_not_matter() -> None:
    rng = np.random.default_rng(8)
    run = simulate(rng, 1, 3)[0]
    one, two = ChangeMonitor(**WATCH), ChangeMonitor(**WATCH)
    for look in range(3):
        assert one.look(_as_look(run[:, look])) == two.look(_as_look(run[:, look], rng.permutation(CASES)))


def test_a_planted_drop_is_caught_in_the_time_and_share_promised() -> None:
    """The promise comes from the baseline's own rollouts; fresh runs of the real process keep it."""
    rng = np.random.default_rng(9)
    easy = rng.choice([0.2, 0.6, 0.95], size=400)
    scores = np.stack([_draw(rng, easy, 1) for _ in range(ROLLOUTS)], axis=1)
    baseline = gather(scores, low=0.0, high=3.0)
    first, *looks = (baseline.means(np.arange(len(scores)), ROLLOUTS, rng) for _ in range(7))
    pilot = np.stack([look - first for look in looks], axis=1)
    promised = delay(pilot[:CASES], 0.85, **WATCH, rng=rng)
    assert promised is not None and promised <= 12
    runs = simulate(rng, 600, 4 + promised)
    runs[:, :, 4:] = np.clip(runs[:, :, 4:] - 0.85, -3, 3)
    found = alarms(runs, **WATCH)
    caught = found[:, 4:].any(axis=1) & ~found[:, :4].any(axis=1)
    assert exact_upper(int(caught.sum()), 600, 0.01) >= 0.8
    assert _upper(found[:, :4]) <= ALPHA


def test_a_delay_grows_as_the_drop_shrinks_and_may_never_end() -> None:
    rng = np.random.default_rng(10)
    pilot = simulate(rng, 1, 4)[0]
    deep, shallow = (
        delay(pilot, drop, **WATCH, draws=100, horizon=10, rng=np.random.default_rng(1)) for drop in (2.0, 0.8)
    )
    assert deep is not None and shallow is not None and deep <= shallow
    assert delay(pilot, 0.25, **WATCH, draws=100, horizon=10, rng=rng) is None
    assert shallow == delay(pilot, 0.8, **WATCH, draws=100, horizon=10, rng=np.random.default_rng(1))
