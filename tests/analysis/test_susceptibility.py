"""Susceptibility: every row on hand-made numbers, what is measurable, and intervals that hold the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import a04_implicit as worlds
from audits import a08_small as small
from builders.pressure_samples import Place, Scorer, make_checkpoint, write_pressure

from holdfast.analysis.pressure.susceptibility import (
    CHOSEN_BY_THE_SAME,
    MEASURABLE,
    NO_TWINS,
    NOT_MEASURABLE,
    OF_CHOSEN,
    susceptibility_rows,
)
from holdfast.analysis.pressure.taxonomy import taxonomy_rows
from holdfast.analysis.pressure.variants import read_source
from holdfast.records import Checkpoint, Estimate
from holdfast.stats.clusters import interaction, interval_of, mean_statistic, pool, share_interval

BASE = make_checkpoint()


def find(rows: Sequence[Estimate], kind: str, lineage: tuple[str, ...] = (), **axes: object) -> Estimate:
    """The one checkpoint row of a kind, of a lineage, with exactly these axes."""
    (found,) = (
        row
        for row in rows
        if row.kind == kind
        and row.lineage == lineage
        and dict(row.axes) == axes
        and row.claim == "checkpoint"
        and (lineage == () or row.unit != "against base" or len(lineage) == 1)
    )
    return found


def by_share(shares: Callable[[Checkpoint, str, str, int], float], rollouts: int = 2) -> Scorer:
    """Scores of 0 in the first share of a case's rollouts, of a case met again the last, and 3 in the others."""

    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        kind, form, number, rollout = place
        place = rollouts - 1 - rollout if kind == "control" else rollout
        unsafe = place < round(shares(checkpoint, kind, form, number) * rollouts)
        return {"safety": 0.0 if unsafe else 3.0, "helpfulness": 2.0}

    return score


def test_rows_on_numbers_computed_by_hand(tmp_path: Path) -> None:
    """6 hazardous cases. Clean: the base is unsafe on case 0 once of two, S on none. Attacked: see the table."""
    attacked = {(): (1, 1, 1, 0.5, 0.5, 0.5), ("S",): (1, 0.5, 0.5, 0, 0, 0)}

    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        if kind == "attack":
            return attacked[checkpoint.lineage][number]
        return 0.5 if not checkpoint.lineage and number == 0 and kind in ("test", "control") else 0.0

    def idle(checkpoint: Checkpoint, place: Place) -> bool:
        return place[0] == "twin" and bool(checkpoint.lineage) and place[2] == 6

    store = write_pressure(tmp_path / "run", [BASE, make_checkpoint("S", dose=1)], by_share(shares), idle=idle)
    with store:
        rows = list(susceptibility_rows(read_source(store)))
    child: dict[str, Any] = {"lineage": ("S",), "dose": 1}
    assert find(rows, "unsafe_attacked", form="authority").value == pytest.approx(4.5 / 6)
    assert find(rows, "unsafe_attacked", **child, form="authority").value == pytest.approx(2 / 6)
    assert find(rows, "unsafe_clean").value == pytest.approx(0.5 / 6)
    assert find(rows, "attack_effect", form="authority").value == pytest.approx(4 / 6)
    assert find(rows, "positive_control", form="authority").unit == MEASURABLE
    # Case 0 is not clean-safe at the base: cases 1 … 5 change by −.5, −.5, −.5, −.5, −.5.
    implicit = find(rows, "implicit", **child, form="authority")
    assert implicit.value == pytest.approx(-0.5) and implicit.unit == "against base" and implicit.n["cases"] == 5
    # Half a case on either side of six: (2.5/4.5)/(0.5/6.5) over (5/2)/(1/6).
    expected = math.log(2.5 / 4.5) - math.log(0.5 / 6.5) - math.log(5 / 2) + math.log(1 / 6)
    assert find(rows, "interaction", **child, form="authority").value == pytest.approx(expected)
    assert find(rows, "twin_refusal", **child, form="authority").value == pytest.approx(1 / 4)
    assert find(rows, "twin_refusal", form="authority").value == 0
    assert find(rows, "twin_helpfulness", form="authority").value == pytest.approx(2.0)
    # Pooled rows take the base's second episodes: 1, 1, 1, 0, 0, 0 attacked, and clean the unsafe one.
    assert find(rows, "implicit", **child).value == pytest.approx(-1 / 5)
    assert find(rows, "attack_effect").value == pytest.approx(2 / 6)
    assert all(row.judge == "state" and row.base == "tiny-0" and row.estimator == "paired" for row in rows)


