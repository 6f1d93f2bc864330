"""Stages that the judge of pairs rewards on a suite's training cases: what is sampled, scored, left out and told."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.rewarded_study import GROUP, ON_POLICY, PROMPTS, STEPS, paid_study, settings_of, verdict
from builders.step_logs import log_of

import holdfast as hf
from holdfast.judges.state import StateJudge
from holdfast.models.fakes import FakeProvider
from holdfast.records import Case, Score, Trajectory
from holdfast.rollout.audit import UNFIT
from holdfast.runs.build import build
from holdfast.runs.methods.rewards import train as training
from holdfast.runs.methods.rewards.plan import RewardStageSettings
from holdfast.runs.methods.rewards.rewarding import open_rewards
from holdfast.runs.plan.step import Step
from holdfast.runs.run import measures
from holdfast.runs.steps import reading
from holdfast.store import Store
from holdfast.study.kinds import METHODS


def step_of(study: hf.Study, stage: str = "R") -> Step:
    """The one train step of a stage on rewards."""
    (found,) = [
        step
        for step in build(study).steps
        if isinstance(step.settings, RewardStageSettings) and step.settings.stage == stage
    ]
    return found


@pytest.fixture(scope="module")
def study() -> hf.Study:
    return hf.Study.model_validate(settings_of())


@pytest.fixture(scope="module")
def finished(study: hf.Study, base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> hf.Run:
    return hf.run(study, tmp_path_factory.mktemp("on-policy") / "run", workers=1)


def test_steps_log_the_reward_and_every_rollout(study: hf.Study, finished: hf.Run) -> None:
    step = step_of(study)
    lines, rollouts = log_of(finished.path, step), log_of(finished.path, step, ".rollouts")
    assert len(lines) == STEPS
    with Store(finished.path) as store:
        parts, status = store.splits()[0], store.log.steps()[step.fingerprint]
    assert {line["case"] for line in rollouts} <= set(parts["train"])
    for line in lines:
        metrics, own = line["metrics"], [one for one in rollouts if one["step"] == line["step"]]
        assert sum(one["count"] for one in own) == metrics["rollouts"] == GROUP * PROMPTS
        scored = {one["case"]: 0 for one in own}
        for one in own:
            scored[one["case"]] += one["count"] * (one["reward"] is not None)
            # What is rewarded is the score of the objective, and the other one is watched.
            assert one["reward"] == one.get("helpfulness") and (one["reward"] is None) == ("safety" not in one)
        assert metrics["unscored"] == GROUP * PROMPTS - sum(scored.values())
        assert metrics["lone_groups"] == sum(count < 2 for count in scored.values()) <= metrics["skipped_groups"]
        assert {"kl", "entropy", "helpfulness", "safety", "cut_off", "unfit", "lost_turns"} <= metrics.keys()
        assert "count_gameable" not in metrics and metrics["reward"] == metrics["helpfulness"]
    totals = {name: sum(line["metrics"][name] for line in lines) for name in ("rollouts", "unscored", "lone_groups")}
    assert totals.items() <= status.result["sampled"].items()
    assert status.result["sampled"]["unscored"] > 0  # so that something is told
    (note,) = [one for one in finished.analysis().notes if "have no reward" in one]
    assert note.startswith(f"tiny-0 · S,R · seed 0: {totals['unscored']:g} of {totals['rollouts']:g} rollouts")


def test_every_checkpoint_meets_the_held_out_cases(study: hf.Study, finished: hf.Run) -> None:
    with Store(finished.path) as store:
        points = [one for one in store.checkpoints() if one.lineage == ("S", "R")]
        start = next(one for one in store.checkpoints() if one.lineage == ("S",))
        test = set(store.splits()[0]["test"])
    for one in points:
        assert {row["case"] for row in finished.scores() if row["checkpoint_id"] == one.id} == test
    assert [one.axes["dose"] for one in points] == [0.5, 1]
    assert [one.stages[-1].steps for one in points] == [1, 2] and {one.parent_id for one in points} == {start.id}
    assert points[0].stages[-1].objectives == ("helpfulness",)
    noted = points[0].stages[-1].settings
    assert (noted["reward"], noted["objective"], noted["pair_judge"]) == ("objective", "helpfulness", "state")
    assert not {"weight", "setting"} & noted.keys()
    analysis = finished.analysis()
    (facts,) = analysis.judges
    assert facts.labelled.value == "all"
    # With the KL that each checkpoint's own episodes measured.
    kinds = {(row.lineage, row.axes.get("dose"), row.kind) for row in analysis.second_stage}
    assert {(("S", "R"), 0.5, "lost_per_nat"), (("S", "R"), 1, "kl"), (("S", "R"), 1, "lost_per_gain")} <= kinds
    with Store(finished.path) as store:
        known = measures(store)[points[-1].id]["kl_parent"]
    ours = {"lineage": ("S", "R"), "axes": {"dose": 1}, "kind": "kl", "base": "tiny-0"}
    (row,) = [one for one in analysis.second_stage if all(getattr(one, key) == value for key, value in ours.items())]
    assert row.value == pytest.approx(known)
    curves = {one.kind for one in analysis.curves if one.axes == {"objective": "helpfulness"} and len(one.x) == STEPS}
    assert {"reward", "helpfulness", "safety", "kl"} <= curves
    text = finished.report().read_text(encoding="utf-8")
    assert "The second stage" in text and "along training on rewards" in text


@pytest.fixture
def drawn(finished: hf.Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a stage draws with the weights at its start: its rollouts, and the episodes that were scored for them."""
    scored = training.score_all

    def draw(study: hf.Study, *, attempt: int = 0, **rule: bool) -> tuple[list[Any], list[tuple[Case, Trajectory]]]:
        step, seen = step_of(study), list[tuple[Case, Trajectory]]()
        settings = step.settings
        assert isinstance(settings, RewardStageSettings) and settings.training is not None
        settings = replace(settings, training=replace(settings.training, **rule))

        def spy(judge: Any, items: Any, speakers: Any) -> list[Score]:
            seen.extend(items)
            return scored(judge, items, speakers)

        monkeypatch.setattr(training, "score_all", spy)
        from holdfast.training.policy.adapters import open_policy

        with Store(finished.path) as store:
            practice = training._Practice(step, settings, store, {}, open_rewards(settings, store))
            policy = open_policy(reading.weights_of(store, settings.parent))
            policy.set_training(False)
            return practice.draw(policy, 0, attempt), seen

    yield draw


