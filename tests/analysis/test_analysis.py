"""Every estimate of a run: on a study with the shape of the embedded one, and on broken ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import scipy.stats
from builders.schemas import follows
from builders.scored_study import checkpoint, expected, quick_checkpoints, write_study

from holdfast.analysis import analyze, document, require_same_cases, schema
from holdfast.records import Analysis, Checkpoint, Estimate, Score, Unbounded
from holdfast.records.errors import StudyError
from holdfast.store import Store

SEEDS = (0, 1, 2)
BASES = ("tiny-0", "tiny-1")
DRAWS = 300


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("runs") / "quick"
    return write_study(path, quick_checkpoints(BASES, SEEDS), tests=40)


@pytest.fixture(scope="module")
def analysis(quick: Store) -> Analysis:
    measures = {
        one.id: {"kl_parent": 0.1 * one.axes["dose"] + 0.01 * (one.train_seed or 0), "kl_base": 0.2}
        for one in quick.checkpoints()
        if one.stages
    }
    return analyze(quick, draws=DRAWS, measures=measures)


def find(rows: tuple[Estimate, ...], **wanted: Any) -> list[Estimate]:
    """The rows with these fields; a field that is not given may be anything."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def one(rows: tuple[Estimate, ...], **wanted: Any) -> Estimate:
    pooled_over: dict[str, Any] = {"base": None, "judge": None}
    (found,) = find(rows, **(pooled_over | wanted))
    return found


def check_document(found: Analysis) -> dict[str, Any]:
    """The document is strict JSON and follows its schema."""
    made = document(found)
    json.dumps(made, allow_nan=False)
    follows(made, schema())
    return made


def test_the_document_follows_its_schema(analysis: Analysis) -> None:
    made = check_document(analysis)
    assert all(made[section] for section in ("scores", "persistence", "frontier", "deltas", "audit", "dose", "health"))
    assert made["frontiers"] and made["notes"]


def test_the_schema_itself_is_valid_and_refuses_what_it_should() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    good = document(Analysis(scores=(Estimate(kind="mean", estimator="pooled", value=1.0),)))
    for change in (
        {"value": None},
        {"interval": [1.0]},
        {"interval": {"kind": "wide"}},
        {"estimator": "mine"},
        {"x": 1},
    ):
        wrong = {**good["scores"][0], **change}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "scores": [wrong]}, schema())
        with pytest.raises(jsonschema.ValidationError):  # among many good rows too
            follows({**good, "scores": [*good["scores"] * 9, wrong, *good["scores"] * 9]}, schema())


def test_an_unbounded_set_is_written_as_such() -> None:
    row = Estimate(kind="persistence", estimator="pooled", value=1.0, interval=Unbounded.UNBOUNDED)
    made = check_document(Analysis(persistence=(row,)))
    assert made["persistence"][0]["interval"] == {"kind": "unbounded"}


def test_the_same_seed_gives_the_same_numbers(quick: Store) -> None:
    assert document(analyze(quick, draws=50, seed=3)) == document(analyze(quick, draws=50, seed=3))


def test_only_test_cases_count(quick: Store, analysis: Analysis) -> None:
    base = one(
        analysis.scores,
        estimator="published",
        kind="mean",
        objective="safety",
        base="tiny-0",
        lineage=(),
        n={"runs": 1},
    )
    table = quick.score_table()
    rows = (table.checkpoint == 0) & (table.objective == table.objectives.index("safety"))
    test = rows & (table.case < 40)
    assert rows.sum() > test.sum()
    assert base.value == pytest.approx(table.value[test].mean(), abs=1e-12)


def test_differences_find_the_truth_and_name_their_claim(analysis: Analysis) -> None:
    for objective, first, second in (("safety", "S", "H"), ("helpfulness", "H", "S")):
        stages = [checkpoint("tiny-0", lineage, 1, 0) for lineage in ((first,), (second,), (first, second))]
        alone, other, both = (expected(stage, objective) for stage in stages)
        truth = {"induced": alone - other, "erosion": both - alone, "retained": both - other}
        for kind, true in truth.items():
            for claim, resampled in (("checkpoint", ("cases",)), ("recipe", ("cases", "seeds"))):
                about = {"kind": kind, "objective": objective, "claim": claim, "unit": None}
                found = one(analysis.persistence, estimator="pooled", **about)
                assert isinstance(found.interval, tuple)
                assert found.resampled == resampled
                assert found.interval[0] - 0.05 < true < found.interval[1] + 0.05
                assert found.n["seeds"] == 3


