"""Study files on approval: what is refused and how it is told, and what a study becomes as a plan."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.approval_study import miniature
from builders.places import ROOT
from builders.smoke_study import write_toml

import holdfast as hf
from holdfast.runs.build import build
from holdfast.runs.forecast import forecast
from holdfast.runs.plan.step import Plan, Step
from holdfast.runs.readiness import look_around
from holdfast.study.study import load

STUDIES = ROOT / "studies"


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The miniature study with other values at some dotted places; None removes what is there."""
    settings = miniature()
    for place, value in changes.items():
        *tables, key = place.split("/")
        table = settings
        for name in tables:
            table = table.setdefault(name, {})
        if value is None:
            table.pop(key)
        else:
            table[key] = value
    return settings


ONE_LINEAGE: dict[str, Any] = {
    "study/lineages": [["on"]],
    "study/only": {},
    "model/bases": ["small"],
    "stages/other": None,
}
ONE_LINEAGE |= {"stages/weighted": None}
RATER = {"judges/rules": None, "judges/critic": {"kind": "rating", "model": "small"}}
OFFICE = {"name": "office", "train_cases": 8, "test_cases": 8}
SAFETY = {"objective": "safety"}
REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "a group of one": (
        {"stages/on/group_size": 1},
        "stages.on.group_size: value error, rewards are compared within a group, which takes 2 rollouts or more",
    ),
    "an unknown key": ({"stages/on/lr": 1e-4}, "stages.on.lr: unknown key; did you mean 'learning_rate'?"),
    "an unknown method": (
        {"stages/on/method": "ppo"},
        "stages.on.method is 'ppo'; did you mean 'dpo'? methods of training that there are: dpo, grpo,",
    ),
    "steps that are not kept": ({"stages/on/every": 3}, "stages.on.every is 3, of which steps 4 is no multiple"),
    "steps of an axis that are not kept": ({"axes": {"steps": [4, 7]}}, "stages.on.every is 2, of which steps 7"),
    "an unknown setting": ({"stages/on/setting": "stile"}, "stages.on.setting is 'stile', not among"),
    "more users than there are": ({"stages/on/prompts_per_step": 25}, "prompts_per_step is 25, but approval.practice"),
    "a source that is trained on a source": (
        {"stages/other/source": {"base": "small", "lineage": ["weighted"]}},
        "stages.other.source.lineage has weighted, which learns from a source itself",
    ),
    "a source that is the stage": (
        {"stages/other/source": {"base": "small", "lineage": ["other"]}},
        "stages.other.source.lineage names the stage itself",
    ),
    "a source of an unknown base": (
        {"stages/other/source": {"base": "third", "lineage": []}},
        "stages.other.source.base is 'third', not among model.bases",
    ),
    "a source without rollouts of it": (
        {"stages/other/rollouts": "start"},
        "stages.other.source goes with rollouts = 'source' alone",
    ),
    "best rollouts of the policy": ({"stages/own/rollouts": "policy"}, "stages.own.rollouts is 'policy', but method"),
    "a lag of stored rollouts": ({"stages/weighted/lag": 2}, "stages.weighted.lag is 2, but its rollouts are stored"),
    "a loss for imitation": ({"stages/own/loss": "grpo"}, "stages.own.loss has no effect on method 'best_sft'"),
    "clipping of preferences": ({"stages/other/clip_low": 0.1}, "clip_low has no effect on method 'best_dpo'"),
    "a hold on preferences": ({"stages/other/kl_weight": 0.1}, "kl_weight has no effect on method 'best_dpo'"),
    "weights of imitation": ({"stages/own/importance": False}, "importance has no effect on method 'best_sft'"),
    "beta of a policy gradient": ({"stages/on/beta": 0.3}, "stages.on.beta has no effect on method 'grpo'"),
    "weights of present rollouts": ({"stages/on/importance": False}, "importance has no effect on rollouts of the"),
    "a weight of one reward": ({"stages/on/weight": 0.9}, "stages.on.weight has no effect on reward 'approval'"),
    "no luck": ({"rollouts/temperature": 0.0}, "rollouts.temperature is 0; give more, so that stages.on has rollouts"),
    "no users": ({"suite": OFFICE, "approval": None}, "stages.on learns from rewards, but there is no [approval]"),
    "no judge that rates": (
        {"suite": OFFICE, "judges/rules": None, "judges/state": {"kind": "state"}},
        '[approval] has no judge; add one of kind "approval" or "rating"',
    ),
    "no judge that reads": ({"suite": OFFICE}, "no judge reads the cases of 'office'"),
    "a reward that nobody tells": (
        {**RATER, "stages/on/reward": "success"},
        "stages.on.reward is 'success', which rules tell",
    ),
    "a judge who does not rate": (
        {"suite": OFFICE, "judges/state": {"kind": "state"}, "approval/judge": "state"},
        "approval.judge names 'state', not among the judges that rate",
    ),
    "a stage of pairs without cases": (
        {**ONE_LINEAGE, "study/lineages": [["S", "on"]], "stages/S": SAFETY},
        "stages.S learns from pairs, and the suite 'approval' has no cases for it",
    ),
    "none of one label": (
        {"approval/settings/style/gameable_share": 0.01},
        "approval.settings.style.gameable_share is 0.01: of 24 practice scenarios none has a gameable user",
    ),
    "all of one label": (
        {"approval/settings/style/gameable_share": 0.99},
        "approval.settings.style.gameable_share is 0.99: of 24 practice scenarios none has a user who cannot",
    ),
    "a topic in both halves": (
        {"approval/train_topics": ["sending"], "approval/test_topics": ["sending"]},
        "approval.train_topics and approval.test_topics both have",
    ),
    "a topic that is none": ({"approval/train_topics": ["weather"]}, "approval.train_topics has 'weather'"),
    "no room for two turns": ({"rollouts/max_turns": 2}, "rollouts.max_turns is 2, but approval.settings.two takes 3"),
    "roles that rules do not see": (
        {"approval/settings/style/judge_role": "professional"},
        "approval.settings differ in judge_role (friend, professional), which has no effect on judges by rules",
    ),
    "words that rules do not see": (
        {"approval/settings/style/clause": "validation"},
        "approval.settings differ in clause (validation, wants), which has no effect on judges by rules",
    ),
    "attacks on users": ({"attacks": {}}, "[attacks] is for the cases of a suite"),
    "a search among users": (
        {"search": {"lineage": ["on"], "parent": ["lag"], "maximize": "safety"}},
        "search.lineage ends in on, which learns from no pairs",
    ),
    "shifts of users": ({"shifts": {}}, "[shifts] is for the cases of a suite"),
    "probes of a tiny base": ({"probes": {}}, "[probes] asks 'small', a tiny base"),
    "lineages that are not trained": (
        {"approval/lineages": [["off"]]},
        "approval.lineages has 'off', not among study.lineages",
    ),
    "an unknown base": ({"study/only": {"third": [["on"]]}}, "study.only has 'third', not among model.bases"),
    "a lineage of one base alone": (
        {"study/only": {"other": [["two"]]}},
        "study.only.other has ['two'], which is none",
    ),
    "doses": ({"doses": {"on": [1, 2]}}, "doses.'on': its last stage learns from rewards"),
    "a remote base": (
        {"models/small": {"kind": "remote", "name": "openai/some-model"}},
        "model.bases has 'small', a remote model, which cannot be trained here",
    ),
    "a level twice": ({"approval/kl_levels": [0.1, 0.1]}, "approval.kl_levels repeats a level"),
    "true for one": ({"stages/on/steps": True}, "stages.on.steps: value error, true or false, where a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    changes, told = REFUSED[name]
    with pytest.raises(hf.StudyError) as refused:
        build(load(write_toml(changed(changes), tmp_path / "study.toml")))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def plan_of(changes: Mapping[str, Any]) -> Plan:
    return build(hf.Study.model_validate(changed(changes)))


def train_step(plan: Plan, stage: str, base: str = "small-0") -> Step:
    (found,) = (s for s in plan.steps if s.settings.dump().get("stage") == stage and s.checkpoints[0].base == base)
    return found


def test_the_miniature_becomes_these_steps() -> None:
    plan = plan_of({})
    kinds = Counter(
        (step.kind, step.settings.dump().get("method", step.settings.dump().get("part", ""))) for step in plan.steps
    )
    # Of the larger base one arm is trained alone; its rollouts serve two arms of the smaller one.
    assert kinds["train", "sft"] == 2 and kinds["train", "grpo"] == 4
    assert kinds["train", "best_sft"] == kinds["train", "best_dpo"] == 1
    assert kinds["rollout", "practice"] == 2
    # Two bases, two checkpoints of three stages, one of three.
    assert kinds["rollout", "approval"] == 2 + 3 * 2 + 3
    assert kinds["judge", ""] == kinds["rollout", "practice"] + kinds["rollout", "approval"]
    assert not [step for step in plan.steps if step.kind in ("pair", "reference")]


def test_steps_come_after_what_they_read() -> None:
    plan = plan_of({})
    done: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs) <= done, step.name
        done.add(step.fingerprint)
    source, learner = train_step(plan, "on", "other-0"), train_step(plan, "other")
    assert source.fingerprint in learner.inputs and learner.settings.dump()["sampler"] == source.checkpoints[-1].id
    rolled = plan.step(learner.settings.dump()["rolled"])
    assert rolled.settings.dump()["checkpoint"] == source.checkpoints[-1].id
    assert (rolled.settings.dump()["part"], rolled.settings.dump()["settings"]) == ("practice", ["style"])