def test_rewards_are_the_scores_of_a_judge_step(drawn: Any) -> None:
    for objective in ("helpfulness", ["safety", "helpfulness"]):
        study = hf.Study.model_validate(settings_of(**{"stages/R/objective": objective}))
        rewarded, seen = drawn(study)
        assert len(rewarded) == len(seen) == GROUP * PROMPTS and len({one.reward for one in rewarded}) > 1
        wanted = (objective,) if isinstance(objective, str) else objective
        for one, (case, trajectory) in zip(rewarded, seen, strict=True):
            scores = {score.objective: score for score in StateJudge(name="state").judge(case, trajectory)}
            given = [scores[name].value for name in wanted]
            if None in given:
                assert one.reward is None and one.missing == scores[wanted[0]].missing
            else:
                assert one.reward == sum(given) / len(given)
            # All that the agent wrote is trained on, and the sampler's probability is of that.
            assert one.facts["lost_turns"] == 0 and int(one.encoded.agent.sum()) == trajectory.tokens
            assert one.logprob == pytest.approx((trajectory.detail or {})["logprob"])


def test_a_step_of_one_family_has_as_many_cases_as_it_has(finished: hf.Run, drawn: Any) -> None:
    with Store(finished.path) as store:
        cases = reading.cases_of(store)
        trained = Counter(cases[name].family for name in store.splits()[0]["train"])
    for prompts in (2, PROMPTS):
        keys = {"grouping": "family", "prompts_per_step": prompts}
        study = hf.Study.model_validate(settings_of(**{f"stages/R/{key}": value for key, value in keys.items()}))
        _, seen = drawn(study)
        met = {case.id: case.family for case, _ in seen}
        (family,) = set(met.values())
        assert len(met) == min(prompts, trained[family]) and len(seen) == GROUP * len(met)
        # Where a step lacks tokens, it draws more of the same.
        _, more = drawn(study, attempt=1)
        assert {case.family for case, _ in more} == {family}
    _, mixed = drawn(hf.Study.model_validate(settings_of()))
    assert len({case.family for case, _ in mixed}) > 1


def test_unfit_rollouts_have_no_reward_where_pairs_leave_them_out(study: hf.Study, drawn: Any) -> None:
    plain, episodes = drawn(study)
    strict, again = drawn(study, exclude_unfit=True)
    assert [one.id for _, one in episodes] == [one.id for _, one in again]
    unfit = [bool(UNFIT & set(episode.flags)) for _, episode in episodes]
    # Some of them have a score, and a reward only where the rule lets them.
    assert any(bad and one.reward is not None for bad, one in zip(unfit, plain, strict=True))
    for bad, one, other in zip(unfit, plain, strict, strict=True):
        assert one.facts["unfit"] == other.facts["unfit"] == bad
        assert other.reward == (None if bad else one.reward)
        assert not bad or str(other.missing).startswith("unfit (")