def test_controls_stand_beside_erosion(analysis: Analysis) -> None:
    controls = find(analysis.persistence, kind="erosion_control", objective="safety", base=None, claim="checkpoint")
    assert {row.lineage for row in controls} == {("S", "S"), ("S", "N")}
    against = find(analysis.persistence, kind="erosion_vs_control", objective="safety", base=None, claim="checkpoint")
    assert {row.unit for row in against} == {"against S,S", "against S,N"}
    erosion = one(analysis.persistence, kind="erosion", objective="safety", claim="checkpoint", unit=None)
    for row in controls:
        (pair,) = [other for other in against if other.unit == f"against {','.join(row.lineage or ())}"]
        assert pair.value == pytest.approx((erosion.value or 0) - (row.value or 0), abs=1e-12)


def test_persistence_is_a_ratio_of_pooled_means(analysis: Analysis) -> None:
    pooled = {
        kind: one(
            analysis.persistence, estimator="pooled", kind=kind, objective="safety", claim="checkpoint", unit=None
        )
        for kind in ("retained", "induced", "persistence")
    }
    assert pooled["persistence"].value == pytest.approx(
        (pooled["retained"].value or 0) / (pooled["induced"].value or 1)
    )
    about = {"estimator": "published", "objective": "safety", "unit": None}
    published = one(analysis.persistence, **about)
    singles = [one(analysis.persistence, base=base, **about).value for base in BASES]
    assert published.value == pytest.approx(np.mean([value for value in singles if value is not None]))


def test_dose_rows_follow_the_dose(analysis: Analysis) -> None:
    rows = list(find(analysis.dose, kind="erosion", objective="safety", base=None, claim="checkpoint"))
    by_dose = {row.axes["dose"]: row.value or 0.0 for row in rows}
    assert set(by_dose) == {1, 2, 4}
    assert by_dose[1] > by_dose[2] > by_dose[4]
    measured = one(analysis.dose, kind="kl_parent", lineage=("S", "H"), axes={"dose": 4})
    assert measured.value == pytest.approx(0.41)
    assert measured.n == {"checkpoints": 6, "seeds": 3}
    assert measured.resampled == ("seeds",) and measured.claim == "recipe"
    half = float(scipy.stats.t.ppf(0.975, 2)) * 0.01 / np.sqrt(3)
    assert measured.interval == pytest.approx((0.41 - half, 0.41 + half))
    for dose in (1, 2, 4):
        about = {"lineage": ("H", "S"), "axes": {"dose": dose}}
        counted = {kind: one(analysis.dose, kind=kind, **about) for kind in ("steps", "pairs")}
        assert (counted["steps"].value, counted["pairs"].value) == (40 * dose, 1280 * dose)
        assert all(row.interval is None for row in counted.values())
        assert one(analysis.dose, kind="kl_base", **about).value == pytest.approx(0.2)


def test_a_dose_says_where_its_reference_has_another(analysis: Analysis) -> None:
    for dose in (1, 2, 4):
        row = one(analysis.dose, kind="persistence", objective="safety", base=None, claim="recipe", axes={"dose": dose})
        told = "against H alone at dose 1: the study keeps none at this dose"
        assert (told in row.caveats) is (dose != 1)


def test_degenerate_training_is_flagged_with_its_gate(analysis: Analysis) -> None:
    fired = {row.lineage: row for row in find(analysis.health, kind="degenerate", base="tiny-0") if row.value}
    assert set(fired) == {("H", "H"), ("S", "S")}
    assert "without a call" in fired["H", "H"].caveats[0]
    assert "mean length" in fired["S", "S"].caveats[0]


def test_audit_counts_and_bounds(analysis: Analysis) -> None:
    stopped = one(analysis.audit, kind="truncated", lineage=("S&H",), axes={"dose": 1}, unit="test evaluations")
    assert (stopped.n["count"], stopped.n["trajectories"]) == (2 * 3 * 16, 2 * 3 * 80)
    about = {"lineage": ("S&H",), "axes": {"dose": 1}, "objective": "safety", "estimator": "audit"}
    values = {
        kind: one(analysis.audit, kind=kind, **about).value for kind in ("mean_lower_bound", "mean", "mean_upper_bound")
    }
    low, mean, high = (value or 0.0 for value in values.values())
    assert low < mean < high
    assert high - low == pytest.approx(3 * 16 / 80)
    assert one(analysis.audit, kind="coverage", unit="fit", **about).value == pytest.approx(64 / 80)
    every = one(analysis.audit, kind="truncated", lineage=None, axes={}, unit="all records")
    tests = one(analysis.audit, kind="truncated", lineage=None, axes={}, unit="test evaluations")
    assert every.n["trajectories"] == tests.n["trajectories"] + 2 * 4 * 2


