"""Episodes with users: the held-out pairs that checkpoints meet, and those that a stage trains on."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import RolloutSettings, UserSettings
from holdfast.runs.plan.step import Made
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import REWARD_METHODS, RewardSection, is_midway
from holdfast.study.users import APPROVAL, PRACTICE, ApprovalSection
from holdfast.suites.approval.scenarios import SUITE


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
            suite=SuiteSection(name=SUITE),
            split_seed=split_seed,
            part=APPROVAL,
            per_case=section.per_case if checkpoint.lineage else section.base_per_case or section.per_case,
            rollout_seed=planner.reseed(0),
            limits=planner.limits(),
            users=choose_users(section, APPROVAL, settings),
            own=own,
        ),
        count=2 * section.pairs * len(settings),
    )


def choose_users(section: ApprovalSection, part: str, names: Sequence[str]) -> UserSettings:
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
            suite=SuiteSection(name=SUITE),
            split_seed=split_seed,
            part=PRACTICE,
            per_case=stage.group_size,
            rollout_seed=planner.reseed(seed),
            limits=planner.limits(),
            users=choose_users(section, PRACTICE, (stage.setting,)),
        ),
        count=section.practice,
    )