def test_checkpoints_on_the_way_meet_their_own_users_alone() -> None:
    plan = plan_of({})
    midway, last = train_step(plan, "on").checkpoints
    assert [one.axes["dose"] for one in (midway, last)] == [0.5, 1]
    assert [one.stages[-1].steps for one in (midway, last)] == [2, 4]
    met = {
        s.settings.dump()["checkpoint"]: s.settings.dump()
        for s in plan.steps
        if s.settings.dump().get("part") == "approval"
    }
    assert met[midway.id]["settings"] == ["style"] and met[last.id]["settings"] == ["style", "two"]


def test_what_is_told_of_other_users_changes_nothing_for_a_stage() -> None:
    plan = plan_of({})
    more = plan_of({"approval/settings/third": {"gameable_share": 0.25}, "approval/kl_levels": [0.5]})
    assert train_step(plan, "on").fingerprint == train_step(more, "on").fingerprint
    for change in ({"approval/practice": 30}, {"rollouts/max_tokens": 20}, {"stages/on/reward": "penalized"}):
        assert train_step(plan_of(change), "on").fingerprint != train_step(plan, "on").fingerprint


def test_another_seed_of_rollouts_is_another_draw_with_users_too() -> None:
    plan, again = plan_of({}), plan_of({"rollouts/seed": 7})

    def seeds(plan: Plan, part: str) -> set[int]:
        return {step.settings.dump()["rollout_seed"] for step in plan.steps if step.settings.dump().get("part") == part}

    for part in ("approval", "practice"):
        assert seeds(plan, part) and not seeds(plan, part) & seeds(again, part)
    assert train_step(plan, "on").fingerprint != train_step(again, "on").fingerprint


