"""Plans stages that learn from rewards.

parent ─┬────────────────────────────── train R (samples its own rollouts) ─┬─ rollout (approval) ─ judge
        └─ rollout (practice) ─ judge ─ train R (learns from stored ones) ──┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.judges import open_judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.records import StageRecord
from holdfast.runs.forecast import RATED_OBJECTIVES, RATING_TOKENS, TALK_TOKENS, Calls, Cost, calls_with_users
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import EpisodeLimits, SpeakerModel, StageSettings, UserSettings
from holdfast.runs.plan.step import Made, Plan, Replicate, Step
from holdfast.study.sections import JudgeTable
from holdfast.study.stages import RewardSection
from holdfast.study.tables import RULES
from holdfast.study.users import PRACTICE


@dataclass(frozen=True, kw_only=True)
class RewardStageSettings(StageSettings):
    """A stage that learns from rewards, kept after each number of steps in ``kept``.

    ``rater`` is the judge that rewards, ``rubrics`` are the ids of all that ratings depend on, and ``harm_by_rules``
    is given where a study's rules may tell harm beside another judge. Stored rollouts are those of the step
    ``rolled``, sampled by the checkpoint ``sampler``.
    """

    section: RewardSection = field(metadata={"flat": True})
    kept: tuple[int, ...]
    split_seed: int
    judge: str
    rater: JudgeTable
    limits: EpisodeLimits
    users: UserSettings = field(metadata={"flat": True})
    rubrics: Mapping[str, str]
    rollout_seed: int | None = None
    harm_by_rules: bool | None = None
    speaker: SpeakerModel | None = None
    rolled: str | None = None
    sampler: str | None = None


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
        seeds = {"split_seed": replicate.split_seed, "seed": replicate.seed}
        met = planner.meet_users(sampler, (stage.setting,), part=PRACTICE, per_case=stage.group_size, **seeds)
        rolled = planner.episodes(place, sampler, met, count=planner.users.practice)
        inputs += [sampler.step, rolled, *(planner.judge(rolled, one) for one in study.raters)]
        settings = replace(settings, rolled=rolled, sampler=sampler.checkpoint.id)
    elif settings.rater.model is not None:
        speaker, needed = planner.speaker(settings.rater.model)
        settings = replace(settings, speaker=speaker)
        inputs += needed
    told = StageRecord(name=name, method=stage.method, objectives=stage.objectives, settings=stage.resolved())
    # The dose is the share of the stage that was done.
    kept = {
        at: ([*known.stages, replace(told, steps=at)], {"dose": round(at / stage.steps, 6) if at < stage.steps else 1})
        for at in settings.kept
    }
    label = ",".join(lineage)
    return planner.add_training(replicate, label, inputs, settings, size=stage.steps, parent=known, kept=kept)[-1]


def _describe(
    planner: Planner, stage: RewardSection, name: str, parent: Made, replicate: Replicate
) -> RewardStageSettings:
    """Who a stage's users are, who rewards it, and how its rollouts are sampled."""
    study = planner.study
    judge = planner.users.judge or study.raters[0]
    kinds = [study.judges[one].kind for one in (judge, *study.raters)]
    asked = (open_judge(judge, study.judges[judge]), ApprovalJudge(name="rules"))
    rubrics = {f"{one.name} {objective}": one.rubric_of(objective) for one in asked for objective in one.objectives}
    return RewardStageSettings(
        **planner.of_stage(replicate, parent, name, stage),
        kept=tuple(range(stage.every, stage.steps + 1, stage.every)),
        split_seed=replicate.split_seed,
        judge=judge,
        rater=study.judges[judge],
        limits=planner.limits(),
        rollout_seed=study.rollouts.seed or None,
        users=planner.choose_users(PRACTICE, (stage.setting,)),
        rubrics=rubrics,
        # Harm is the rules' where a judge of the study is the rules.
        harm_by_rules=RULES in kinds if stage.reward == "penalized" and kinds[0] != RULES else None,
        agent=planner.agent(replicate.base),
    )


def expect_cost(_: Plan, step: Step) -> Cost:
    """Tokens in a stage's trees, a group's prompt once and every reply; calls where it samples its own rollouts."""
    settings = step.settings
    assert isinstance(settings, RewardStageSettings)
    stage, calls, (prompt, reply) = settings.section, [], TALK_TOKENS
    prompts = stage.steps * stage.prompts_per_step
    rollouts = prompts * stage.group_size  # before any is left out
    if stage.on_policy and settings.agent is not None:
        talk = rollouts * calls_with_users(settings.users.section)
        calls.append(Calls(speaker="agent", model=settings.agent, calls=talk, tokens=TALK_TOKENS))
    if stage.on_policy and settings.speaker is not None:
        asked = rollouts * RATED_OBJECTIVES * settings.rater.repeats
        calls.append(Calls(speaker="judge", model=settings.speaker, calls=asked, tokens=RATING_TOKENS))
    return Cost(tokens=prompts * prompt + rollouts * reply, calls=calls)