def test_stored_rollouts_have_the_scores_of_their_judge_step(base_cache: Path, tmp_path: Path) -> None:
    own = {**ON_POLICY, "method": "best_dpo", "rollouts": "start", "prompts_per_step": 1, "steps": 1, "every": 1}
    own["objective"] = ["safety", "helpfulness"]
    changes = {"study/lineages": [["B"]], "stages": {"B": own}, "study/name": "stored"}
    study = hf.Study.model_validate(settings_of(**changes))
    run = hf.run(study, tmp_path / "run", workers=1)
    step = step_of(study, "B")
    assert isinstance(step.settings, RewardStageSettings) and step.settings.rolled is not None
    with Store(run.path) as store:
        rolled = list(store.trajectories(step=step.settings.rolled))
        judged = list(store.scores_of(one.id for one in rolled))
        practice = training._Practice(step, step.settings, store, {}, open_rewards(step.settings, store))
        stored = practice.read_stored()
        data = store.log.steps()[step.fingerprint].result["data"]
    assert len(rolled) == 24 * GROUP == len(stored) + practice.unreadable and data["rollouts"] == len(stored)
    known = []
    for episode, scores in zip(rolled, judged, strict=True):
        values = [score.value for score in scores]
        known.append((episode.case_id, None if None in values else sum(values) / 2))
    given = [(one.case_id, one.reward) for one in stored]
    assert given and all(given.count(one) <= known.count(one) for one in given)


def test_spoilt_rollouts_count_as_the_lowest_score_unless_a_stage_leaves_them_out(study: hf.Study, drawn: Any) -> None:
    plain, episodes = drawn(study)
    lowest, _ = drawn(hf.Study.model_validate(settings_of(**{"stages/R/unscored": None})))
    # Other episodes, of another step.
    assert any(one.reward is None for one in plain) and all(one.reward is not None for one in lowest)
    assert any(one.facts["counted_lowest"] for one in lowest)
    for one in lowest:
        assert ("helpfulness" in one.facts) != bool(one.facts["counted_lowest"])
        assert one.reward == one.facts.get("helpfulness", 0.0)
    assert "counted_lowest" not in plain[0].facts and episodes


def test_a_remote_judge_is_paid_through_the_ledger_and_the_budget(base_cache: Path, tmp_path: Path) -> None:
    with FakeProvider(answers=verdict) as provider:
        study = paid_study(provider.base_url)
        asked = {one.speaker: one.calls for one in METHODS.find("grpo").cost(build(study), step_of(study, "R")).calls}
        assert asked == {"judge": 8}
        with pytest.raises(hf.StepError, match="max-calls"):
            hf.run(study, tmp_path / "run", workers=1, max_calls=3)
        assert len(provider.bill) == 3
        run = hf.run(study, tmp_path / "run", workers=1)
        # Eight rollouts while it trained, two held-out episodes of two checkpoints; cut-off ones are not asked about.
        assert 3 < len(provider.bill) <= 12 and len({one.digest for one in provider.bill}) == len(provider.bill)
    rollouts = log_of(run.path, step_of(study), ".rollouts")
    assert {one["reward"] for one in rollouts} <= {None, 0.0, 1.0, 2.0, 3.0} and len(rollouts) > 2


RISING = {**ON_POLICY, "group_size": 8, "prompts_per_step": 12, "steps": 40, "every": 20, "learning_rate": 3e-4}


def along_training(path: Path, base: Mapping[str, Any], **changes: Any) -> list[dict[str, float]]:
    """What a longer stage on rewards logs, as far as it comes."""
    stages = {"study/lineages": [["R"]], "stages": {"R": RISING | changes}, "suite/train_cases": 60, **base}
    with contextlib.suppress(hf.StepError):
        hf.run(hf.Study.model_validate(settings_of(**stages)), path, workers=1)
    (log,) = (one for one in path.rglob("*.jsonl") if "rollouts" not in one.name)
    return [json.loads(line)["metrics"] for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.full
def test_the_reward_rises(base_cache: Path, tmp_path: Path) -> None:
    # A base that can act, of twice the width.
    base = {"model/hidden": 96, "model/heads": 4, "model/ffn": 192, "model/sft": {"demonstrations": 12_000}}
    steps = along_training(tmp_path / "run", base, unscored=None)
    early, late = (math.fsum(one["reward"] for one in some) / 10 for some in (steps[:10], steps[-10:]))
    assert len(steps) == 40 and late > early + 0.5
    assert steps[-1]["kl"] > steps[1]["kl"]


@pytest.mark.full
def test_a_policy_is_not_held_from_what_is_never_scored(base_cache: Path, tmp_path: Path) -> None:
    """Why it is not the default: left out of their groups, spoilt rollouts grow from a seventh to most."""
    steps = along_training(tmp_path / "run", {})
    first, last = (one["unscored"] / one["rollouts"] for one in (steps[0], steps[-1]))
    assert first < 0.25 and last > 0.5
