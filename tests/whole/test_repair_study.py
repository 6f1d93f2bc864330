"""Studies that repair: what is planned, which cases are kept apart, and a small one from beginning to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT
from builders.sample_studies import four_lineages, part_of
from builders.smoke_study import smoke_settings
from builders.toolemu_samples import make_record, make_suite, write_files
from rounding import apart, rounding, within

import holdfast as hf
from holdfast.models.directories.opening import read_weights
from holdfast.records.errors import StepError, StudyError
from holdfast.runs import build as plans
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.run import Run, measures
from holdfast.runs.steps.outcomes import Finished, Outcome
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store
from holdfast.store.weights import digest_directory
from holdfast.study.stages import MERGE
from holdfast.study.study import Study, load
from holdfast.suites.parts import FRESH, TUNE, collect_cases
from holdfast.training.dpo.mixing import Balance

REPAIR = ROOT / "studies" / "repair.toml"
MIX = {"objective": "safety", "share": 0.5}
BALANCE = {"objective": "safety", "floor": 2.5, "every": 2, "cases": 12, "rate": 0.5, "initial": 0.25, "most": 2.0}


def repaired(**stages: dict[str, Any]) -> dict[str, Any]:
    """The four lineages, and S before every stage given, which trains helpfulness."""
    study = four_lineages()
    study["study"]["lineages"] = [*study["study"]["lineages"], *(["S", name] for name in stages)]
    study["stages"] |= {name: {"objective": "helpfulness", **keys} for name, keys in stages.items()}
    return study


def planned(study: dict[str, Any]) -> Plan:
    return plans.build(Study.model_validate(study))


def stage_of(plan: Plan, *lineage: str) -> Step:
    (found,) = (s for s in plan.steps if s.kind == "train" and s.checkpoints[0].lineage == lineage)
    return found


# --- plans


def test_a_stage_that_keeps_safety_learns_from_the_very_pairs_of_the_safety_stage() -> None:
    plan = planned(repaired(Hm={"mix": MIX}, Ht={"term": {}}))
    first, second = stage_of(plan, "S"), stage_of(plan, "S", "H")
    for name in ("Hm", "Ht"):
        own = stage_of(plan, "S", name)
        parent, pairs, reference, others = own.inputs
        assert (parent, pairs, reference) == second.inputs and others == first.inputs[1]
        assert own.fingerprint != second.fingerprint
    mixed, term = stage_of(plan, "S", "Hm").checkpoints[0], stage_of(plan, "S", "Ht").checkpoints[0]
    assert mixed.stages[-1].objectives == term.stages[-1].objectives == ("helpfulness",)
    assert (mixed.stages[-1].pairs, term.stages[-1].pairs) == (640, 1280), "a term takes as many again"
    assert mixed.stages[-1].settings["mix"] == MIX


def test_repairs_leave_every_other_step_as_it_is() -> None:
    plain = planned(four_lineages())
    more = planned(
        repaired(Hm={"mix": MIX}, Hb={"balance": BALANCE})
        | {"merges": {"S~H": {"of": [["S"], ["H"]], "shares": [0.5]}}}
    )
    known = {step.fingerprint for step in more.steps}
    assert {step.fingerprint for step in plain.steps if step.kind != "analyze"} <= known


def test_a_merge_is_one_step_of_two_lineages_and_is_evaluated_like_a_stage() -> None:
    plan = planned(four_lineages() | {"merges": {"S~H": {"of": [["S"], ["H"]], "shares": [0.25, 0.75]}}})
    (step,) = (step for step in plan.steps if step.settings.work == MERGE)
    safe, helpful = stage_of(plan, "S"), stage_of(plan, "H")
    assert step.inputs == (safe.fingerprint, helpful.fingerprint)
    assert step.settings.dump()["of"] == [safe.checkpoints[0].id, helpful.checkpoints[0].id]
    assert [one.axes for one in step.checkpoints] == [{"share": 0.25}, {"share": 0.75}]
    for one in step.checkpoints:
        (record,) = one.stages
        assert one.lineage == ("S~H",) and one.parent_id == safe.checkpoints[0].id
        assert (record.method, set(record.objectives), record.steps) == (MERGE, {"safety", "helpfulness"}, 0)
        assert record.settings["of"] == [["S"], ["H"]]
    tested = {s.settings.dump()["checkpoint"] for s in plan.steps if part_of(s) == "test"}
    assert {one.id for one in step.checkpoints} <= tested


# --- cases kept apart


def test_cases_for_balances_are_drawn_only_where_a_stage_asks_and_move_no_others() -> None:
    plain = collect_cases(Study.model_validate(four_lineages()), 0)
    study = Study.model_validate(repaired(A={"balance": {"cases": 30}}, B={"balance": {"cases": 21}}))
    found = collect_cases(study, 0)
    assert TUNE not in plain and len(found[TUNE]) == 30
    assert [found[part] for part in ("train", "test")] == [plain[part] for part in ("train", "test")]
    ids = [case.id for part in found.values() for case in part]
    numbers = [case.number for part in found.values() for case in part]
    assert len(set(ids)) == len(ids) and len(set(numbers)) == len(numbers)
    # From the train pool, so that a stage knows no held-out object.
    objects = {part: {(c.family, name) for c in found[part] for name in c.facts["objects"]} for part in found}
    assert not objects[TUNE] & objects["test"] and objects[TUNE] & objects["train"]
    assert collect_cases(study, 0)[TUNE] == found[TUNE] != collect_cases(study, 1)[TUNE]


def test_toolemu_keeps_cases_of_its_train_half_out_of_training(tmp_path: Path) -> None:
    section = make_suite(*write_files(tmp_path, [make_record(str(number)) for number in range(12)]))
    study = four_lineages() | {"suite": section.model_dump(), "models": {"player": {"kind": "remote", "name": "a/b"}}}
    plain = Study.model_validate(study)
    study["stages"] = {**study["stages"], "A": {"objective": "helpfulness", "balance": {"cases": 2}}}
    kept = Study.model_validate(study)
    before, found = collect_cases(plain, 0), collect_cases(kept, 0)
    assert len(found[TUNE]) == 2 and not {c.id for c in found[TUNE]} & {c.id for c in found["train"]}
    assert {c.id for c in (*found["train"], *found[TUNE])} == {c.id for c in before["train"]}
    assert found["test"] == before["test"]
    # Other cases to train on: no step that learns from them may be taken for that of a study without a balance.
    rollouts = [{s.fingerprint for s in plans.build(one).steps if part_of(s) == "train"} for one in (plain, kept)]
    assert not rollouts[0] & rollouts[1]
    study["stages"]["A"]["balance"] = {"cases": 6}
    with pytest.raises(StudyError, match="the split has 6 cases to train on; ask for fewer"):
        collect_cases(Study.model_validate(study), 0)


def test_fresh_cases_are_those_of_a_search() -> None:
    study = four_lineages() | {"search": {"lineage": ["S", "H"], "parent": ["S"]}}
    found = collect_cases(Study.model_validate(study), 0)
    plain = collect_cases(Study.model_validate(four_lineages()), 0)
    assert FRESH not in plain and len(found[FRESH]) == len(found["test"])
    objects = {part: {(c.family, name) for c in found[part] for name in c.facts["objects"]} for part in found}
    assert not objects[FRESH] & objects["train"] and not {c.id for c in found[FRESH]} & {c.id for c in found["test"]}


# --- from beginning to end


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    study = smoke_settings()
    study["study"]["lineages"] = [["S"], ["H"], ["S", "H"], ["S", "Hm"], ["S", "Hb"], ["S", "H", "R"]]
    study["doses"] = {"S,H,R": [1, 2]}
    study["merges"] = {"S~H": {"of": [["S"], ["H"]], "shares": [0.5]}}
    plain = study["stages"]["H"]
    study["stages"] |= {
        "Hm": {**plain, "mix": MIX},
        "Hb": {**plain, "balance": BALANCE},
        "R": {**study["stages"]["S"], "steps": 2},
    }
    return study


@pytest.fixture(scope="module")
def finished(base_cache: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hf.run(Study.model_validate(settings), tmp_path_factory.mktemp("repaired") / "run", workers=1)


def test_a_study_with_repairs_runs_and_tells_what_they_did(finished: Run, settings: dict[str, Any]) -> None:
    plan = planned(settings)
    with finished.store() as store:
        steps, told = store.log.steps(), measures(store)
        balanced, mixed = stage_of(plan, "S", "Hb"), stage_of(plan, "S", "Hm")
        readings = steps[balanced.fingerprint].result["balance"]
        assert [one["step"] for one in readings] == [2, 4]
        rule = Balance(**{key: BALANCE[key] for key in ("floor", "every", "rate", "initial", "most")})
        weight = rule.initial
        for one in readings:
            assert one["episodes"] == 12 and 0 < one["scored"] <= 12 and 0 <= one["score"] <= 3
            weight = rule.react(weight, one["score"])
            assert one["weight"] == weight
        assert told[balanced.checkpoints[0].id]["balance_weight"] == weight
        assert steps[mixed.fingerprint].result["second_pairs"] > 0
        text = (finished.path / "logs" / f"{balanced.fingerprint}.jsonl").read_text()
        log = [json.loads(line) for line in text.splitlines()]
        assert [line["metrics"]["other_weight"] for line in log] == [0.25, 0.25, *[readings[0]["weight"]] * 2]
        assert store.splits()[0][TUNE] and not set(store.trajectory_ids(part=TUNE))
        (merged,) = (one for one in store.checkpoints() if one.lineage == ("S~H",))
        parts = [stage_of(plan, name).checkpoints[0] for name in ("S", "H")]
        weights = [read_weights(finished.path / (store.checkpoint(one.id).path or "")) for one in (merged, *parts)]
    for name, weight in weights[0].items():
        middle = (weights[1][name].double() + weights[2][name].double()) / 2
        assert within(apart([weight.double()], [middle]), rounding(3))  # a difference, a product and a sum
    kinds = {row.kind for row in finished.analysis().repair}
    assert {"off_line", "repair_change", "repair_steps", "reteach_lower", "reteach_dose"} <= kinds
    assert finished.report().is_file()


def test_a_repeated_balance_is_the_same_to_the_byte(finished: Run, settings: dict[str, Any], tmp_path: Path) -> None:
    step, own = stage_of(planned(settings), "S", "Hb"), Path(shutil.copytree(finished.path, tmp_path / "own"))
    outcomes: list[Outcome] = []
    carry_out(step, own, outcomes.append)
    last = outcomes[-1]
    assert isinstance(last, Finished)
    ((_, directory),) = last.checkpoints
    assert directory is not None
    with finished.store() as store:
        assert digest_directory(directory) == store.checkpoint(step.checkpoints[0].id).digest
        assert last.result["balance"] == store.log.steps()[step.fingerprint].result["balance"]


def test_a_merge_of_checkpoints_whose_weights_are_gone_fails_by_name(
    finished: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(finished.path, tmp_path / "own"))
    step = next(step for step in planned(settings).steps if step.settings.work == MERGE)
    with Store(own) as store:
        lost = store.checkpoint(step.settings.dump()["of"][1])
    shutil.rmtree(own / (lost.path or ""))
    with pytest.raises(StepError, match="its weights are not at"):
        carry_out(step, own, lambda _: None)
    assert digest_directory(finished.path / (lost.path or "")) == lost.digest


def test_the_shipped_study_is_valid_and_shares_its_bases_with_the_quick_one() -> None:
    repair, quick = (plans.build(load(path)) for path in (REPAIR, REPAIR.with_name("quick.toml")))
    known = {step.fingerprint for step in quick.steps}
    taught = [step for step in repair.steps if step.settings.work == "sft"]
    assert taught and {step.fingerprint for step in taught} <= known
