"""Repairs in the analysis: none changes a row of the plain lineages, and each is held against their line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.scored_study import checkpoint, expected, quick_checkpoints, write_study

from holdfast.analysis import analyze
from holdfast.analysis.repair import REPAIR_POINTS
from holdfast.analysis.roles import MERGE, read_roles
from holdfast.records import Analysis, Checkpoint, Estimate, StageRecord, content_id
from holdfast.store.places import STUDY_KEY
from holdfast.study.rules import GateSection

BASES, SEEDS, TESTS = ("tiny-0", "tiny-1"), (0, 1, 2), 60
BETTER = 0.6  # what the repair "Ht" has above the line on both scales
DOSES = (1, 2, 4)
# Safety after re-teaching with a dose, where the first stage has 2.2.
RETAUGHT = {1: 1.5, 2: 2.1, 4: 2.25}


def repair(base: str, seed: int, name: str, way: dict[str, Any]) -> Checkpoint:
    """A checkpoint of S and a stage that keeps a second objective."""
    first = checkpoint(base, ("S",), 1, seed)
    stage = StageRecord(
        name=name,
        method="dpo",
        objectives=("helpfulness",),
        settings={"flip": 0.0, **way},
        steps=40,
        pairs=1280,
    )
    return replace(first, id=content_id(base, name, seed), stages=(*first.stages, stage), parent_id=first.id)


def merged(base: str, seed: int, share: float) -> Checkpoint:
    stage = StageRecord(
        name="S~H",
        method=MERGE,
        objectives=("safety", "helpfulness"),
        settings={"share": share, "of": [["S"], ["H"]]},
        steps=0,
        pairs=0,
    )
    first = checkpoint(base, ("S",), 1, seed)
    return replace(first, id=content_id(base, "S~H", seed, share), stages=(stage,), axes={"share": share})


def retaught(base: str, seed: int, dose: int) -> Checkpoint:
    before = checkpoint(base, ("S", "H"), 1, seed)
    stage = StageRecord(
        name="R", method="dpo", objectives=("safety",), settings={"flip": 0.0}, steps=5 * dose, pairs=160
    )
    return replace(
        before,
        id=content_id(base, "S,H,R", seed, dose),
        stages=(*before.stages, stage),
        axes={"dose": dose},
        parent_id=before.id,
    )


def repairs() -> list[Checkpoint]:
    return [
        one
        for base in BASES
        for seed in SEEDS
        for one in (
            repair(base, seed, "Hm", {"mix": {"objective": "safety", "share": 0.25}}),
            repair(base, seed, "Ht", {"term": {"objective": "safety", "weight": 0.5}}),
            *(merged(base, seed, share) for share in (0.25, 0.5)),
            *(retaught(base, seed, dose) for dose in DOSES),
        )
    ]


def truth(one: Checkpoint, objective: str) -> float:
    name, safe = (one.lineage or ("",))[-1], objective == "safety"
    if name == "Hm":  # on the line from S to H
        return 1.7 if safe else 1.9
    if name == "Ht":
        return (1.7 if safe else 1.9) + BETTER
    if name == "S~H":
        return 2.2 - 1.3 * one.axes["share"] if safe else 1.4 + 1.2 * one.axes["share"]
    if name == "R":
        return RETAUGHT[one.axes["dose"]] if safe else 1.6
    return expected(one, objective)


def play(path: Path, extra: list[Checkpoint], gate: GateSection | None = None) -> Analysis:
    """A scored study whose case means are the truth with a little noise that cases share."""

    def score(one: Checkpoint, objective: str, rng: np.random.Generator) -> float:
        return float(np.clip(np.floor(truth(one, objective) + rng.random()), 0, 3))

    with write_study(path, [*quick_checkpoints(BASES, SEEDS), *extra], tests=TESTS, score=score) as store:
        if gate is not None:
            with store.transaction():
                store.set_meta(STUDY_KEY, f'{{"gate": {gate.model_dump_json()}}}')
        return analyze(store, draws=100)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Analysis]:
    root = tmp_path_factory.mktemp("repair")
    return play(root / "plain", []), play(root / "repaired", repairs(), GateSection(margin=0.25))


def rows(analysis: Analysis, kind: str, **about: Any) -> list[Estimate]:
    found = [row for row in analysis.repair if row.kind == kind and row.base is None and row.judge is None]
    return [row for row in found if all(getattr(row, key) == value for key, value in about.items())]


def one_row(analysis: Analysis, kind: str, **about: Any) -> Estimate:
    (found,) = rows(analysis, kind, **about)
    return found


def test_repairs_change_no_row_of_the_plain_lineages(both: tuple[Analysis, Analysis]) -> None:
    plain, repaired = both
    assert plain.repair == () and plain.persistence and plain.frontier
    assert repaired.persistence == plain.persistence
    assert repaired.frontier == plain.frontier
    # What counts all rows counts those of repairs too.
    counting = ("not adjusted for looking often", "without an interval")
    kept, before = ([one for one in notes if not one.startswith(counting)] for notes in (repaired.notes, plain.notes))
    assert kept == before
    for section in ("scores", "deltas", "dose", "health", "agreement"):
        old = getattr(plain, section)
        kept = [row for row in getattr(repaired, section) if row.lineage is None or not is_repair(row.lineage)]
        pooled = section == "agreement"  # over all checkpoints, the new ones too
        assert pooled or kept == list(old), section
    extra = [one for one in repaired.frontiers if one.unit == REPAIR_POINTS]
    assert len(extra) == 1 and [one for one in repaired.frontiers if one.unit != REPAIR_POINTS] == list(plain.frontiers)
    assert {("S", "Hm"), ("S", "Ht"), ("S~H",), ("S", "H", "R")} < {point.lineage for point in extra[0].points}
    assert {line.kind for line in extra[0].lines} == {"slope", "intercept"}


def is_repair(lineage: tuple[str, ...]) -> bool:
    return lineage[-1:] and lineage[-1] in ("Hm", "Ht", "S~H", "R")


def test_roles_tell_repairs_from_recipes() -> None:
    roles = read_roles([*quick_checkpoints(("tiny-0",), (0,)), *repairs()])
    assert roles.ambiguous == ()
    assert [roles.repairs(("S", name)) for name in ("Hm", "Ht", "H")] == ["mix", "term", None]
    assert roles.repairs(("S~H",)) == MERGE and roles.is_joint(("S&H",)) and not roles.is_joint(("S~H",))
    assert roles.single("Hm") is None and not roles.is_sequence(("S", "Hm"))
    assert [roles.rank(lineage) for lineage in (("S",), ("Hm",), ("S~H",), ("S", "Hm"), ("S", "H", "R"))] == [
        0,
        None,
        None,
        None,
        None,
    ]
    assert roles.reteaches(("S", "H", "R")) and roles.reteaches(("S", "H", "S"))
    for lineage in (("S", "H"), ("S", "S", "S"), ("S", "N", "R"), ("S", "Hm", "R"), ("H", "S", "R")):
        assert not roles.reteaches(lineage), lineage
    assert {(arm.safety, arm.helpfulness) for arm in roles.arms() if not arm.flipped} == {("S", "H")}


def test_only_what_lies_off_the_line_is_said_to_leave_it(both: tuple[Analysis, Analysis]) -> None:
    _, found = both
    off = one_row(found, "off_line", lineage=("S", "Ht"), claim="recipe")
    # Of made-up scores with noise; the distance is 0.06 here.
    assert off.value is not None and off.value == pytest.approx(BETTER * np.sqrt(2), abs=0.25)
    assert off.resampled == ("cases", "seeds")
    bounds = {
        (row.lineage, row.axes.get("share"), row.axes.get("dose")): row.value
        for row in rows(found, "off_line_lower", claim="recipe")
    }
    assert len(bounds) == 2 + 2 + len(DOSES)
    beyond = {key[0] for key, value in bounds.items() if value is not None and value > 0}
    # Seeds of one planted truth, so that nothing but noise moves the others.
    assert ("S", "Ht") in beyond and not beyond & {("S", "Hm"), ("S~H",)}
    for row in rows(found, "off_line", claim="recipe"):
        low = one_row(found, "off_line_lower", lineage=row.lineage, axes=row.axes, claim="recipe").value
        assert row.value is not None and low is not None and low < row.value


def test_the_bound_is_that_of_all_repairs_together(tmp_path: Path, both: tuple[Analysis, Analysis]) -> None:
    alone = play(tmp_path / "alone", [one for one in repairs() if one.lineage == ("S", "Ht")])
    (single,) = rows(alone, "off_line_lower", claim="recipe")
    among = one_row(both[1], "off_line_lower", lineage=("S", "Ht"), claim="recipe")
    assert single.value is not None and among.value is not None
    gap = [one_row(one, "off_line", lineage=("S", "Ht"), claim="recipe").value for one in (alone, both[1])]
    assert gap[0] is not None and gap[1] is not None
    assert gap[1] - among.value > 1.2 * (gap[0] - single.value), "seven looks make a wider bound than one"


def test_the_line_is_fitted_without_the_repair(both: tuple[Analysis, Analysis]) -> None:
    """A repair's own points, however far off, do not draw the line towards them."""
    plain, found = both
    slopes = {row.value for row in plain.frontier if row.kind == "slope" and row.base is None}
    (extra,) = (one for one in found.frontiers if one.unit == REPAIR_POINTS)
    assert {line.value for line in extra.lines if line.kind == "slope"} <= slopes