def test_clean_safety_is_decided_by_other_episodes_than_attacks_and_controls(tmp_path: Path) -> None:
    """A case that is unsafe in the control alone stays; one that is unsafe among the held-out episodes goes."""

    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        if kind == "attack":
            return 1.0 if number > 0 else 0.0
        return float((kind, number) in (("control", 1), ("test", 0)))

    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("H")], by_share(shares)) as store:
        rows = list(susceptibility_rows(read_source(store)))
    # Case 0, which lacks the effect, is out by its held-out episodes: what is left is 5 cases without change.
    implicit = find(rows, "implicit", ("H",), form="authority")
    assert (implicit.value, implicit.n["cases"]) == (0.0, 5)


def test_a_form_without_an_effect_before_any_stage_is_left_out_and_named(tmp_path: Path) -> None:
    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        if kind != "attack":
            return 0.0
        if form == "weak":
            return 1.0 if checkpoint.lineage else 0.0
        return 0.5

    run = tmp_path / "run"
    with write_pressure(run, [BASE, make_checkpoint("H")], by_share(shares), forms=("strong", "weak")) as store:
        rows = list(susceptibility_rows(read_source(store)))
    assert find(rows, "positive_control", form="strong").unit == MEASURABLE
    assert find(rows, "positive_control", form="weak").unit == NOT_MEASURABLE
    pooled = find(rows, "unsafe_attacked", ("H",))
    assert pooled.value == 0.5 and any("weak" in caveat for caveat in pooled.caveats)
    alone = find(rows, "unsafe_attacked", ("H",), form="weak")
    assert alone.value == 1.0 and any(NOT_MEASURABLE in caveat for caveat in alone.caveats)


def test_without_any_measurable_form_nothing_is_pooled(tmp_path: Path) -> None:
    scorer = by_share(lambda *place: 0.0)
    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("H")], scorer, harmless=0) as store:
        rows = list(susceptibility_rows(read_source(store)))
    pooled = find(rows, "implicit", ("H",))
    assert pooled.value is None and pooled.interval is None and any("authority" in one for one in pooled.caveats)
    twin = find(rows, "twin_helpfulness", ("H",), form="authority")
    assert twin.value is None and NO_TWINS in twin.caveats


def test_missing_scores_are_no_zeros_and_other_judges_stand_apart(tmp_path: Path) -> None:
    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        kind, _, number, rollout = place
        if rollout == 1 or (kind == "attack" and number == 5):
            return {"safety": None, "helpfulness": None}
        return {"safety": 0.0 if kind == "attack" else 3.0, "helpfulness": 2.0}

    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("S")], score, judge="reader") as store:
        rows = list(susceptibility_rows(read_source(store)))
    attacked = find(rows, "unsafe_attacked", ("S",), form="authority")
    assert attacked.value == 1.0 and attacked.n["cases"] == 5 and attacked.judge == "reader"


def test_seeds_are_averaged_and_widen_the_recipe(tmp_path: Path) -> None:
    children = [make_checkpoint("H", seed=seed) for seed in range(3)]

    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        if kind != "attack":
            return 0.0
        return (0.25, 0.5, 0.75)[checkpoint.train_seed or 0] if checkpoint.lineage else 0.5

    with write_pressure(tmp_path / "run", [BASE, *children], by_share(shares, 4), rollouts=4) as store:
        rows = list(susceptibility_rows(read_source(store)))
    one = [row for row in rows if row.kind == "implicit" and row.axes.get("form") == "authority"]
    checkpoint, recipe = (next(row for row in one if row.claim == claim) for claim in ("checkpoint", "recipe"))
    assert checkpoint.value == recipe.value == pytest.approx(0.0)
    assert checkpoint.n == recipe.n == {"cases": 6, "seeds": 3, "runs": 3}
    assert isinstance(recipe.interval, tuple) and isinstance(checkpoint.interval, tuple)
    # The cases do not vary, but for the two that are added at ±2: t(5) = 2.5706 times √8 / 8.
    cases = 2.57058 * math.sqrt(8) / 8
    assert checkpoint.interval == pytest.approx((-cases, cases), rel=5e-6)  # t has six digits
    # t(2) = 4.3027 times the standard error of −.25, 0, .25.
    assert recipe.interval[1] == pytest.approx(math.hypot(4.30265 * 0.25 / math.sqrt(3), cases), rel=5e-6)
    assert recipe.resampled == ("cases", "seeds")


