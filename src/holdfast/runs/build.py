"""From a study to the steps that carry it out, each once and after its inputs; ``plan`` says what a step is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from holdfast.records import JSON, Checkpoint
from holdfast.runs.methods import METHODS
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import AnalyzeSettings
from holdfast.runs.plan.step import Made, Plan, Replicate
from holdfast.runs.plan.users import meet_pairs
from holdfast.study.parts import PartSection, ProbeSection
from holdfast.study.stages import is_midway
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL
from holdfast.suites.approval import check_approval
from holdfast.suites.parts import PARTS


def build(study: Study, *, fresh: Collection[tuple[str, ...]] = ()) -> Plan:
    """The plan of a study: every step once, each after its inputs.

    ``fresh`` are lineages (the empty one is the base) that meet the fresh cases of a study with a search, too. Errors:
    StudyError, naming the key, for users that cannot be made as the study asks.
    """
    if study.approval is not None:
        check_approval(study.approval, tiny=any(study.entry(name).kind == "tiny" for name in study.model.bases))
    planner = Planner(study, {name: method.plan for name, method in METHODS.items()}, fresh)
    bases: list[tuple[str, Made]] = []
    for name in study.model.bases:
        # What is opened where it is has no seed of its own.
        made_here = study.entry(name).kind in ("tiny", "random")
        bases += [(name, planner.base(name, seed)) for seed in study.model.base_seeds[: None if made_here else 1]]
    evaluations: list[str] = []
    for point in study.points():
        split_seed = point.get("split_seed", study.suite.split_seed)
        for name, base in bases:
            evaluations += _evaluate(planner, name, base, split_seed)
        for seed in study.study.train_seeds:
            for name, base in bases:
                evaluations += _plan_replicate(planner, name, base, point, seed)
    judged = tuple(dict.fromkeys(evaluations))
    planner.add("analyze", judged, AnalyzeSettings(draws=study.study.draws), size=study.study.draws)
    return Plan(study=study, steps=tuple(planner.steps.values()))


def _evaluate(planner: Planner, base: str, made: Made, split_seed: int) -> list[str]:
    """Held-out episodes of a checkpoint, judged by every judge; the same cases for every checkpoint."""
    study, checkpoint = planner.study, made.checkpoint
    if is_midway(checkpoint):
        # On its way a stage that learns from rewards is met by its own users alone.
        return _evaluate_approval(planner, base, made, split_seed)
    found: list[str] = []
    if planner.suite.has_cases:
        rollout = planner.rollout(base, made, "test", split_seed, 0)
        found += [planner.judge(rollout, judge) for judge in study.readers]
    found += _evaluate_approval(planner, base, made, split_seed)
    for part, place in PARTS.items():
        section: PartSection | None = getattr(study, place)
        if section is None or part == APPROVAL or not _meets(section, checkpoint):
            continue
        rollout = planner.rollout(base, made, part, split_seed, 0)
        judges: Sequence[str | None] = study.readers
        if isinstance(section, ProbeSection):
            judges = (section.judge,)
        found += [planner.judge(rollout, judge) for judge in judges]
    if checkpoint.lineage in planner.fresh:
        again = planner.fresh_rollout(base, made, split_seed)
        found += [planner.judge(again, judge) for judge in study.readers]
    return found


def _evaluate_approval(planner: Planner, base: str, made: Made, split_seed: int) -> list[str]:
    """Episodes of a checkpoint with the held-out pairs of users, judged by every judge that rates."""
    section = planner.study.approval
    if section is None or not _meets(section, made.checkpoint, midway=True):
        return []
    rollout = meet_pairs(planner, base, made, split_seed)
    return [planner.judge(rollout, judge) for judge in planner.study.raters]


def _meets(section: PartSection, checkpoint: Checkpoint, *, midway: bool = False) -> bool:
    """Whether a checkpoint is among those that a part of the cases is for, ``midway`` in a stage too."""
    if not checkpoint.lineage:
        return True
    first = section.every_dose or checkpoint.axes.get("dose", 1) == 1 or (midway and is_midway(checkpoint))
    return first and (section.lineages is None or checkpoint.lineage in section.lineages)


def _plan_replicate(planner: Planner, name: str, base: Made, point: JSON, seed: int) -> list[str]:
    """All lineages from one base at one point of the axes with one training seed."""
    study = planner.study
    split_seed = point.get("split_seed", study.suite.split_seed)
    replicate = Replicate(base=name, root=base, point=point, seed=seed)
    made: dict[tuple[str, ...], Made] = {(): base}
    evaluations: list[str] = []
    for lineage in study.lineages_of(name):
        for length in range(1, len(lineage) + 1):
            prefix = lineage[:length]
            if prefix in made:
                continue
            made[prefix] = planner.train(replicate, made, prefix)
            evaluations += _evaluate_all(planner, name, made[prefix].step, split_seed)
    for label in study.merges:
        merged = planner.train(replicate, made, (label,))
        evaluations += _evaluate_all(planner, name, merged.step, split_seed)
    return evaluations


def _evaluate_all(planner: Planner, base: str, step: str, split_seed: int) -> list[str]:
    """Held-out episodes of every checkpoint that a train step makes."""
    found: list[str] = []
    for checkpoint in planner.steps[step].checkpoints:
        found += _evaluate(planner, base, Made(checkpoint=checkpoint, step=step), split_seed)
    return found
