"""The train steps of stages that learn from rewards, and the pairs of users that their checkpoints meet.

parent ─┬────────────────────────────── train R (samples its own rollouts) ─┬─ rollout (approval) ─ judge
        └─ rollout (practice) ─ judge ─ train R (learns from stored ones) ──┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.judges import open_judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.runs.plan.on_pairs import label_step, point_axes
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import RewardStageSettings, RolloutSettings, UserSettings
from holdfast.runs.plan.step import Made
from holdfast.study.sections import JudgeSection, SuiteSection
from holdfast.study.stages import AXIS_SETTINGS, REWARD_METHODS, RewardSection, is_midway
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, PRACTICE, ApprovalSection

# The axes that vary it; "loss" is that of stages that learn from pairs.
_AXES = [key for key in AXIS_SETTINGS if key in RewardSection.model_fields and key != "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate:
    """One base at one point of the axes with one training seed; ``root`` is the base's own checkpoint."""

    base: str
    root: Made
    point: JSON
    seed: int


def section_of(planner: Planner) -> ApprovalSection:
    """The study's [approval]."""
    section = planner.study.approval
    assert section is not None  # a study with such stages has users
    return section


def meet_pairs(planner: Planner, base: str, made: Made, split_seed: int) -> str:
    """Episodes of a checkpoint with the held-out pairs: of every setting, midway in a stage of its own alone."""
    section, checkpoint = section_of(planner), made.checkpoint
    own = next((stage.settings["setting"] for stage in checkpoint.stages[-1:] if stage.method in REWARD_METHODS), None)
    settings = (own,) if own is not None and is_midway(checkpoint) else tuple(section.settings)
    return planner.episodes(
        base,
        made,
        RolloutSettings(
            checkpoint=checkpoint.id,
            suite=SuiteSection(name="approval"),
            split_seed=split_seed,
            part=APPROVAL,
            per_case=section.per_case if checkpoint.lineage else section.base_per_case or section.per_case,
            rollout_seed=planner.reseed(0),
            limits=planner.limits(),
            users=_users(section, APPROVAL, settings),
            own=own,
        ),
        count=2 * section.pairs * len(settings),
    )


def _users(section: ApprovalSection, part: str, names: Sequence[str]) -> UserSettings:
    """The users of some settings in a part."""
    chosen = {name: section.settings[name] for name in names}
    return UserSettings(section=section.model_copy(update={"settings": chosen}), part=part)


def practise(planner: Planner, base: str, made: Made, stage: RewardSection, *, split_seed: int, seed: int) -> str:
    """Rollouts of a checkpoint with the users that a stage trains on, which it then learns from."""
    section = section_of(planner)
    return planner.episodes(
        base,
        made,
        RolloutSettings(
            checkpoint=made.checkpoint.id,
            suite=SuiteSection(name="approval"),
            split_seed=split_seed,
            part=PRACTICE,
            per_case=stage.group_size,
            rollout_seed=planner.reseed(seed),
            limits=planner.limits(),
            users=_users(section, PRACTICE, (stage.setting,)),
        ),
        count=section.practice,
    )


def train_on_rewards(
    planner: Planner,
    parent: Made,
    lineage: tuple[str, ...],
    replicate: Replicate,
    source: tuple[str, Made] | None = None,
) -> Made:
    """The lineage's last stage, from ``parent``; the checkpoint of its last step, the others are in the same step.

    ``source`` is whose stored rollouts it learns from where they are not its parent's, with its base.
    """
    name, study, known = lineage[-1], planner.study, parent.checkpoint
    stage = study.stages[name]
    assert isinstance(stage, RewardSection)
    point = replicate.point
    stage = stage.model_copy(update={key: point[key] for key in _AXES if key in point})
    place, sampler = source or (replicate.base, parent)
    inputs = [parent.step]
    settings = _describe(planner, stage, name, parent, replicate)
    if not stage.on_policy:
        rolled = practise(planner, place, sampler, stage, split_seed=settings.split_seed, seed=replicate.seed)
        inputs += [sampler.step, rolled, *(planner.judge(rolled, one) for one in study.raters)]
        settings = replace(settings, rolled=rolled, sampler=sampler.checkpoint.id)
    elif settings.rater.model is not None:
        speaker, needed = planner.speaker(settings.rater.model)
        settings = replace(settings, speaker=speaker)
        inputs += needed
    fingerprint = planner.add(
        label_step("train", known.base, ",".join(lineage), replicate.seed, point),
        list(dict.fromkeys(inputs)),
        settings,
        size=stage.steps,
    )
    resolved = stage.resolved()
    made = tuple(
        Checkpoint(
            id=content_id("checkpoint", fingerprint, at),
            base=known.base,
            stages=(
                *known.stages,
                StageRecord(name=name, method=stage.method, objectives=stage.objectives, settings=resolved, steps=at),
            ),
            # The share of the stage that was done.
            axes={**point_axes(point), "dose": 1 if at == stage.steps else round(at / stage.steps, 6)},
            split_seed=settings.split_seed,
            train_seed=replicate.seed,
            parent_id=known.id,
        )
        for at in settings.kept
    )
    planner.set_checkpoints(fingerprint, made)
    return Made(checkpoint=made[-1], step=fingerprint)


def _describe(
    planner: Planner, stage: RewardSection, name: str, parent: Made, replicate: Replicate
) -> RewardStageSettings:
    """Who a stage's users are, who rewards it, and how its rollouts are sampled."""
    section, study = section_of(planner), planner.study
    judge = section.judge or study.raters[0]
    kinds = [study.judges[one].kind for one in (judge, *study.raters)]
    return RewardStageSettings(
        method=stage.method,
        section=stage,
        stage=name,
        parent=parent.checkpoint.id,
        kept=tuple(range(stage.every, stage.steps + 1, stage.every)),
        train_seed=replicate.seed,
        split_seed=replicate.point.get("split_seed", study.suite.split_seed),
        judge=judge,
        rater=study.judges[judge],
        limits=planner.limits(),
        rollout_seed=study.rollouts.seed or None,
        users=_users(section, PRACTICE, (stage.setting,)),
        rubrics=_name_rubrics(judge, study.judges[judge]),
        # Harm is the rules' where a judge of the study is the rules.
        harm_by_rules=RULES in kinds if stage.reward == "penalized" and kinds[0] != RULES else None,
        calls=planner.calls_of(replicate.base),
        agent=planner.agent(replicate.base),
    )


def _name_rubrics(name: str, section: JudgeSection) -> dict[str, str]:
    """The ids of all that rewards and ratings depend on: of the judge that rewards, and of the rules beside it."""
    judges = [open_judge(name, section), ApprovalJudge(name="rules")]
    found = {
        f"{judge.name} {objective}": judge.rubric_of(objective) for judge in judges for objective in judge.objectives
    }
    return dict(sorted(found.items()))