def test_a_second_stage_is_held_against_its_parent_and_its_base(tmp_path: Path) -> None:
    level = {(): 0.5, ("S",): 0.0, ("S", "H"): 0.5}

    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        return level[checkpoint.lineage] if kind == "attack" else 0.0

    runs = [BASE, make_checkpoint("S"), make_checkpoint("S", "H")]
    with write_pressure(tmp_path / "run", runs, by_share(shares)) as store:
        rows = list(susceptibility_rows(read_source(store)))
    found = {row.unit: row.value for row in rows if row.kind == "implicit" and row.lineage == ("S", "H")}
    assert found == {"against S": 0.5, "against base": 0.0}


def test_two_bases_stand_alone_and_together(tmp_path: Path) -> None:
    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        return (1.0 if checkpoint.base == "tiny-0" else 0.5) if kind == "attack" else 0.0

    runs = [make_checkpoint(base=base) for base in ("tiny-0", "tiny-1")]
    with write_pressure(tmp_path / "run", runs, by_share(shares)) as store:
        rows = list(susceptibility_rows(read_source(store)))
    attacked = {row.base: row.value for row in rows if row.kind == "unsafe_attacked" and "form" in row.axes}
    assert attacked == {None: 0.75, "tiny-0": 1.0, "tiny-1": 0.5}


def test_a_run_without_attacks_has_no_rows(tmp_path: Path) -> None:
    with write_pressure(tmp_path / "run", [BASE], by_share(lambda *place: 0.0), forms=()) as store:
        assert list(susceptibility_rows(read_source(store))) == []


# --- estimands and intervals --------------------------------------------------------------------------------------


def logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def draw(rng: np.random.Generator, logits: Sequence[float], cases: int, rollouts: int, spread: float) -> np.ndarray:
    """(arms, cases) shares of unsafe episodes; a case's own logit is shared by all arms."""
    own = rng.normal(0, spread, cases)
    return rng.binomial(rollouts, logistic(np.asarray(logits)[:, None] + own)) / rollouts


def test_the_difference_falls_where_clean_conduct_gets_worse_and_the_interaction_does_not() -> None:
    """Pressure adds two logits before and after; the child is worse on clean cases by two and a half."""
    rng = np.random.default_rng(3)
    child_attacked, child_clean, parent_attacked, parent_clean = (3.5, 1.5, 1.0, -1.0)
    cells = draw(rng, (child_attacked, child_clean, parent_attacked, parent_clean), 20_000, 2, 0.0)
    share = cells.mean(axis=1)
    naive = (share[0] - share[1]) - (share[2] - share[3])
    assert naive < -0.25
    # Four standard errors of a difference of log odds, of four times 40,000 episodes.
    assert abs(interaction(cells).value) < 0.15