def test_frontiers_hold_points_with_covariances(analysis: Analysis) -> None:
    published, mean, *bases = analysis.frontiers
    assert published.relative and not mean.relative
    assert len(mean.points) == 6 and len(bases) == 2 and len(published.points) == 10
    assert published.resampled == ("cases",) and mean.resampled == ("cases", "seeds")
    assert all(point.covariance is not None and point.covariance[0] > 0 for point in published.points)
    for point in mean.points:
        assert point.covariance is not None and point.non_dominated is not None
        assert point.covariance[0] * point.covariance[2] >= point.covariance[1] ** 2
        assert 0 <= point.non_dominated <= 1
    assert {line.kind for line in mean.lines} == {"slope", "intercept"}


def test_covariance_of_published_points_is_that_of_case_differences(quick: Store, analysis: Analysis) -> None:
    table = quick.score_table()
    cases = np.arange(40)

    def by_case(lineage: tuple[str, ...], objective: str) -> np.ndarray:
        known = [(one.base, one.lineage, one.axes.get("dose", 1)) for one in table.checkpoints]
        wanted = [subject == ("tiny-1", lineage, 1) for subject in known]
        rows = np.array(wanted)[table.checkpoint] & (table.objective == table.objectives.index(objective))
        return np.array([table.value[rows & (table.case == case)].mean() for case in cases])

    for lineage in (("S",), ("S", "H")):
        (point,) = [one for one in analysis.frontiers[0].points if (one.base, one.lineage) == ("tiny-1", lineage)]
        x, y = (by_case(lineage, name) - by_case((), name) for name in ("helpfulness", "safety"))
        expected_covariance = np.cov(x, y) / len(cases)
        assert point.covariance == pytest.approx(expected_covariance[np.triu_indices(2)], abs=1e-12)


def test_best_of_both_is_named_before_looking(analysis: Analysis) -> None:
    named = one(analysis.frontier, kind="best_of_both", lineage=("S&H",), claim="checkpoint")
    assert not any("exploratory" in caveat for caveat in named.caveats)
    assert isinstance(named.interval, tuple) and named.interval[0] > 0
    for row in find(analysis.frontier, kind="best_of_both"):
        if row.base is not None or row.lineage != ("S&H",):
            assert any("exploratory" in caveat for caveat in row.caveats)


# --- bad input --------------------------------------------------------------------------------------------------

FEW = [("S",), ("H",), ("S", "H"), ("H", "S"), ("S&H",)]


def few(seeds: tuple[int, ...] = (0,)) -> list[Checkpoint]:
    return [checkpoint("tiny-0", (), 0, None)] + [checkpoint("tiny-0", one, 1, seed) for one in FEW for seed in seeds]


@pytest.mark.parametrize("tests", [0, 1, 2])
def test_few_cases_give_values_or_reasons(tmp_path: Path, tests: int) -> None:
    found = analyze(write_study(tmp_path / "run", few(SEEDS), tests=tests, rollouts=1), draws=50)
    check_document(found)
    if tests == 1:
        row = one(found.scores, kind="mean", estimator="pooled", objective="safety", lineage=("S",), claim="checkpoint")
        assert row.value is not None and row.interval is None
        assert any("fewer than 2 cases" in caveat for caveat in row.caveats)