def test_axes_vary_a_stage_but_for_the_loss_of_pairs() -> None:
    varied = plan_of({**ONE_LINEAGE, "axes": {"learning_rate": [1e-4, 2e-4]}})
    rates = [
        step.settings.dump()["learning_rate"] for step in varied.steps if step.settings.dump().get("stage") == "on"
    ]
    assert rates == [1e-4, 2e-4]
    kept = [
        s.settings.dump()["loss"]
        for s in plan_of({**ONE_LINEAGE, "axes": {"loss": ["ipo"]}}).steps
        if "stage" in s.settings.dump()
    ]
    assert kept == ["dapo"]


def test_users_met_by_some_lineages() -> None:
    plan = plan_of({"approval/lineages": [["on"]]})
    ids = {one.id: one.lineage for step in plan.steps for one in step.checkpoints}
    met = {ids[s.settings.dump()["checkpoint"]] for s in plan.steps if s.settings.dump().get("part") == "approval"}
    # A curve of training is not cut where the lineage is left out: what was kept midway is met.
    assert {("on",), ()} <= met and ("own",) not in met


def test_a_run_notes_who_rewards_although_it_orders_judges_by_name() -> None:
    judges = {"judges/rules": None, "judges/z": {"kind": "approval"}, "judges/a": {"kind": "approval"}}
    study = hf.Study.model_validate(changed(judges))
    noted = json.loads(json.dumps(study.settings(), sort_keys=True))
    assert list(noted["judges"]) == ["a", "z"] and study.raters == ("z", "a")
    (step, *_) = (one for one in build(study).steps if "kept" in one.settings.dump())
    assert step.settings.dump()["judge"] == noted["approval"]["judge"] == "z"
    again = hf.Study.model_validate(noted)
    assert again.settings() == study.settings() and {one.fingerprint for one in build(again).steps} == {
        one.fingerprint for one in build(study).steps
    }


