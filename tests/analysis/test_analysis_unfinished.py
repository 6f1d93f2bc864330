"""An unfinished run is analysed as far as it goes: like is compared with like, and what was left out is named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.schemas import follows
from builders.scored_study import checkpoint, expected, quick_checkpoints

from holdfast.analysis import analyze, document, schema
from holdfast.records import Analysis, Case, Checkpoint, Ending, Estimate, Score, Trajectory, content_id
from holdfast.records.errors import StudyError
from holdfast.store import Store

BASES, SEEDS, CASES = ("tiny-0", "tiny-1"), (0, 1, 2), 6
FEW = [("S",), ("H",), ("S", "H"), ("H", "S"), ("S&H",)]
Place = tuple[Checkpoint, str, str, int]  # checkpoint, judge, objective, case
Rule = Callable[[Place], bool]


def nothing(_: Place) -> bool:
    return False


def study(
    path: Path,
    checkpoints: list[Checkpoint],
    *,
    judges: tuple[str, ...] = ("state",),
    unscored: Rule = nothing,
    missed: Rule = nothing,
    unseen: Callable[[Checkpoint], bool] = lambda _: False,
) -> Store:
    """A scored store without the scores that ``unscored`` names, with a missing value where ``missed`` does.

    A checkpoint that is ``unseen`` has no trajectory.
    """
    rng, store = np.random.default_rng(5), Store.create(path)
    cases = [Case(id=content_id("case", n), suite="office", number=n, family="pay", messages=()) for n in range(CASES)]
    text = store.text_codec.pack(b'{"m":[]}')
    with store.transaction():
        store.add_cases(cases)
        store.add_split(0, {"test": [case.id for case in cases], "train": []})
        for one in checkpoints:
            store.add_checkpoint(one)
            for case in () if unseen(one) else cases:
                identity = content_id(one.id, case.number)
                trajectory = Trajectory(
                    id=identity,
                    case_id=case.id,
                    checkpoint_id=one.id,
                    rollout=0,
                    messages=(),
                    ending=Ending.FINISHED,
                )
                store.add_trajectory(trajectory, text)
                for judge in judges:
                    for objective in ("safety", "helpfulness"):
                        place = (one, judge, objective, case.number)
                        value = float(np.clip(np.floor(expected(one, objective) + rng.random()), 0, 3))
                        if unscored(place):
                            continue
                        miss = missed(place)
                        store.add_score(
                            Score(
                                trajectory_id=identity,
                                judge=judge,
                                objective=objective,
                                value=None if miss else value,
                                missing="no verdict" if miss else None,
                            )
                        )
    return store


def checked(store: Store, **options: Any) -> Analysis:
    """The analysis of a store: no warning of NumPy, strict JSON, the schema, and a reason for every missing value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyze(store, draws=60, **options)
    made = document(found)
    json.dumps(made, allow_nan=False)
    follows(made, schema())
    return found


def rows_of(found: Analysis, section: str, **wanted: Any) -> list[Estimate]:
    return [row for row in getattr(found, section) if all(getattr(row, k) == v for k, v in wanted.items())]


def brute_mean(store: Store, chosen: list[Checkpoint], objective: str) -> float:
    """The mean over bases of the mean over checkpoints of the mean score."""
    table = store.score_table()
    number = {one.id: place for place, one in enumerate(table.checkpoints)}
    of = table.objective == table.objectives.index(objective)
    by_base: dict[str, list[float]] = {}
    for one in chosen:
        values = table.value[of & (table.checkpoint == number[one.id])]
        by_base.setdefault(one.base, []).append(float(np.nanmean(values)))
    return float(np.mean([np.mean(means) for means in by_base.values()]))