def coverage(logits: Sequence[float], *, cases: int, rollouts: int, spread: float, draws: int, seed: int) -> float:
    """The share of simulated studies whose interval of the interaction holds its true value."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, spread, 200_000)
    marginal = [float(logistic(logit + own).mean()) for logit in logits]
    odds = [math.log(share / (1 - share)) for share in marginal]
    truth = odds[0] - odds[1] - odds[2] + odds[3]
    held = 0
    for _ in range(draws):
        interval = interval_of(pool([interaction(draw(rng, logits, cases, rollouts, spread))], [0]))
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    return held / draws


WORLDS = [
    pytest.param((0.0, -1.4, 0.0, -1.4), 60, 2, 0.0, id="no interaction"),
    pytest.param((0.4, -0.8, -0.8, -2.2), 60, 2, 1.5, id="cases that differ"),
    pytest.param((-0.8, -3.5, -1.4, -3.5), 60, 2, 1.0, id="rare clean harm"),
    pytest.param((0.0, -1.4, -0.4, -1.4), 20, 2, 1.0, id="few cases"),
]


@pytest.mark.parametrize(("logits", "cases", "rollouts", "spread"), WORLDS)
def test_the_interval_of_the_interaction_holds_the_truth(
    logits: tuple[float, ...], cases: int, rollouts: int, spread: float
) -> None:
    # 400 draws at 95 % fall below 92.5 % once in a hundred.
    assert coverage(logits, cases=cases, rollouts=rollouts, spread=spread, draws=400, seed=11) >= 0.925


@pytest.mark.full
@pytest.mark.parametrize(("logits", "cases", "rollouts", "spread"), WORLDS)
def test_the_interval_of_the_interaction_holds_the_truth_at_length(
    logits: tuple[float, ...], cases: int, rollouts: int, spread: float
) -> None:
    assert coverage(logits, cases=cases, rollouts=rollouts, spread=spread, draws=6000, seed=12) >= 0.945


@pytest.mark.parametrize(("share", "spread", "cases"), [(0.01, 0.0, 60), (0.3, 2.0, 60), (0.02, 1.5, 20)])
def test_the_interval_of_a_share_holds_it(share: float, spread: float, cases: int) -> None:
    rng = np.random.default_rng(5)
    logit = math.log(share / (1 - share))
    truth = float(logistic(logit + rng.normal(0, spread, 200_000)).mean())
    held = 0
    for _ in range(400):
        found = pool([mean_statistic(draw(rng, (logit,), cases, 2, spread)[0])], [0])
        low, high = interval_of(found, share=True) or (1.0, 0.0)
        held += low <= truth <= high
    assert held / 400 >= 0.925


@pytest.mark.parametrize("share", [0.005, 0.03, 0.1])
def test_the_interval_of_a_rare_change_holds_it(share: float) -> None:
    """Differences of −1, 0 and 1 in 60 cases, most of them 0: a t interval of width zero would miss the truth."""
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(400):
        values = rng.choice([-1.0, 0.0, 1.0], 60, p=[share, 1 - 4 * share, 3 * share])
        low, high = interval_of(pool([mean_statistic(values)], [0]), span=(-1.0, 1.0)) or (1.0, 0.0)
        held += low <= 2 * share <= high
    assert held / 400 >= 0.925


def test_cases_that_are_all_alike_leave_an_interval() -> None:
    zero = interval_of(pool([mean_statistic(np.zeros(60))], [0]), span=(-1.0, 1.0))
    # t(59) = 2.0010, as many digits as are held, times √2 / 62, the two cases that are added.
    assert zero == pytest.approx((-2.0010 * math.sqrt(2) / 62, 2.0010 * math.sqrt(2) / 62), rel=2e-5)
    assert interval_of(pool([mean_statistic(np.full(2, 0.5))], [0]), span=(-1.0, 1.0)) == (-1.0, 1.0)
    one = interval_of(pool([mean_statistic(np.ones(60))], [0]), span=(-1.0, 1.0))
    assert one is not None and one[1] == 1.0 and 0.85 < one[0] < 0.95


@pytest.mark.parametrize("rollouts", [1, 2])
def test_forms_are_chosen_by_other_episodes_of_the_base_than_those_compared(tmp_path: Path, rollouts: int) -> None:
    """The base gives way in its first episodes only, by luck: with others at hand the child has not changed."""

    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        lucky = place[0] == "attack" and place[3] == 0 and not checkpoint.lineage
        return {"safety": 0.0 if lucky else 3.0, "helpfulness": 2.0}

    runs = [BASE, make_checkpoint("S"), make_checkpoint("S", "H")]
    with write_pressure(tmp_path / "run", runs, score, rollouts=rollouts) as store:
        source = read_source(store)
        rows, harm = list(susceptibility_rows(source)), list(taxonomy_rows(source))
    assert find(rows, "positive_control", form="authority").unit == MEASURABLE
    change, level = find(rows, "implicit", ("S",)), find(rows, "unsafe_attacked")
    (told,) = (
        row for row in harm if (row.kind, row.lineage, row.axes["failure"]) == ("harm_change", ("S",), "implicit")
    )
    by_the_same = [CHOSEN_BY_THE_SAME in row.caveats for row in (change, level, told)]
    assert (change.value, level.value, by_the_same) == (
        (-1.0, 1.0, [True] * 3) if rollouts == 1 else (0, 0, [False] * 3)
    )
    # Held against its parent, no episode of the base has a part in it.
    later = [row for row in rows if row.kind == "implicit" and row.unit == "against S" and not row.axes]
    assert [(row.value, CHOSEN_BY_THE_SAME in row.caveats) for row in later] == [(0.0, False)]


def test_no_harm_in_sixty_cases_is_not_harm_of_zero() -> None:
    low, high = share_interval(0.0, 0.0, 60)
    assert low == 0 and high == pytest.approx(4.0017 / 64.0017, rel=1e-3)
    assert share_interval(1.0, 0.0, 60)[0] == pytest.approx(1 - high)


def test_half_cases_count_as_the_usual_variance() -> None:
    """One episode a case, each cell's cases apart: Σ 1/(x + ½) + 1/(n − x + ½), but for n − 1."""
    rng = np.random.default_rng(0)
    counts, cases = (30, 4, 12, 0), 4000
    cells = np.zeros((4, cases))
    for row, count in enumerate(counts):
        cells[row, rng.choice(cases, count, replace=False)] = 1
    usual = sum(1 / (count + 0.5) + 1 / (cases - count + 0.5) for count in counts)
    assert pool([interaction(cells)], [0]).case == pytest.approx(usual, rel=1 / cases)


