"""The train steps of stages that learn from rewards, and the pairs of users that their checkpoints meet.

parent ─┬────────────────────────────── train R (samples its own rollouts) ─┬─ rollout (approval) ─ judge
        └─ rollout (practice) ─ judge ─ train R (learns from stored ones) ──┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.judges import open_judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.runs.plan.on_pairs import label_step, point_axes
from holdfast.runs.plan.step import Made
from holdfast.study.sections import JudgeTable
from holdfast.study.stages import AXIS_SETTINGS, REWARD_METHODS, RewardSection, is_midway
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, PRACTICE, ApprovalSection
from holdfast.suites.approval import SCENARIOS_VERSION, SUITE

if TYPE_CHECKING:
    from holdfast.runs.plan.planner import Planner

# What of [approval] decides no episode.
_APART = {
    "lineages",
    "every_dose",
    "per_case",
    "base_per_case",
    "judge",
    "reward_levels",
    "kl_levels",
    "late",
    "taught",
}
# Settings of a stage that are no part of its fingerprint where they are not given.
_OPTIONAL = ("source", "tokens_per_step")
# The axes that vary it; "loss" is that of stages that learn from pairs.
_AXES = [key for key in AXIS_SETTINGS if key in RewardSection.model_fields and key != "loss"]
# How a stage's own pairs are told from those of other settings among a checkpoint's measures.
OWN = "own"


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
        APPROVAL,
        split_seed,
        planner.reseed(0),
        suite={"name": SUITE},
        count=2 * section.pairs * len(settings),
        per_case=section.per_case if checkpoint.lineage else section.base_per_case or section.per_case,
        extra={**_condition(section, APPROVAL, settings), **({} if own is None else {OWN: own})},
    )


def _condition(section: ApprovalSection, part: str, settings: Sequence[str]) -> dict[str, Any]:
    """What decides the users of some settings in a part; a setting that is added changes none of them."""
    other = "pairs" if part == PRACTICE else "practice"
    told = section.model_dump(mode="json", exclude=_APART | {"settings", other})
    chosen = {name: section.settings[name].model_dump(mode="json") for name in settings}
    return {"cases": SCENARIOS_VERSION, "settings": list(settings), "condition": {**told, "settings": chosen}}


def practise(planner: Planner, base: str, made: Made, stage: RewardSection, *, split_seed: int, seed: int) -> str:
    """Rollouts of a checkpoint with the users that a stage trains on, which it then learns from."""
    return planner.episodes(
        base,
        made,
        PRACTICE,
        split_seed,
        planner.reseed(seed),
        suite={"name": SUITE},
        count=section_of(planner).practice,
        per_case=stage.group_size,
        extra=_condition(section_of(planner), PRACTICE, (stage.setting,)),
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
    split_seed = point.get("split_seed", study.suite.split_seed)
    settings = stage.model_dump(mode="json", exclude={key for key in _OPTIONAL if getattr(stage, key) is None})
    kept = [stage.every * number for number in range(1, stage.steps // stage.every + 1)]
    place, sampler = source or (replicate.base, parent)
    inputs, told, speakers = [parent.step], _describe(planner, stage, replicate, split_seed), list[str]()
    if stage.on_policy:
        speaker, needed = _ask_rater(planner, told["rater"]["model"])
        speakers += [one["model"] for one in speaker.values()]
        inputs += needed
        told |= speaker
    else:
        rolled = practise(planner, place, sampler, stage, split_seed=split_seed, seed=replicate.seed)
        inputs += [sampler.step, rolled, *(planner.judge(rolled, one) for one in study.raters)]
        told |= {"rolled": rolled, "sampler": sampler.checkpoint.id}
    fingerprint = planner.add(
        "train",
        label_step("train", known.base, ",".join(lineage), replicate.seed, point),
        list(dict.fromkeys(inputs)),
        {**settings, "stage": name, "parent": known.id, "kept": kept, **told},
        size=stage.steps,
        unit="steps",
        speakers=speakers,
    )
    made = tuple(
        Checkpoint(
            id=content_id("checkpoint", fingerprint, at),
            base=known.base,
            stages=(
                *known.stages,
                StageRecord(name=name, method=stage.method, objectives=stage.objectives, settings=settings, steps=at),
            ),
            # The share of the stage that was done.
            axes={**point_axes(point), "dose": 1 if at == stage.steps else round(at / stage.steps, 6)},
            split_seed=split_seed,
            train_seed=replicate.seed,
            parent_id=known.id,
        )
        for at in kept
    )
    planner.set_checkpoints(fingerprint, made)
    return Made(checkpoint=made[-1], step=fingerprint)


def _describe(planner: Planner, stage: RewardSection, replicate: Replicate, split_seed: int) -> dict[str, Any]:
    """Who a stage's users are, who rewards it, and how its rollouts are sampled."""
    section, study = section_of(planner), planner.study
    judge = section.judge or study.raters[0]
    kinds = [study.judges[name].kind for name in (judge, *study.raters)]
    entry = study.entry(replicate.base)
    agent = {"agent": {"model": replicate.base, "entry": entry.model_dump(mode="json")}}
    return {
        "train_seed": replicate.seed,
        "split_seed": split_seed,
        "judge": judge,
        "rater": study.judges[judge].model_dump(mode="json"),
        "limits": planner.limits(),
        **({"rollout_seed": study.rollouts.seed} if study.rollouts.seed else {}),
        **_condition(section, PRACTICE, (stage.setting,)),
        "rubrics": _name_rubrics(judge, study.judges[judge]),
        # Harm is the rules' where a judge of the study is the rules.
        **({"harm_by_rules": RULES in kinds} if stage.reward == "penalized" and kinds[0] != RULES else {}),
        **planner.format_of(replicate.base),
        **({} if entry.kind == "tiny" else agent),
    }


def _name_rubrics(name: str, section: JudgeTable) -> dict[str, str]:
    """The ids of all that rewards and ratings depend on: of the judge that rewards, and of the rules beside it."""
    judges = [open_judge(name, section), ApprovalJudge(name="rules")]
    found = {
        f"{judge.name} {objective}": judge.rubric_of(objective) for judge in judges for objective in judge.objectives
    }
    return dict(sorted(found.items()))


def _ask_rater(planner: Planner, model: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a stage is told of the model that rates while it trains, and the step that makes it, if one does."""
    if model is None:
        return {}, ()
    told, needed = planner.speaker(model)
    return {"speaker": told}, needed
