"""What second stages take for what they give, of scores whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.scored_study import checkpoint, expected, write_study

from holdfast.analysis import analyze
from holdfast.analysis.second_stage import (
    NO_KL,
    NOT_RISEN,
    SHARE,
    UNMEASURED,
    Distance,
    _at_matched,
    _follow,
    _rate,
)
from holdfast.records import Analysis, Checkpoint, Estimate, StageRecord, Unbounded, content_id
from holdfast.report.draw.rows import draw_forest
from holdfast.report.sections.second_stage import describe_second_stages
from holdfast.report.sections.table import make_texts
from holdfast.stats.contrasts import Spread, sample_of, spread

BASES, SEEDS, TESTS = ("tiny-0", "tiny-1"), (0, 1, 2), 60
RATE = 0.5  # safety that a stage on rewards loses for a point of helpfulness; one on pairs loses 1

PACES = {("S", "R"): 2.0, ("S", "H"): 0.5}  # nats of a dose


def rewarded(base: str, seed: int, dose: float) -> Checkpoint:
    """A checkpoint of S and a stage that the judge of pairs rewards for helpfulness."""
    first = checkpoint(base, ("S",), 1, seed)
    settings = {"objective": "helpfulness", "reward": "objective", "pair_judge": "state"}
    stage = StageRecord(name="R", method="grpo", objectives=("helpfulness",), settings=settings, steps=60)
    parts = {"stages": (*first.stages, stage), "axes": {"dose": dose}, "parent_id": first.id}
    return replace(first, id=content_id(base, "S,R", seed, dose), **parts)


def checkpoints(*, alone: bool = True, bases: tuple[str, ...] = BASES) -> list[Checkpoint]:
    lineages: dict[tuple[str, ...], tuple[int, ...]] = {("S",): (1,), ("S", "H"): (1, 4)}
    lineages |= {("H",): (1,)} if alone else {}
    found = [checkpoint(base, (), 0, None) for base in bases]
    for base in bases:
        for seed in SEEDS:
            found += [checkpoint(base, one, dose, seed) for one, doses in lineages.items() for dose in doses]
            found += [rewarded(base, seed, dose) for dose in (0.5, 1)]
    return found


def truth(one: Checkpoint, objective: str) -> float:
    if one.lineage == ("S", "R"):
        gain = 0.8 * one.axes["dose"]
        return 2.2 - RATE * gain if objective == "safety" else 1.4 + gain
    if one.lineage == ("S", "H"):
        gain = 0.35 * one.axes["dose"]
        return 2.2 - gain if objective == "safety" else 1.4 + gain
    return expected(one, objective)


def measured(points: list[Checkpoint]) -> dict[str, dict[str, float]]:
    """What rollout steps say of the KL: nats in proportion to the dose."""
    found = {}
    for one in points:
        pace = PACES.get(one.lineage)
        if pace is not None:
            kl = pace * one.axes["dose"] + 0.05 * float(one.train_seed or 0)
            found[one.id] = {"kl_parent": kl, "kl_parent_se": 0.05, "kl_episodes": 70.0}
    return found


def play(path: Path, points: list[Checkpoint], measures: Mapping[str, Mapping[str, float]]) -> Analysis:
    def score(one: Checkpoint, objective: str, rng: np.random.Generator) -> float:
        return float(np.clip(np.floor(truth(one, objective) + rng.random()), 0, 3))

    with write_study(path, points, tests=TESTS, score=score) as store:
        return analyze(store, draws=100, measures=measures)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    points = checkpoints()
    return play(tmp_path_factory.mktemp("second") / "run", points, measured(points))


def row(analysis: Analysis, kind: str, lineage: tuple[str, ...], dose: float = 1, claim: str = "recipe") -> Estimate:
    about: dict[str, Any] = {"kind": kind, "lineage": lineage, "axes": {"dose": dose}, "claim": claim, "base": None}
    (one,) = [one for one in analysis.second_stage if all(getattr(one, key) == it for key, it in about.items())]
    return one


def interval(one: Estimate) -> tuple[float, float]:
    assert isinstance(one.interval, tuple)
    return one.interval


@pytest.mark.parametrize("claim", ["checkpoint", "recipe"])
@pytest.mark.parametrize(
    ("lineage", "dose", "rate"), [(("S", "R"), 1, RATE), (("S", "R"), 0.5, RATE), (("S", "H"), 4, 1)]
)
def test_rates_are_of_what_is_lost_gained_and_moved(
    found: Analysis, lineage: tuple[str, ...], dose: float, rate: float, claim: str
) -> None:
    lost, gained, per_gain, kl, per_nat = (
        row(found, kind, lineage, dose, claim) for kind in ("lost", "gained", "lost_per_gain", "kl", "lost_per_nat")
    )
    assert None not in (lost.value, gained.value, per_gain.value, kl.value, per_nat.value)
    assert per_gain.value == pytest.approx(lost.value / gained.value) and interval(per_gain)[0] < rate
    assert rate < interval(per_gain)[1] and (lost.objective, gained.objective) == ("safety", "helpfulness")
    assert kl.value == pytest.approx(PACES[lineage] * dose + 0.05)
    assert per_nat.value == pytest.approx(lost.value / kl.value)
    # The widest quotient of values within both intervals.
    (low, high), (near, far) = interval(lost), interval(kl)
    assert interval(per_nat) == pytest.approx((low / (far if low >= 0 else near), high / near))
    if claim == "recipe":
        inside = interval(row(found, "kl", lineage, dose, "checkpoint"))
        assert near < inside[0] < inside[1] < far
    # The same number as what the second stage took among the rows of persistence, or of doses.
    rows = [one for one in (*found.persistence, *found.dose) if one.kind == "erosion" and one.lineage == lineage]
    rows = [one for one in rows if one.objective == "safety" and one.claim == claim and one.base is None]
    for told in rows:
        if told.axes.get("dose", 1) == dose:
            assert told.value == pytest.approx(-lost.value) and interval(told) == pytest.approx((-high, -low))


def test_the_first_dose_of_a_stage_on_rewards_is_the_whole_of_it(found: Analysis) -> None:
    (erosion,) = [
        one
        for one in found.persistence
        if one.kind == "erosion" and one.lineage == ("S", "R") and one.claim == "recipe" and one.base is None
    ]
    assert erosion.value == pytest.approx(-RATE * 0.8, abs=0.1)  # and not half of it
    assert not [
        one for one in found.persistence if one.lineage == ("S", "R") and one.kind == "retained" and not one.caveats
    ]


@pytest.mark.parametrize(("guide", "nats"), [("gain", False), ("kl", True)])
@pytest.mark.parametrize("claim", ["checkpoint", "recipe"])
def test_rewards_are_held_against_pairs_where_both_are_alike(
    found: Analysis, guide: str, nats: bool, claim: str
) -> None:
    def matched(kind: str) -> dict[tuple[str, ...], Estimate]:
        rows = [one for one in found.second_stage if one.kind == kind and one.base is None and one.claim == claim]
        return {one.lineage or (): one for one in rows}

    lost, (change,) = matched(f"lost_at_{guide}"), matched(f"lost_at_{guide}_change").values()
    assert set(lost) == {("S", "R"), ("S", "H")} and change.lineage == ("S", "R") and change.unit == "against S,H"
    level = float(change.axes["level"])
    last = row(found, "kl" if nats else "gained", ("S", "R"), 1, claim).value or 0
    assert level == pytest.approx(SHARE * last, rel=0.01)  # which reaches less far than the other
    # Everything rises in proportion to the dose: at the level each has lost its rate times what the level is.
    paces = {("S", "R"): RATE * (0.4 if nats else 1), ("S", "H"): 0.35 / 0.5 if nats else 1.0}
    for lineage, one in lost.items():
        assert one.axes == change.axes
        assert interval(one)[0] < paces[lineage] * level < interval(one)[1]
    assert change.value == pytest.approx((lost["S", "R"].value or 0) - (lost["S", "H"].value or 0))
    truth_of_change = (paces["S", "R"] - paces["S", "H"]) * level
    assert interval(change)[0] < truth_of_change < interval(change)[1] < 0.1


def test_it_is_told_in_words(found: Analysis) -> None:
    words = describe_second_stages(found)
    assert len(words) == 2 and all(one.startswith("S→R against S,H, at ") for one in words)
    assert "points gained: of safety S→R lost 0." in words[0] and "nats from the start" in words[1]
    assert words[1].endswith("rewards take less")
    (text,) = [one for one in make_texts(found, 200) if one.startswith("The second stage")]
    assert "S→R" in text and "S→H" in text and "rewards take less" in text
    # A rate is no persistence, which has an axis of its own.
    drawn = draw_forest([row(found, "lost_per_gain", ("S", "R"))])
    assert "lost per point gained" in drawn and "like the first" not in drawn


def test_what_was_not_measured_is_not_known(tmp_path: Path) -> None:
    points = checkpoints(alone=False, bases=BASES[:1])
    analysis = play(tmp_path / "run", points, {})
    one = row(analysis, "lost_per_nat", ("S", "R"))
    assert one.value is None and one.interval is None and UNMEASURED in one.caveats
    (change,) = [
        one for one in analysis.second_stage if one.kind == "lost_at_kl_change" and one.base is None and not one.beside
    ][:1]
    assert change.value is None and UNMEASURED in change.caveats
    # Without the second stage alone there is no persistence, and each number still stands once.
    erosion = [one for one in analysis.persistence if one.kind == "erosion" and one.lineage == ("S", "R")]
    assert len(erosion) == len({(one.claim, one.base, str(one.axes)) for one in erosion}) > 0
    held = [one for one in analysis.persistence if one.kind == "retained" and one.lineage == ("S", "R")]
    assert held and all("held against the base" in " ".join(one.caveats) for one in held)


def test_a_study_without_such_rewards_has_no_such_rows(tmp_path: Path) -> None:
    points = [one for one in checkpoints(bases=BASES[:1]) if one.lineage != ("S", "R")]
    assert play(tmp_path / "run", points, measured(points)).second_stage == ()


def contrasts(gains: tuple[float, float], cases: int, rng: np.random.Generator) -> Spread:
    """Lost and gained of two stages, whose true rates are 0.5 and 1; all share their start and their cases."""
    ease = rng.normal(0, 0.2, cases)
    means = [(2.2, 1.2), (2.2 - 0.5 * gains[0], 1.2 + gains[0]), (2.2 - gains[1], 1.2 + gains[1])]
    rows = [[level + ease + rng.normal(0, 0.2, cases) for level in both] for both in means]
    weights = np.zeros((4, 6))
    for place, after in enumerate((1, 2)):
        weights[2 * place, [0, 2 * after]] = 1, -1
        weights[2 * place + 1, [1, 2 * after + 1]] = -1, 1
    return spread(sample_of(np.array(rows).reshape(6, cases), (0.0, 3.0)), weights)


RIVALS = ((("S", "R"), ()),), ((("S", "H"), ()),)


def test_a_rate_over_nothing_is_not_identified() -> None:
    rng = np.random.default_rng(1)
    flat = contrasts((-0.5, 0.5), 60, rng)
    ((kind, _, _, level, rate),) = _at_matched(_follow(flat, None, "checkpoint", 1), "gain", *RIVALS, "checkpoint")
    assert (kind, level, rate) == ("lost_at_gain_change", None, (None, None, (NOT_RISEN,)))
    near = Distance(value=0.1, limits={"checkpoint": (-0.1, 0.3)})
    assert _rate(flat, 0, near, "checkpoint") == (None, Unbounded.UNBOUNDED, (NO_KL,))


@pytest.mark.full
def test_intervals_hold_as_often_as_they_say() -> None:
    """Of a difference at matched gain and at matched KL, and of a rate per nat."""
    rng = np.random.default_rng(3)
    held = np.zeros(3)
    draws, cases = 400, 100
    for _ in range(draws):
        found = contrasts((0.6, 0.5), cases, rng)
        moved = []
        for nats in (1.5, 1.0):
            ratios = rng.normal(nats, 1.0, cases)
            mean, half = float(ratios.mean()), 2.0 * float(ratios.std(ddof=1)) / np.sqrt(cases)
            moved.append(Distance(value=mean, limits={"checkpoint": (mean - half, mean + half)}))
        for place, distances in enumerate((None, moved)):
            ways = _follow(found, distances, "checkpoint", 1)
            *_, (_, _, _, level, (_, shown, _)) = _at_matched(ways, "kl", *RIVALS, "checkpoint")
            assert isinstance(shown, tuple) and level is not None
            true = -0.5 * level if distances is None else (0.3 / 1.5 - 0.5 / 1.0) * level
            held[place] += shown[0] <= true <= shown[1]
        _, ends, _ = _rate(found, 0, moved[0], "checkpoint")
        assert isinstance(ends, tuple)
        held[2] += ends[0] <= 0.3 / 1.5 <= ends[1]
    # Limits over cases leave room for rare large losses, so that they hold more often than they must.
    assert held.min() / draws > 0.94