def test_runs_that_share_cases_are_paired_and_empty_ones_left_out() -> None:
    values = np.array([0.0, 1.0, 0.5, np.nan])
    rising, falling = mean_statistic(values), mean_statistic(1 - values)
    both = pool([rising, falling, mean_statistic(np.full(4, np.nan))], ["a", "b", "c"])
    assert (both.runs, both.seeds, both.cases) == (2, 2, 3)
    # What one run gains on a case the other loses: their mean does not vary over cases.
    assert both.case == pytest.approx(0.0, abs=1e-15) and both.value == pytest.approx(0.5)
    assert pool([mean_statistic(np.array([1.0]))], [0]).case is None


def test_forms_are_compared_where_both_checkpoints_have_scores(tmp_path: Path) -> None:
    """The child has no score under the strong form: the change is that under the weak one, not weak less the mean."""

    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        kind, form, number, rollout = place
        if kind != "attack":
            return {"safety": 3.0, "helpfulness": 2.0}
        if checkpoint.lineage and form == "strong":
            return {"safety": None, "helpfulness": None}
        weak = number < 3 if checkpoint.lineage else rollout < 2
        return {"safety": 0.0 if form == "strong" or weak else 3.0, "helpfulness": 2.0}

    run = tmp_path / "run"
    with write_pressure(run, [BASE, make_checkpoint("H")], score, forms=("strong", "weak"), rollouts=3) as store:
        source = read_source(store)
        rows, harm = list(susceptibility_rows(source)), list(taxonomy_rows(source))
    (change,) = (row for row in harm if row.kind == "harm_change" and row.axes["failure"] == "implicit")
    assert change.value == 0.0
    assert find(rows, "unsafe_attacked").value == 0.75 and find(rows, "unsafe_attacked", ("H",)).value == 0.5
    assert find(rows, "implicit", ("H",)).value == 0.0
    assert find(rows, "interaction", ("H",)).value == pytest.approx(0.0)
    assert find(rows, "implicit", ("H",), form="strong").value is None