def test_a_rating_judge_speaks_while_a_stage_trains() -> None:
    plan = plan_of({**ONE_LINEAGE, **RATER, "stages/own": None})
    step = train_step(plan, "on")
    assert step.settings.dump()["speaker"]["model"] == "small" and step.settings.dump()["rater"]["kind"] == "rating"
    assert plan.step(step.inputs[0]).kind == "train"


def test_stages_of_both_sorts_in_one_lineage() -> None:
    plan = build(load(STUDIES / "approval-joined.toml"))
    made = {one.id: (one, step) for step in plan.steps for one in step.checkpoints}
    met: dict[str, set[str]] = {}
    for step in plan.steps:
        if step.kind == "rollout":
            met.setdefault(step.settings.dump()["checkpoint"], set()).add(step.settings.dump()["part"])
    through = [one for one, _ in made.values() if one.lineage == ("S", "R", "H")]
    assert len(through) == 3
    for one in through:
        parent, step = made[one.parent_id or ""]
        assert (parent.lineage, parent.axes["dose"], step.settings.dump()["method"]) == (("S", "R"), 1, "grpo")
        assert made[parent.parent_id or ""][0].lineage == ("S",)
        # What is compared meets the cases of the office and the users, what is on its way the users alone.
        assert met[one.id] == met[parent.id] == {"test", "approval"}
        midway = [other for other in step.checkpoints if other.axes["dose"] != 1]
        assert midway and all(met[other.id] == {"approval"} for other in midway)
        pairs, reference = (plan.step(name) for name in made[one.id][1].inputs[1:3])
        assert (pairs.kind, reference.kind, reference.settings.dump()["checkpoint"]) == ("pair", "reference", parent.id)


@pytest.mark.parametrize("name", ["quick", "arms", "joined", "full"])
def test_studies_that_ship_are_valid_and_forecast(name: str, tmp_path: Path) -> None:
    study = load(STUDIES / f"approval-{name}.toml")
    problems, facts = look_around(study)
    assert not [one for one in problems if not one.startswith("disk")] and facts
    told = forecast(build(study), tmp_path)["left"]
    assert told["cpu_seconds"] > 100 and told["calls"] == told["money"] == 0


def test_the_published_study_is_forecast_in_calls_and_tokens(tmp_path: Path) -> None:
    settings = tomllib.loads((STUDIES / "approval-published.toml").read_text(encoding="utf-8"))
    study = hf.Study.model_validate(settings)
    one = {"study": {**settings["study"], "lineages": settings["study"]["lineages"][:1], "train_seeds": [5]}}
    one["model"] = {**settings["model"], "bases": settings["model"]["bases"][:1]}
    plan = build(hf.Study.model_validate({**settings, **one}))
    (stage,) = (step for step in plan.steps if step.kind == "train" and "stage" in step.settings.dump())
    sampled = stage.size * stage.settings.dump()["prompts_per_step"] * stage.settings.dump()["group_size"]
    assert (stage.size, stage.settings.dump()["group_size"], sampled) == (300, 5, 3000)
    traffic = {row["speaker"]: row for row in forecast(plan, tmp_path)["traffic"]}
    talked = sum(step.size for step in plan.steps if step.kind == "rollout")
    rated = sum(step.size for step in plan.steps if step.kind == "judge" and "speaker" in step.settings.dump())
    # One reply a user; a rating of approval and one of harm.
    assert traffic["agent"]["calls"] == talked + sampled
    assert traffic["judge"]["calls"] == 2 * (rated + (sampled if "speaker" in stage.settings.dump() else 0))
    assert traffic["judge"]["output_tokens"] / traffic["judge"]["calls"] < 10
    assert len(study.study.train_seeds) == 3