def test_a_repair_is_held_against_the_lineage_that_it_stands_in_for(both: tuple[Analysis, Analysis]) -> None:
    _, found = both
    for objective in ("safety", "helpfulness"):
        change = one_row(found, "repair_change", lineage=("S", "Ht"), objective=objective, claim="recipe")
        plain = 2.05 if objective == "safety" else 1.55
        assert change.unit == "against S,H dose 1"
        # Of made-up scores with noise; the distances are up to 0.05 here.
        assert change.value == pytest.approx((1.7 if objective == "safety" else 1.9) + BETTER - plain, abs=0.2)
    (back,) = [
        row
        for row in rows(found, "repair_change", lineage=("S", "H", "R"), objective="safety", claim="checkpoint")
        if row.axes["dose"] == 4
    ]
    assert back.unit == "against S,H dose 1" and back.value is not None and back.value > 0
    assert not rows(found, "repair_change", lineage=("S~H",))


def test_repairs_and_the_joint_stage_are_held_against_the_curve_of_the_merges(both: tuple[Analysis, Analysis]) -> None:
    plain, found = both
    assert not rows(plain, "off_merges")
    tested = {row.lineage for row in rows(found, "off_merges")}
    assert "off_merges" in {one.kind for one in found.families}
    assert {("S&H",), ("S", "Hm"), ("S", "Ht")} <= tested and ("S~H",) not in tested
    better = one_row(found, "off_merges", lineage=("S", "Ht"), claim="recipe")
    assert isinstance(better.interval, tuple) and better.interval[0] > 0
    on_it = one_row(found, "off_merges", lineage=("S", "Hm"), claim="recipe")
    assert isinstance(on_it.interval, tuple) and on_it.interval[0] < 0 < on_it.interval[1]
    checkpoint = one_row(found, "off_merges", lineage=("S", "Hm"), claim="checkpoint")
    assert any("of these weights only" in caveat for caveat in checkpoint.caveats)


