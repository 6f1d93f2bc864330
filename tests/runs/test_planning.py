"""Plans: shared work is planned once, and a fingerprint follows what a step means."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT
from builders.sample_studies import four_lineages, part_of

from holdfast.runs import build as plans
from holdfast.runs.costs.seconds import TINY_CPU_SECONDS
from holdfast.runs.forecast import forecast
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.readiness import PACKAGES, look_around
from holdfast.store import Store
from holdfast.study import study as studies

QUICK = ROOT / "studies" / "quick.toml"


def planned(study: dict[str, Any]) -> Plan:
    return plans.build(studies.Study.model_validate(study))


def test_every_step_comes_after_its_inputs_and_once() -> None:
    seen: set[str] = set()
    for step in plans.build(studies.load(QUICK)).steps:
        assert set(step.inputs) <= seen
        assert step.fingerprint not in seen
        seen.add(step.fingerprint)


def test_lineages_share_their_first_stage() -> None:
    plan = planned(four_lineages())
    trained = [step for step in plan.steps if step.settings.work == "dpo"]
    assert Counter(step.checkpoints[0].lineage for step in trained) == Counter([("S",), ("H",), ("S", "H"), ("H", "S")])
    (second,) = (step for step in trained if step.checkpoints[0].lineage == ("S", "H"))
    (first,) = (step for step in trained if step.checkpoints[0].lineage == ("S",))
    assert second.settings.dump()["parent"] == first.checkpoints[0].id == second.checkpoints[0].parent_id
    assert first.fingerprint in second.inputs


def test_a_record_tells_a_flipped_control_and_the_train_step_does_not() -> None:
    for step in plans.build(studies.load(QUICK)).steps:
        for checkpoint in step.checkpoints:
            for stage in checkpoint.stages:
                assert stage.settings["flip"] == (0.5 if stage.name in ("F", "N") else 0.0)
        if step.kind == "train":
            assert "flip" not in step.settings.dump()


def references(study: dict[str, Any]) -> tuple[Plan, list[Step]]:
    plan = planned(study)
    return plan, [step for step in plan.steps if step.kind == "reference"]


def test_stages_from_one_checkpoint_on_one_rollout_share_a_reference() -> None:
    plan, found = references(
        four_lineages()
        | {"axes": {"beta": [0.05, 0.1], "pair_judge": ["state", "again"], "loss": ["sigmoid", "hinge"]}}
        | {"judges": {"state": {"kind": "state"}, "again": {"kind": "state"}}, "doses": {"S,H": [1, 2]}}
    )
    trained = [step for step in plan.steps if step.settings.work == "dpo"]
    # The base's serves S and H at all eight points of the axes; each of the sixteen checkpoints of S and H has one.
    assert len(trained) == 32 and len(found) == 1 + 16
    for step in trained:
        _, paired, referred = (plan.step(name) for name in step.inputs)
        assert (paired.kind, referred.kind) == ("pair", "reference")
        assert referred.settings.dump()["checkpoint"] == step.settings.dump()["parent"]
        assert referred.inputs == (step.inputs[0], paired.inputs[0]), "of the very rollouts that the pairs are made of"
        assert (referred.size, referred.settings.unit) == (plan.step(paired.inputs[0]).size, "trajectories")


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 1),
        (
            {"beta": 0.3, "steps": 3, "loss": "ipo", "sft_weight": 1, "lora_r": 4, "pairwise": True, "recompute": True},
            1,
        ),
        ({"loss_mask": "completion"}, 2),
        ({"precision": "bf16"}, 2),
        ({"token_budget": 4096}, 2),
    ],
)
def test_a_reference_depends_on_what_decides_its_numbers(change: dict[str, Any], count: int) -> None:
    study = four_lineages()
    study["study"]["lineages"] = [["S"], ["H"]]
    study["stages"]["H"] |= change
    assert len(references(study)[1]) == count


def test_each_split_and_each_seed_has_references_of_its_own() -> None:
    study = four_lineages() | {"axes": {"split_seed": [0, 1]}}
    study["study"] |= {"lineages": [["S"]], "train_seeds": [0, 1, 2]}
    assert len(references(study)[1]) == 6


def test_a_record_counts_pairs_where_their_number_is_planned() -> None:
    """Steps of whole sub-trees take as many pairs as there are."""
    for change, pairs in (({}, 640), ({"pairwise": True}, None), ({"trajectories_per_case": 6}, None)):
        study = four_lineages()
        study["stages"]["S"] |= change
        (step,) = (s for s in planned(study).steps if s.checkpoints and s.checkpoints[0].lineage == ("S",))
        assert step.checkpoints[0].stages[-1].pairs == pairs


def test_doses_are_checkpoints_of_one_step() -> None:
    plan = planned(four_lineages() | {"doses": {"S,H": [1, 2, 4]}})
    (step,) = (s for s in plan.steps if s.kind == "train" and len(s.checkpoints) > 1)
    assert [c.axes["dose"] for c in step.checkpoints] == [1, 2, 4]
    assert [c.stages[-1].steps for c in step.checkpoints] == [20, 40, 80]
    evaluated = {s.settings.dump()["checkpoint"] for s in plan.steps if part_of(s) == "test"}
    assert {c.id for c in step.checkpoints} <= evaluated


def fingerprints(study: dict[str, Any], kind: str) -> set[str]:
    return {step.fingerprint for step in planned(study).steps if step.kind == kind}


def test_only_what_a_change_touches_gets_a_new_fingerprint() -> None:
    before, after = four_lineages(), four_lineages()
    after["stages"]["H"] = {**after["stages"]["H"], "beta": 0.2}
    old, new = planned(before), planned(after)
    kept = {step.fingerprint for step in old.steps} & {step.fingerprint for step in new.steps}
    names = {step.checkpoints[0].lineage for step in new.steps if step.kind == "train" and step.fingerprint in kept}
    assert names == {(), ("S",)}  # the base and S are as they were; H, S,H and H,S are not


@pytest.mark.parametrize("change", [{"study": {"name": "other"}}, {"run": {"workers": 9}}])
def test_names_and_workers_change_no_fingerprint(change: dict[str, dict[str, Any]]) -> None:
    before, after = four_lineages(), four_lineages()
    for table, values in change.items():
        after[table] = {**after.get(table, {}), **values}
    assert [s.fingerprint for s in planned(before).steps] == [s.fingerprint for s in planned(after).steps]


def test_every_axis_value_gets_its_own_lineages() -> None:
    plan = planned(four_lineages() | {"axes": {"beta": [0.05, 0.1], "split_seed": [0, 1]}})
    made = [c for s in plan.steps for c in s.checkpoints if c.lineage == ("S", "H")]
    assert sorted((c.axes["beta"], c.split_seed) for c in made) == [(0.05, 0), (0.05, 1), (0.1, 0), (0.1, 1)]
    assert all(c.stages[-1].settings["beta"] == c.axes["beta"] for c in made)
    assert (
        len(fingerprints(four_lineages() | {"axes": {"beta": [0.05, 0.1]}}, "pair")) == 2
    )  # pairs do not depend on beta


def test_a_number_means_the_same_on_an_axis_and_in_a_stage() -> None:
    """1 and 1.0 are one beta; 2.0 steps are 2."""
    axes = planned(four_lineages() | {"axes": {"beta": [1], "steps": [2.0], "split_seed": [3.0]}})
    same = planned(four_lineages() | {"axes": {"beta": [1.0], "steps": [2], "split_seed": [3]}})
    assert [step.fingerprint for step in axes.steps] == [step.fingerprint for step in same.steps]
    trained = [step.settings.dump() for step in axes.steps if step.settings.work == "dpo"]
    assert all(isinstance(s["beta"], float) and isinstance(s["steps"], int) for s in trained)


def test_a_parent_source_rolls_out_the_stage_that_it_starts_from() -> None:
    base = planned(four_lineages())
    parent = planned(four_lineages() | {"pairs": {"source": "parent"}})
    count = [sum(part_of(s) == "train" for s in p.steps) for p in (base, parent)]
    assert count == [1, 3]  # the base; the base, S and H
    assert [sum(s.kind == "reference" for s in p.steps) for p in (base, parent)] == [3, 3]


def test_the_forecast_counts_all_steps_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    document = forecast(plans.build(studies.load(QUICK)), tmp_path / "none")
    assert document["left"]["steps"] == len(document["steps"])
    assert 60 < document["left"]["cpu_seconds"] < 3600


def test_only_a_study_with_adapters_asks_for_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.runs.readiness.PACKAGES", {**PACKAGES, "adapter": ("peft_that_is_absent",)})
    plain = four_lineages()
    adapted = four_lineages() | {"axes": {"lora_r": [0, 4]}}
    assert look_around(studies.Study.model_validate(plain))[0] == []
    (problem,) = look_around(studies.Study.model_validate(adapted))[0]
    assert "peft_that_is_absent are missing: pip install '.[train]' in a checkout" in problem


def test_a_base_from_the_cache_says_nothing_of_what_teaching_costs(tmp_path: Path) -> None:
    plan = planned(four_lineages() | {"model": {"base_seeds": [0, 1]}})
    first, second = [step for step in plan.steps if step.kind == "train"][:2]
    usual = TINY_CPU_SECONDS["sft"] * 28_000
    for result, seconds in (({"cached": True}, usual), ({}, 28.0)):
        with Store.create(tmp_path / str(seconds)) as store, store.transaction():
            store.log.begin(first.fingerprint, first.kind, first.name)
            store.log.finish(first.fingerprint, {**result, "cpu_seconds": 28.0})
        rows = {row["fingerprint"]: row for row in forecast(plan, tmp_path / str(seconds))["steps"]}
        assert rows[first.fingerprint]["cpu_seconds"] == 0
        assert rows[second.fingerprint]["cpu_seconds"] == pytest.approx(seconds, rel=0.02)


def test_the_base_answers_the_probes_of_several_splits_once() -> None:
    """Probes are the same cases in every split: a second rollout would be of the same episodes."""
    study = four_lineages() | {"axes": {"split_seed": [0, 1]}, "probes": {"items": "generated"}}
    steps = [s for s in planned(study).steps if part_of(s) == "probe"]
    episodes = Counter((s.settings.dump()["checkpoint"], s.settings.dump()["rollout_seed"]) for s in steps)
    assert set(episodes.values()) == {1}
    # The base once, and four lineages of either split.
    assert len(steps) == 1 + 2 * 4


@pytest.mark.parametrize("name", ["smoke", "repair", "approval-quick"])
def test_a_step_that_was_sent_to_a_worker_is_the_same(name: str) -> None:
    for step in plans.build(studies.load(QUICK.with_name(f"{name}.toml"))).steps:
        sent = pickle.loads(pickle.dumps(step))
        assert sent == step and type(sent.settings) is type(step.settings)
        # What a suite does not say is no part of the fingerprint, and must not become one on the way.
        assert sent.settings.dump() == step.settings.dump()
