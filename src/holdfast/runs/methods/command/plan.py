"""Plans stages that the user's own trainer carries out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast.records import StageRecord
from holdfast.runs.methods.demonstrations.plan import Source, plan_source
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Made, Replicate
from holdfast.study.command import CommandSection
from holdfast.study.sections import SuiteTable
from holdfast.study.stages import DEMONSTRATIONS, PAIRS, TRAJECTORIES, StageSection


@dataclass(frozen=True, kw_only=True)
class CommandSettings(StageSettings):
    """A stage that a program carries out, kept at every dose.

    Pairs are of the step ``pairs``. Of episodes, ``suite`` to ``judge`` say what they say of a stage that imitates
    (``ImitationSettings``); none of them opens as a held-out case of the split ``split_seed`` does.
    """

    unit = "trainings"
    section: CommandSection = field(metadata={"flat": True})
    doses: tuple[int, ...]
    split_seed: int | None = None
    pairs: str | None = None
    suite: SuiteTable | None = field(default=None, metadata={"exclude_unset": True})
    version_of_demonstrations: int | str | None = None
    judge: str | None = None


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage at dose 1: a program that is given its parent and what its ``data`` names."""
    name, study, known = lineage[-1], planner.study, parent.checkpoint
    section = study.stages[name].at_point(replicate.point)
    assert isinstance(section, CommandSection)
    source, pairs = Source(), None
    if section.learns_from == PAIRS:
        pairs = _plan_pairs(planner, replicate, parent, section)
    elif section.learns_from in (DEMONSTRATIONS, TRAJECTORIES):
        section, source = plan_source(planner, replicate, parent, section)
    inputs = [parent.step, *([pairs] if pairs else source.inputs)]
    doses = study.doses_of(lineage)
    settings = CommandSettings(
        **planner.of_stage(replicate, parent, name, section),
        doses=doses,
        split_seed=replicate.split_seed if section.learns_from in (DEMONSTRATIONS, TRAJECTORIES) else None,
        pairs=pairs,
        **source.settings,
    )
    told: dict[str, Any] = {"name": name, "method": section.method, "objectives": section.objectives}
    told |= {"settings": section.resolved(), "data": _name_data(section, pairs, source)}
    kept = {
        dose: ([*known.stages, StageRecord(**told, steps=section.steps and section.steps * dose)], {"dose": dose})
        for dose in doses
    }
    label = ",".join(lineage)
    return planner.add_training(replicate, label, inputs, settings, size=1, parent=known, kept=kept)[0]


def _plan_pairs(planner: Planner, replicate: Replicate, parent: Made, section: CommandSection) -> str:
    """The step of the pairs that a stage of ours on the same objectives would learn from."""
    judge = replicate.point.get("pair_judge", planner.study.pair_judge)
    rollout = planner.rollout_to_learn_from(replicate, parent)
    alike = StageSection(objective=section.objective, agree=section.agree, flip=section.flip)
    return planner.pair(rollout, judge, alike, replicate.split_seed, replicate.seed)


def _name_data(section: CommandSection, pairs: str | None, source: Source) -> str | None:
    """What identifies the data in the record: by it an analysis tells which judge's scores a stage learnt from.

    Nobody says whose scores are in a file, or in what a program brings itself.
    """
    if section.learns_from == DEMONSTRATIONS:
        return ""
    return pairs or next(iter(source.inputs), None)