def test_missing_scores_give_none_with_a_reason(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", few(SEEDS), tests=5, score=lambda *_: None)
    found = analyze(store, draws=50)
    check_document(found)
    rows = find(found.scores, kind="mean") + find(found.persistence, kind="persistence")
    assert rows and all(row.value is None and row.caveats for row in rows)
    upper = one(found.audit, kind="mean_upper_bound", lineage=("S",), objective="safety")
    assert upper.value == 3.0


def test_zero_variance_gives_points_and_no_division_by_zero(tmp_path: Path) -> None:
    found = analyze(write_study(tmp_path / "run", few(SEEDS), tests=5, score=lambda *_: 2.0), draws=50)
    check_document(found)
    for row in find(found.persistence, kind="persistence"):
        assert row.value is None and row.caveats
    for row in find(found.persistence, kind="erosion"):
        assert row.value == pytest.approx(0.0, abs=1e-12)
    assert all(row.value is None for row in find(found.frontier, kind="slope"))


def test_one_seed_gives_points_for_the_recipe(tmp_path: Path) -> None:
    found = analyze(write_study(tmp_path / "run", few(), tests=12), draws=50)
    check_document(found)
    row = one(found.persistence, kind="erosion", objective="safety", claim="recipe")
    assert row.value is not None and row.interval is None
    assert any("fewer than 3" in caveat for caveat in row.caveats)


def test_a_weak_gain_is_not_identified(tmp_path: Path) -> None:
    noise = write_study(tmp_path / "run", few(SEEDS), tests=12, score=lambda _, __, rng: float(rng.integers(0, 4)))
    found = analyze(noise, draws=50)
    check_document(found)
    row = one(found.persistence, estimator="pooled", kind="persistence", objective="safety", claim="checkpoint")
    assert row.value is None
    assert "cannot be told from zero" in row.caveats[0]
    assert row.interval is Unbounded.UNBOUNDED


def test_a_run_without_scores_gives_an_empty_document(tmp_path: Path) -> None:
    made = check_document(analyze(write_study(tmp_path / "run", [], tests=3), draws=50))
    assert made["scores"] == made["persistence"] == made["audit"] == []


def test_a_base_alone_has_scores_and_nothing_else(tmp_path: Path) -> None:
    found = analyze(write_study(tmp_path / "run", few()[:1], tests=6), draws=50)
    check_document(found)
    assert find(found.scores, kind="mean") and not found.persistence and not found.deltas


def test_five_bases_are_random(tmp_path: Path) -> None:
    made = [
        checkpoint(f"tiny-{n}", lineage, 1 if lineage else 0, 0 if lineage else None)
        for n in range(5)
        for lineage in [(), *FEW]
    ]
    found = analyze(write_study(tmp_path / "run", made, tests=10, rollouts=1), draws=50)
    check_document(found)
    row = one(found.persistence, kind="erosion", objective="safety", claim="recipe")
    assert row.resampled == ("cases", "bases") and isinstance(row.interval, tuple)


def test_parent_and_child_on_different_cases_are_refused(tmp_path: Path) -> None:
    cases = {("S",): range(6), ("S", "H"): range(2, 8)}
    store = write_study(tmp_path / "run", few(), tests=8, cases_of=lambda one: cases.get(one.lineage, range(8)))
    with pytest.raises(StudyError, match=r"not comparable: \d+ cases only in the first, \d+ only in the second"):
        analyze(store, draws=50)


def test_require_same_cases_counts_both_sides() -> None:
    require_same_cases(["a", "b"], ["b", "a"], names=("A", "B"))
    with pytest.raises(StudyError, match="A and B: not comparable: 2 cases only in the first, 1 only in the second"):
        require_same_cases(["a", "b", "c"], ["c", "d"], names=("A", "B"))


def test_judges_that_share_no_trajectory_say_so(tmp_path: Path) -> None:
    store = write_study(tmp_path / "both", few(), tests=6, judges=("one", "two"))
    rows = find(analyze(store, draws=50).agreement, kind="quadratic_kappa", lineage=None)
    assert len(rows) == 2 and all(row.n["trajectories"] > 0 and row.judge == "one × two" for row in rows)
    assert all(row.value is not None and math.isfinite(row.value) for row in rows)
    for row in rows:
        assert isinstance(row.interval, tuple) and row.resampled == ("cases",)
        assert row.interval[0] < (row.value or 0.0) < row.interval[1]


# --- what stages are for ----------------------------------------------------------------------------------------

NAMES = {"S": "safe", "H": "help", "S&H": "a mix", "N": "zero", "F": "also zero"}


def renamed(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints with other stage names; ids and records as they were."""
    return [
        replace(one, stages=tuple(replace(stage, name=NAMES[stage.name]) for stage in one.stages))
        for one in checkpoints
    ]


def values_by_subject(rows: Iterable[Estimate], names: dict[str, str]) -> dict[tuple[Any, ...], Any]:
    found = {}
    for row in rows:
        lineage = None if row.lineage is None else tuple(names.get(name, name) for name in row.lineage)
        unit = row.unit
        if unit is not None and unit.startswith("against "):
            unit = "against " + ",".join(names.get(name, name) for name in unit.removeprefix("against ").split(","))
        about = (row.kind, row.estimator, row.claim, row.base, lineage, str(row.axes), row.objective, row.judge, unit)
        assert about not in found, about
        found[about] = row.value
    return found


def test_stage_names_mean_nothing(tmp_path: Path, quick: Store) -> None:
    usual = {one.id: one for one in quick_checkpoints(BASES, SEEDS)}

    def score(one: Checkpoint, objective: str, rng: np.random.Generator) -> float:
        return float(np.clip(np.floor(expected(usual[one.id], objective) + rng.random()), 0, 3))

    store = write_study(tmp_path / "run", renamed(usual.values()), tests=40, score=score)
    plain, other = analyze(quick, draws=50), analyze(store, draws=50)
    for section in ("scores", "persistence", "frontier", "deltas", "dose"):
        first = values_by_subject(getattr(plain, section), NAMES)
        second = values_by_subject(getattr(other, section), {})
        assert first.keys() == second.keys()
        for about, value in first.items():
            assert second[about] == (None if value is None else pytest.approx(value, abs=1e-9)), about
    assert [point.lineage for point in other.frontiers[0].points[:5]] == [
        ("safe",),
        ("help",),
        ("safe", "help"),
        ("help", "safe"),
        ("a mix",),
    ]


def test_several_safety_stages_are_told_apart(tmp_path: Path) -> None:
    """Two safety stages and one helpfulness stage give two arms, and no row stands twice."""
    made = few(SEEDS)
    twice = [
        replace(
            one,
            id=one.id[::-1],
            parent_id=None,
            stages=tuple(replace(stage, name="safer" if stage.name == "S" else stage.name) for stage in one.stages),
        )
        for one in made
        if "S" in one.lineage
    ]
    found = analyze(write_study(tmp_path / "run", made + twice, tests=12), draws=50)
    check_document(found)
    values_by_subject(found.persistence, {})
    lineages = {row.lineage for row in find(found.persistence, kind="persistence", objective="safety")}
    assert lineages == {("S", "H"), ("safer", "H")}
    assert {row.unit for row in find(found.persistence, kind="induced", objective="helpfulness")} == {
        "against S",
        "against safer",
    }


def test_a_stage_name_with_two_meanings_has_no_role(tmp_path: Path) -> None:
    made = few(SEEDS)
    (joint,) = [one for one in made if one.lineage == ("S&H",) and one.train_seed == 0]
    strange = replace(joint, id="other", parent_id=None, base="tiny-1", stages=(replace(joint.stages[0], name="S"),))
    found = analyze(write_study(tmp_path / "run", [*made, strange], tests=6), draws=50)
    check_document(found)
    assert any(note.startswith("stage S stands for different trainings") for note in found.notes)
    assert not find(found.persistence, kind="persistence")


# --- flipped controls -------------------------------------------------------------------------------------------


def test_flipped_controls_have_no_persistence(analysis: Analysis) -> None:
    for objective, lineage in (("safety", ("F", "N")), ("helpfulness", ("N", "F"))):
        about = {"kind": "persistence", "objective": objective, "unit": "flipped control"}
        for claim in ("checkpoint", "recipe"):
            row = one(analysis.persistence, estimator="pooled", claim=claim, **about)
            assert row.lineage == lineage and row.value is None
            assert any(caveat.startswith("the gain") for caveat in row.caveats)
            assert row.caveats[0].startswith("flipped control")
        published = one(analysis.persistence, estimator="published", **about)
        assert published.lineage == lineage and published.caveats[0].startswith("flipped control")
        induced = one(analysis.persistence, kind="induced", objective=objective, claim="checkpoint", unit=about["unit"])
        assert induced.lineage == lineage[:1] and abs(induced.value or 0.0) < 0.1
    recipes = {point.lineage for frontier in analysis.frontiers for point in frontier.points}
    assert not any({"F", "N"} & set(lineage) for lineage in recipes)


# --- gates ------------------------------------------------------------------------------------------------------

GATED = ("S", "H")


@pytest.mark.parametrize(
    ("measured", "missing", "words"),
    [
        ({}, 0.02, None),
        ({"drift_rejected": -20.0, "drift_chosen": 0.4, "kl_parent": 3.8}, 0.05, None),
        ({}, 0.26, "episodes without a score"),
        ({"drift_rejected": -45.0}, 0.0, "rejected answers moved by -45 nats"),
        ({"drift_chosen": -60.0}, 0.0, "chosen answers moved by -60 nats"),
        ({"kl_parent": 12.0}, 0.0, "KL from the parent: 12.0 nats"),
    ],
)
def test_one_broken_run_of_three_is_flagged(
    tmp_path: Path, measured: dict[str, float], missing: float, words: str | None
) -> None:
    made = few(SEEDS)
    (broken,) = [one for one in made if one.lineage == GATED and one.train_seed == 1]

    def score(one: Checkpoint, _: str, rng: np.random.Generator) -> float | None:
        return None if one.id == broken.id and rng.random() < missing else 2.0

    store = write_study(tmp_path / "run", made, tests=100, score=score)
    calm = {one.id: {"drift_rejected": -1.0, "drift_chosen": 0.3, "kl_parent": 0.3} for one in made if one.stages}
    found = analyze(store, draws=50, measures=calm | {broken.id: calm[broken.id] | measured})
    fired = {row.lineage: row.caveats for row in find(found.health, kind="degenerate") if row.value}
    if words is None:
        assert fired == {}
    else:
        assert set(fired) == {GATED} and words in fired[GATED][0]


# --- rubrics ----------------------------------------------------------------------------------------------------


def rescore(store: Store, rubrics: dict[str, float]) -> None:
    """Score every trajectory for safety under other rubrics, each with its own constant."""
    with store.transaction():
        for name in store.trajectory_ids():
            for rubric, value in rubrics.items():
                score = Score(trajectory_id=name, judge="state", objective="safety", value=value, rubric=rubric)
                store.add_score(score)


def test_scores_under_different_rubrics_are_never_pooled(tmp_path: Path) -> None:
    made = [replace(one, axes={**one.axes, "pair_judge": "state"}) if one.stages else one for one in few(SEEDS)]
    store = write_study(tmp_path / "run", made, tests=6, score=lambda *_: 1.0)
    rescore(store, {"0123456789abcdef": 3.0, "0123456aaaaaaaaa": 2.0})
    table = store.score_table()
    assert set(table.judges) == {"state", "state#", "state#01234567", "state#0123456a"}
    assert set(table.judge_names) == {"state"}
    found = analyze(store, draws=50)
    check_document(found)
    for judge, value in (("state#", 1.0), ("state#01234567", 3.0), ("state#0123456a", 2.0)):
        row = one(found.scores, estimator="published", kind="mean", objective="safety", lineage=("S",), judge=judge)
        assert row.value == value
    # The objective with one rubric keeps the judge's name, and is not lost among judges that never read it.
    helpful = one(
        found.scores, estimator="pooled", kind="mean", objective="helpfulness", lineage=("S",), claim="recipe"
    )
    assert helpful.value == 1.0


def test_rubrics_with_a_long_common_start_are_told_apart(tmp_path: Path) -> None:
    store = write_study(tmp_path / "run", few()[:1], tests=3, score=lambda *_: 1.0)
    rescore(store, {"office-rubric-1": 3.0, "office-rubric-2": 2.0})
    found = {judge for judge in store.score_table().judges if "#" in judge}
    assert len(found) == 3 and {"state#office-rubric-1", "state#office-rubric-2"} <= found


def test_notes_of_the_caller_come_first(quick: Store) -> None:
    found = analyze(quick, draws=50, notes=("read this first",))
    assert found.notes[0] == "read this first" and len(found.notes) > 1


def test_a_dose_is_held_against_the_second_stage_alone_at_that_dose(tmp_path: Path) -> None:
    """Persistence at dose 2 by hand: (S,H at 2 − H at 2) / (S at 1 − H at 2), means over seeds and cases."""
    doses = {("S",): (1,), ("H",): (1, 2), ("S", "H"): (1, 2)}
    made = [checkpoint("tiny-0", (), 0, None)]
    made += [checkpoint("tiny-0", one, dose, seed) for one, all_ in doses.items() for dose in all_ for seed in range(3)]
    with write_study(tmp_path / "run", made, tests=30) as store:
        table, found = store.score_table(), analyze(store, draws=50)

    def mean(lineage: tuple[str, ...], dose: int) -> float:
        picked = [c.lineage == lineage and c.axes.get("dose") == dose for c in table.checkpoints]
        rows = np.array(picked)[table.checkpoint] & (table.objective == table.objectives.index("safety"))
        return float(table.value[rows].mean())

    top, bottom = mean(("S", "H"), 2) - mean(("H",), 2), mean(("S",), 1) - mean(("H",), 2)
    row = one(found.dose, kind="persistence", objective="safety", base=None, claim="checkpoint", axes={"dose": 2})
    assert row.value == pytest.approx(top / bottom)
    assert not any("keeps none" in told for told in row.caveats)