def test_arms_are_compared_on_the_same_replicates(tmp_path: Path) -> None:
    """Without S,H at dose 1 of one base and seed, that seed of that base counts in none of the arms."""
    made = quick_checkpoints(BASES, SEEDS)
    (gone,) = [
        one
        for one in made
        if (one.base, one.lineage, one.axes.get("dose"), one.train_seed) == ("tiny-1", ("S", "H"), 1, 2)
    ]
    store = study(tmp_path / "run", made, unscored=lambda place: place[0].id == gone.id)
    found = checked(store)
    words = "tiny-1 seed 2 left out: S,H dose 1 has no scores"
    assert any(note.startswith(f"no scores yet for 1 of {len(made)} checkpoints") for note in found.notes)

    def arm(*lineage: str) -> float:
        chosen = [one for one in made if one.lineage == lineage and one.axes.get("dose") == 1]
        kept = [one for one in chosen if (one.base, one.train_seed) != ("tiny-1", 2)]
        return brute_mean(store, kept, "safety")

    both, first, second = arm("S", "H"), arm("S"), arm("H")
    truth = {"erosion": both - first, "retained": both - second, "persistence": (both - second) / (first - second)}
    for kind, value in truth.items():
        wanted = {"kind": kind, "estimator": "pooled", "objective": "safety", "lineage": ("S", "H"), "base": None}
        for claim in ("checkpoint", "recipe"):
            (row,) = rows_of(found, "persistence", claim=claim, **wanted)
            # Six cases and two seeds do not tell whether there is a gap to keep: no ratio, and why.
            assert row.value is None if kind == "persistence" else row.value == pytest.approx(value, abs=1e-12)
            assert words in row.caveats and row.n["seeds"] == 2
    (induced,) = rows_of(
        found, "persistence", kind="induced", objective="safety", lineage=("S",), base=None, claim="recipe"
    )
    assert induced.n["seeds"] == 3 and not any("left out" in caveat for caveat in induced.caveats)
    (dose,) = [
        row
        for row in rows_of(found, "dose", kind="erosion", objective="safety", lineage=("S", "H"), claim="checkpoint")
        if row.base is None and row.axes == {"dose": 1}
    ]
    assert dose.value == pytest.approx(truth["erosion"], abs=1e-12) and words in dose.caveats
    published = [
        row
        for row in rows_of(found, "persistence", kind="persistence", estimator="published", objective="safety")
        if row.lineage == ("S", "H") and row.base in (None, "tiny-1")
    ]
    assert len(published) == 2 and all(words in row.caveats for row in published)
    lines = [row for row in found.frontier if row.kind == "slope" and row.base is None]
    assert lines and all(
        words in row.caveats or row.unit in ("run, absolute", "run, difference from base") for row in lines
    )


def test_where_no_replicate_is_left_there_is_no_value_but_a_reason(tmp_path: Path) -> None:
    made = [checkpoint("tiny-0", (), 0, None)] + [checkpoint("tiny-0", one, 1, seed) for one in FEW for seed in SEEDS]
    found = checked(study(tmp_path / "run", made, unscored=lambda place: place[0].lineage == ("H",)))
    for kind, lineage in (("induced", ("S",)), ("retained", ("S", "H")), ("persistence", ("S", "H"))):
        rows = rows_of(found, "persistence", kind=kind, objective="safety", lineage=lineage)
        assert rows and all(row.value is None and row.interval is None for row in rows)
        assert all("tiny-0 left out: H dose 1 has no scores" in row.caveats for row in rows)
    (erosion,) = rows_of(
        found, "persistence", kind="erosion", objective="safety", lineage=("S", "H"), claim="recipe", base=None
    )
    assert erosion.value is not None and isinstance(erosion.interval, tuple)


def test_a_smaller_dose_without_scores_is_not_replaced_by_a_larger_one(tmp_path: Path) -> None:
    made = quick_checkpoints(("tiny-0",), SEEDS)

    def unscored(place: Place) -> bool:
        return place[0].lineage == ("S", "H") and place[0].axes["dose"] == 1

    found = checked(study(tmp_path / "run", made, unscored=unscored))
    rows = rows_of(found, "persistence", kind="erosion", objective="safety", lineage=("S", "H"))
    assert rows and all(row.value is None for row in rows)


def test_a_run_killed_while_judging_leaves_that_run_out(tmp_path: Path) -> None:
    made = quick_checkpoints(BASES, SEEDS)

    def unscored(place: Place) -> bool:
        one, _, _, case = place
        return (one.base, one.lineage, one.train_seed) == ("tiny-0", ("S",), 1) and case >= 2

    found = checked(study(tmp_path / "run", made, unscored=unscored))
    assert any("left out: judged by state on 2 of 6 cases" in note for note in found.notes)
    rows = rows_of(found, "persistence", kind="erosion", objective="safety", lineage=("S", "H"), base=None)
    assert rows and all("tiny-0 seed 1 left out: S dose 1 has no scores" in row.caveats for row in rows)


def test_a_parent_on_other_cases_is_still_refused(tmp_path: Path) -> None:
    made = [checkpoint("tiny-0", (), 0, None), checkpoint("tiny-0", ("S",), 1, 0)]
    store = study(tmp_path / "run", made, unseen=lambda one: bool(one.lineage))
    cases = sorted(store.score_table().case_ids)
    text = store.text_codec.pack(b'{"m":[]}')
    with store.transaction():
        store.add_trajectory(
            Trajectory(
                id="t", case_id=cases[0], checkpoint_id=made[1].id, rollout=0, messages=(), ending=Ending.FINISHED
            ),
            text,
        )
        for objective in ("safety", "helpfulness"):
            store.add_score(Score(trajectory_id="t", judge="state", objective=objective, value=1.0))
    with pytest.raises(StudyError, match="not comparable: 5 cases only in the first, 0 only in the second"):
        analyze(store, draws=20)