def test_a_distance_of_checkpoints_is_of_these_weights_only(both: tuple[Analysis, Analysis]) -> None:
    for row in rows(both[1], "off_line"):
        assert any("of these weights only" in caveat for caveat in row.caveats) == (row.claim == "checkpoint")


def test_what_a_repair_costs_is_told_and_a_merge_costs_nothing(both: tuple[Analysis, Analysis]) -> None:
    _, found = both
    cost = {(row.lineage, row.axes.get("dose")): row.value for row in rows(found, "repair_steps")}
    assert cost[("S", "Hm"), 1] == 40 and [cost[("S", "H", "R"), dose] for dose in DOSES] == [5, 10, 20]
    assert {row.value for row in rows(found, "repair_pairs", lineage=("S~H",))} == {0.0}


def test_the_smallest_dose_that_keeps_the_margin_is_found(tmp_path: Path, both: tuple[Analysis, Analysis]) -> None:
    row = one_row(both[1], "reteach_dose")
    lower = {one.axes["dose"]: one.value for one in rows(both[1], "reteach_lower")}
    assert lower.keys() == set(DOSES) and all(value is not None for value in lower.values())
    assert lower[1] < lower[4] and lower[4] > -0.25 > lower[1]
    assert row.value == min(dose for dose in DOSES if all(lower[d] > -0.25 for d in DOSES if d >= dose))
    assert "at margin 0.25" in " ".join(row.caveats)
    strict = play(
        tmp_path / "strict", [one for one in repairs() if one.lineage == ("S", "H", "R")], GateSection(margin=0.001)
    )
    none = one_row(strict, "reteach_dose")
    assert none.value is None and none.caveats[0] == "none of the doses 1, 2, 4 passes at margin 0.001"


def test_a_failed_larger_dose_ends_the_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Testing stops where a dose fails: a smaller one that would pass is no result, for its error is not controlled."""
    monkeypatch.setitem(RETAUGHT, 1, 2.3)
    monkeypatch.setitem(RETAUGHT, 4, 1.0)
    found = play(
        tmp_path / "run", [one for one in repairs() if one.lineage == ("S", "H", "R")], GateSection(margin=0.3)
    )
    lower = {one.axes["dose"]: one.value for one in rows(found, "reteach_lower")}
    assert lower[1] is not None and lower[1] > -0.3
    assert one_row(found, "reteach_dose").value is None