def test_a_trained_checkpoint_counts_on_its_own_split(tmp_path: Path) -> None:
    """A case of another split's attacks is no case of this checkpoint, also where it met it."""
    scorer = by_share(lambda checkpoint, kind, form, number: float(kind == "attack"))
    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("H")], scorer) as store:
        mine = {case.id for case in store.cases() if case.messages[0].content in ("request 0", "request 1")}
        parts = store.splits()[0]
        store._db.execute("DELETE FROM splits")
        with store.transaction():
            store.add_split(0, {part: [one for one in ids if one in mine] for part, ids in parts.items()})
            store.add_split(1, {part: [one for one in ids if one not in mine] for part, ids in parts.items()})
        rows = list(susceptibility_rows(read_source(store)))
    assert find(rows, "unsafe_clean").n["cases"] == 6
    assert find(rows, "unsafe_clean", ("H",)).n["cases"] == 2 == find(rows, "implicit", ("H",)).n["cases"]


def test_a_change_of_shares_stays_within_its_bounds_and_few_cases_are_named(tmp_path: Path) -> None:
    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        if kind == "test":
            return float(number > 1)
        return float(kind == "attack" and (not checkpoint.lineage or number > 0))

    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("S")], by_share(shares)) as store:
        rows = list(susceptibility_rows(read_source(store)))
    # Two clean-safe cases, of which one changed by −1: a t interval alone would reach from −6.9 to 5.9.
    implicit = find(rows, "implicit", ("S",), form="authority")
    assert (implicit.value, implicit.interval, implicit.n["cases"]) == (-0.5, (-2.0, 2.0), 2)
    assert any("2 cases only" in caveat for caveat in implicit.caveats)
    assert implicit.caveats[0] == "cannot be told (2 cases)"


# --- plain harm is no pressure --------------------------------------------------------------------------------


def test_the_implicit_change_takes_off_what_its_cases_do_when_met_again_clean(tmp_path: Path) -> None:
    """Every case is safe when held out. The child is unsafe on four of six met again, and attacked on five."""

    def shares(checkpoint: Checkpoint, kind: str, form: str, number: int) -> float:
        bad = {"attack": 5 if checkpoint.lineage else 6, "control": 4 if checkpoint.lineage else 1}
        return float(number < bad.get(kind, 0))

    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("H")], by_share(shares)) as store:
        rows = list(susceptibility_rows(read_source(store)))
    values = {kind: find(rows, kind, ("H",), form="authority").value for kind in OF_CHOSEN}
    assert values == pytest.approx(
        {
            "implicit": (5 - 4) / 6 - (6 - 1) / 6,
            "implicit_attacked": -1 / 6,
            "implicit_clean": 3 / 6,
            "again_clean": 4 / 6,
            "again_clean_parent": 1 / 6,
        }
    )


def test_chosen_cases_that_were_not_met_again_are_counted_and_left_out(tmp_path: Path) -> None:
    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        kind, _, number, _ = place
        lost = kind == "control" and number < 2 and checkpoint.lineage == ("H",)
        return {"safety": None if lost else 0.0 if kind == "attack" else 3.0, "helpfulness": 2.0}

    with write_pressure(tmp_path / "run", [BASE, make_checkpoint("H")], score) as store:
        rows = list(susceptibility_rows(read_source(store)))
    implicit = find(rows, "implicit", ("H",), form="authority")
    assert implicit.n["cases"] == 4
    assert "2 of 6 chosen cases left out: not met again as they are by both" in implicit.caveats


# Twice the Monte-Carlo error of 40 studies, at 2.5 % on a side: three of 40.
@pytest.mark.parametrize("name", ["pressure does nothing, 2 held-out episodes", "pressure adds 1.5 logits to both"])
def test_plain_harm_is_not_called_easier_to_push(name: str) -> None:
    found = worlds.simulate(worlds.WORLDS[name], 40, 3)
    assert found.attacked_above >= 0.5  # what was printed as a finding
    assert max(found.easier, found.harder) <= 3 / 40
    if name.startswith(worlds.NOTHING):
        assert abs(found.value) < 3 * found.error
        assert found.one_side_checkpoint <= 3 / 40


def test_a_child_that_pressure_moves_more_is_called_easier_to_push() -> None:
    assert worlds.simulate(worlds.PUSHED, 20, 3).easier >= 0.5


def test_a_few_cases_make_no_finding_in_words_cells_or_counts() -> None:
    assert [row for row in small.measure(0.1) if not row.holds] == []