@pytest.mark.parametrize(
    ("kept", "rule"),
    [
        (lambda one: one.lineage in ((), ("S",)), nothing),
        (lambda one: one.lineage == ("S",), nothing),
        (lambda one: not one.lineage, nothing),
        (lambda one: one.base == "tiny-0" or not one.lineage, nothing),
        (lambda one: True, lambda place: place[2] == "safety"),
        (lambda one: True, lambda place: True),
        (lambda one: True, lambda place: not place[0].lineage),
    ],
    ids=["one lineage", "no base", "only bases", "one base trained", "one objective", "no scores", "bases unscored"],
)
def test_what_there_is_is_analysed(tmp_path: Path, kept: Callable[[Checkpoint], bool], rule: Rule) -> None:
    made = [one for one in quick_checkpoints(BASES, SEEDS) if kept(one)]
    checked(study(tmp_path / "run", made, unscored=rule))
    checked(study(tmp_path / "other", made, missed=rule, judges=("state", "other")))


def test_checkpoints_without_trajectories(tmp_path: Path) -> None:
    found = checked(study(tmp_path / "run", quick_checkpoints(BASES, SEEDS), unseen=lambda _: True))
    assert not found.persistence and not found.frontier
    assert any(note.startswith("no scores yet for") for note in found.notes)


def test_a_judge_that_misses_everything(tmp_path: Path) -> None:
    """It is no headline, whatever its name, and nothing of it is averaged with the judge that gave scores."""
    made = quick_checkpoints(BASES, SEEDS)
    store = study(tmp_path / "run", made, judges=("state", "blind"), missed=lambda place: place[1] == "blind")
    found = checked(store)
    assert any(note.startswith("headline: scores by state") for note in found.notes)
    about: dict[str, Any] = {"kind": "erosion", "objective": "safety", "lineage": ("S", "H"), "base": None}
    (seen,) = rows_of(found, "persistence", judge="state", claim="recipe", **about)

    def mean(*lineage: str) -> float:
        chosen = [one for one in made if one.lineage == lineage and one.axes.get("dose") == 1]
        return brute_mean(store, chosen, "safety")

    assert seen.value == pytest.approx(mean("S", "H") - mean("S"))
    (blind,) = rows_of(found, "persistence", judge="blind", claim="checkpoint", **about)
    assert blind.value is None and not seen.beside and blind.beside


def _random_rules(rng: np.random.Generator, made: list[Checkpoint], judges: tuple[str, ...]) -> dict[str, Any]:
    """Whole checkpoints, judges of a checkpoint, objectives of a judge and single readings, lost at random."""
    share = rng.choice([0.02, 0.1, 0.4, 0.8])
    unseen = {one.id for one in made if rng.random() < share}
    triples = [(one.id, judge, name) for one in made for judge in judges for name in ("safety", "helpfulness")]
    lost = {triple for triple in triples if rng.random() < share}
    blank = {triple for triple in triples if rng.random() < share}
    thin = rng.random((len(made), CASES)) < (share if rng.random() < 0.5 else 0.0)
    number = {one.id: place for place, one in enumerate(made)}
    # In part: the last cases of some checkpoints are not judged yet.
    cut = {(one.id, judge): int(rng.integers(1, CASES)) for one in made for judge in judges if rng.random() < share / 2}

    def unscored(place: Place) -> bool:
        one, judge, objective, case = place
        return (one.id, judge, objective) in lost or case >= cut.get((one.id, judge), CASES)

    def missed(place: Place) -> bool:
        one, judge, objective, case = place
        return (one.id, judge, objective) in blank or bool(thin[number[one.id], case])

    return {"unscored": unscored, "missed": missed, "unseen": lambda one: one.id in unseen}


# Every second of both kinds, plain and thinned, in every run of the suite; all in the long one.
PARTS = [number if number % 2 == 0 else pytest.param(number, marks=pytest.mark.full) for number in range(16)]


@pytest.mark.parametrize("number", PARTS)
def test_any_part_of_a_study_gives_values_or_reasons(tmp_path: Path, number: int) -> None:
    rng = np.random.default_rng([11, number])
    bases = BASES if number % 8 else tuple(f"tiny-{n}" for n in range(6))
    made = quick_checkpoints(bases, SEEDS if number % 3 else (0,))
    judges = ("state", "other") if number % 2 else ("state",)
    if number >= 8:
        made = [one for one in made if rng.random() < 0.8]
    measures = {one.id: {"kl_parent": 0.3, "kl_parent_se": 0.1, "kl_episodes": 40.0} for one in made}
    found = checked(study(tmp_path / "run", made, judges=judges, **_random_rules(rng, made, judges)), measures=measures)
    assert not [row for row in found.dose if row.kind.endswith("_se") or row.kind == "kl_episodes"]
    for row in found.dose:
        if row.kind == "kl_parent":
            assert row.n["episodes"] == 40 * row.n["checkpoints"]
