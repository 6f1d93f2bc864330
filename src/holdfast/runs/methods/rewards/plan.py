"""Plans stages that learn from rewards.

parent ─┬───────────────────────────────────── train R (samples its own rollouts) ─┬─ rollout (approval, test) ─ judge
        └─ rollout (practice, train) ─ judge ─ train R (learns from stored ones) ──┘

Rollouts are with the users of a setting (part "practice"), or of the suite's training cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.judges import Judge, open_judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.records import StageRecord
from holdfast.records.errors import require
from holdfast.runs.costs.talk import TALK_TOKENS, calls_with_users
from holdfast.runs.forecast import (
    PUBLISHED_CALLS,
    PUBLISHED_TOKENS,
    Calls,
    Cost,
    expect_emulator,
    expect_judge,
)
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import EpisodeLimits, Record, SpeakerModel, StageSettings, UserSettings
from holdfast.runs.plan.step import Made, Plan, Replicate, Step
from holdfast.study.kinds import kind_of
from holdfast.study.sections import JudgeTable, SuiteTable
from holdfast.study.stages import RewardSection
from holdfast.study.tables import RULES
from holdfast.study.users import PRACTICE


@dataclass(frozen=True, kw_only=True)
class TrainingCases(Record):
    """The training cases that rollouts are of: what decides them and their episodes, as of a rollout step.

    ``kind_version`` is what the kind of the judge that rewards says of itself, ``exclude_unfit`` the rule of pairs.
    """

    suite: SuiteTable = field(metadata={"exclude_unset": True})
    exclude_unfit: bool
    cases: int | str | None = None
    kept_out: int | None = None
    kind_version: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class RewardStageSettings(StageSettings):
    """A stage that learns from rewards, kept after each number of steps in ``kept``.

    ``rater`` is the judge that rewards, ``rubrics`` are the ids of all that its scores depend on, and ``harm_by_rules``
    is given where a study's rules may tell harm beside another judge. Stored rollouts are those of the step
    ``rolled``, sampled by the checkpoint ``sampler``. There are ``users``, or ``training``: the suite's training cases.
    """

    section: RewardSection = field(metadata={"flat": True})
    kept: tuple[int, ...]
    split_seed: int
    judge: str
    rater: JudgeTable
    limits: EpisodeLimits
    rubrics: Mapping[str, str]
    users: UserSettings | None = field(default=None, metadata={"flat": True})
    training: TrainingCases | None = field(default=None, metadata={"flat": True})
    rollout_seed: int | None = None
    harm_by_rules: bool | None = None
    speaker: SpeakerModel | None = None
    rolled: str | None = None
    sampler: str | None = None
    emulator: SpeakerModel | None = None


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage: the checkpoint of its last step, the others are in the same step."""
    name, study = lineage[-1], planner.study
    known, stage = parent.checkpoint, study.stages[name].at_point(replicate.point)
    assert isinstance(stage, RewardSection)
    inputs = [parent.step]
    settings = _describe(planner, stage, name, parent, replicate)
    if not stage.on_policy:
        place, sampler = replicate.base, parent
        if stage.source is not None:
            place, sampler = stage.source.base, planner.train_source(replicate, stage.source)
        rolled = _roll_out(planner, stage, place, sampler, replicate)
        judges = study.raters if settings.training is None else (settings.judge,)
        inputs += [sampler.step, rolled, *(planner.judge(rolled, one) for one in judges)]
        settings = replace(settings, rolled=rolled, sampler=sampler.checkpoint.id)
    else:
        if settings.rater.model is not None:
            speaker, needed = planner.speaker(settings.rater.model)
            settings = replace(settings, speaker=speaker)
            inputs += needed
        if settings.training is not None:
            emulator, needed = planner.emulator()
            settings = replace(settings, emulator=emulator)
            inputs += needed
    # Who rewards labels, as who chooses trajectories does; of users the study says it.
    labelled = {} if settings.training is None else {"pair_judge": settings.judge}
    resolved = stage.resolved() | labelled
    told = StageRecord(name=name, method=stage.method, objectives=stage.objectives, settings=resolved)
    # The dose is the share of the stage that was done.
    kept = {
        at: ([*known.stages, replace(told, steps=at)], {"dose": round(at / stage.steps, 6) if at < stage.steps else 1})
        for at in settings.kept
    }
    label = ",".join(lineage)
    return planner.add_training(replicate, label, inputs, settings, size=stage.steps, parent=known, kept=kept)[-1]


def _roll_out(planner: Planner, stage: RewardSection, base: str, sampler: Made, replicate: Replicate) -> str:
    """Stored rollouts of a checkpoint, as many of each prompt as a group has."""
    split_seed, seed, size = replicate.split_seed, replicate.seed, stage.group_size
    if stage.setting is None:
        return planner.rollout(base, sampler, "train", split_seed, seed, per_case=size)
    met = planner.meet_users(sampler, (stage.setting,), part=PRACTICE, split_seed=split_seed, per_case=size, seed=seed)
    return planner.episodes(base, sampler, met, count=planner.users.practice)


def _describe(
    planner: Planner, stage: RewardSection, name: str, parent: Made, replicate: Replicate
) -> RewardStageSettings:
    """Who rewards a stage, for whom or what, and how its rollouts are sampled."""
    rewarded = _by_judge if stage.setting is None else _by_users
    return RewardStageSettings(
        **planner.of_stage(replicate, parent, name, stage),
        **rewarded(planner, stage, name, replicate),
        kept=tuple(range(stage.every, stage.steps + 1, stage.every)),
        split_seed=replicate.split_seed,
        limits=planner.limits(),
        rollout_seed=planner.study.rollouts.seed or None,
        agent=planner.agent(replicate.base),
    )


def _by_users(planner: Planner, stage: RewardSection, *_: object) -> dict[str, Any]:
    """What settings say of users, and of the judge that rates them."""
    study = planner.study
    judge = planner.users.judge or study.raters[0]
    kinds = [study.judges[one].kind for one in (judge, *study.raters)]
    assert stage.setting is not None
    return {
        "judge": judge,
        "rater": study.judges[judge],
        "users": planner.choose_users(PRACTICE, (stage.setting,)),
        "rubrics": _rubrics(open_judge(judge, study.judges[judge]), ApprovalJudge(name="rules")),
        # Harm is the rules' where a judge of the study is the rules.
        "harm_by_rules": RULES in kinds if stage.reward == "penalized" and kinds[0] != RULES else None,
    }


def _by_judge(planner: Planner, stage: RewardSection, name: str, replicate: Replicate) -> dict[str, Any]:
    """What settings say of training cases, and of the judge of pairs that scores them.

    Errors: StudyError for an objective that it does not score.
    """
    study = planner.study
    judge = str(replicate.point.get("pair_judge", study.pair_judge))
    table = planner.suite.fit_judge(study.judges[judge])
    opened = open_judge(judge, table)
    for objective in stage.objectives:
        require(
            objective in opened.objectives,
            f"stages.{name}.objective is {objective!r}, which the judge of pairs {judge!r} does not score; it scores"
            f" {', '.join(opened.objectives)}; name another judge in pairs.judge, or another objective",
        )
    training = TrainingCases(
        suite=planner.decisive_suite(),
        exclude_unfit=study.pairs.exclude_unfit,
        cases=planner.suite.version,
        kept_out=planner.kept_out(),
        kind_version=kind_of(table).version,
    )
    return {"judge": judge, "rater": table, "training": training, "rubrics": _rubrics(opened)}


def _rubrics(*judges: Judge) -> dict[str, str]:
    """The ids of all that the scores of some judges depend on, by judge and objective."""
    return {f"{one.name} {objective}": one.rubric_of(objective) for one in judges for objective in one.objectives}


def expect_cost(_: Plan, step: Step) -> Cost:
    """Tokens in a stage's trees, a group's prompt once and every reply; calls where it samples its own rollouts."""
    settings = step.settings
    assert isinstance(settings, RewardStageSettings)
    stage, users, calls = settings.section, settings.users, list[Calls]()
    prompts = stage.steps * stage.prompts_per_step
    rollouts = prompts * stage.group_size  # before any is left out
    turns, tokens = (PUBLISHED_CALLS["agent"], PUBLISHED_TOKENS["agent"])
    if users is not None:
        turns, tokens = calls_with_users(users.section), TALK_TOKENS
    if stage.on_policy and settings.agent is not None:
        calls.append(Calls(speaker="agent", model=settings.agent, calls=rollouts * turns, tokens=tokens))
    if stage.on_policy and settings.emulator is not None:
        calls.append(expect_emulator(settings.emulator, rollouts))
    if stage.on_policy and settings.speaker is not None:
        calls.append(expect_judge(settings.rater, settings.speaker, rollouts))
    # All replies of an episode stand in one sequence.
    replies = rollouts * (tokens[1] if users is not None else turns * tokens[1])
    return Cost(tokens=prompts * tokens[0] + replies, calls=calls)
