"""From a study to the steps that carry it out, each once and after its inputs; ``plan`` says what a step is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from holdfast.records import Checkpoint, StageRecord
from holdfast.runs.plan.planner import ONCE_MORE, Planner
from holdfast.runs.plan.settings import AnalyzeSettings, MergeSettings
from holdfast.runs.plan.step import Made, Plan, Replicate
from holdfast.study.parts import PartSection, ProbeSection
from holdfast.study.stages import MERGE, is_midway, is_rewarded_by_users
from holdfast.study.study import Study
from holdfast.study.users import APPROVAL
from holdfast.suites.approval import check_approval
from holdfast.suites.parts import FRESH, PARTS, count_fresh


def build(study: Study, *, fresh: Collection[tuple[str, ...]] = ()) -> Plan:
    """The plan of a study: every step once, each after its inputs.

    ``fresh`` are lineages (the empty one is the base) that meet the fresh cases of a study with a search, too. Errors:
    StudyError, naming the key, for users that cannot be made as the study asks.
    """
    if study.approval is not None:
        check_approval(study.approval, tiny=any(study.entry(name).kind == "tiny" for name in study.model.bases))
    planner = Planner(study, fresh)
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
                replicate = Replicate(base=name, root=base, point=point, seed=seed, split_seed=split_seed)
                evaluations += _plan_replicate(planner, replicate)
    for name in study.model.bases if planner.suite.has_cases else ():
        if study.entry(name).start:
            evaluations += _evaluate_untaught(planner, name)
    judged = tuple(dict.fromkeys(evaluations))
    planner.add("analyze", judged, AnalyzeSettings(draws=study.study.draws), size=study.study.draws)
    return Plan(study=study, steps=tuple(planner.steps.values()))


def _evaluate(planner: Planner, base: str, made: Made, split_seed: int) -> list[str]:
    """Held-out episodes of a checkpoint, judged by every judge; the same cases for every checkpoint."""
    study, checkpoint = planner.study, made.checkpoint
    # On its way a stage that learns from rewards is met by its own users alone.
    midway, judged = is_midway(checkpoint), list[str]()
    if planner.suite.has_cases and not midway:
        rollout = planner.rollout(base, made, "test", split_seed, 0)
        judged += [planner.judge(rollout, judge) for judge in study.readers]
    judged += _evaluate_approval(planner, base, made, split_seed)
    if midway:
        return judged
    for part, kind in PARTS.items():
        section: PartSection | None = getattr(study, kind.key)
        if section is None or part == APPROVAL or not _meets(section, checkpoint):
            continue
        rollout = planner.rollout(base, made, part, split_seed, 0)
        judges = (section.judge,) if isinstance(section, ProbeSection) else study.readers
        judged += [planner.judge(rollout, judge) for judge in judges]
    if checkpoint.lineage in planner.fresh:
        # Cases that no choice was made by, or other episodes of the same cases where there are no more.
        part, seed = (FRESH, 0) if count_fresh(study) else ("test", ONCE_MORE)
        rollout = planner.rollout(base, made, part, split_seed, seed)
        judged += [planner.judge(rollout, judge) for judge in study.readers]
    return judged


def _evaluate_untaught(planner: Planner, base: str) -> list[str]:
    """Held-out episodes of a base as it was before its start, for a row beside the study's own."""
    study = planner.study
    made_here = study.entry(base).kind in ("tiny", "random")
    (split_seed,) = study.axes.get("split_seed", (study.suite.split_seed,))
    found = []
    for seed in study.model.base_seeds[: None if made_here else 1]:
        rollout = planner.rollout(base, planner.untaught(base, seed), "test", int(split_seed), 0)
        found += [planner.judge(rollout, judge) for judge in study.readers]
    return found


def _evaluate_approval(planner: Planner, base: str, made: Made, split_seed: int) -> list[str]:
    """Episodes of a checkpoint with the held-out pairs of users, judged by every judge that rates."""
    section = planner.study.approval
    if section is None or not _meets(section, made.checkpoint, midway=True):
        return []
    # Midway in a stage on rewards only the users of its own setting are met.
    last = filter(is_rewarded_by_users, made.checkpoint.stages[-1:])
    own = next((stage.settings["setting"] for stage in last), None)
    names = (own,) if own is not None and is_midway(made.checkpoint) else tuple(section.settings)
    per_case = section.per_case if made.checkpoint.lineage else section.base_per_case or section.per_case
    settings = planner.meet_users(made, names, part=APPROVAL, split_seed=split_seed, per_case=per_case, seed=0)
    count = 2 * section.pairs * len(names)
    rollout = planner.episodes(base, made, replace(settings, own=own), count=count)
    return [planner.judge(rollout, judge) for judge in planner.study.raters]


def _meets(section: PartSection, checkpoint: Checkpoint, *, midway: bool = False) -> bool:
    """Whether a checkpoint is among those that a part of the cases is for, ``midway`` in a stage too."""
    if not checkpoint.lineage:
        return True
    first = section.every_dose or checkpoint.axes.get("dose", 1) == 1 or (midway and is_midway(checkpoint))
    return first and (section.lineages is None or checkpoint.lineage in section.lineages)


def _plan_replicate(planner: Planner, replicate: Replicate) -> list[str]:
    """All lineages of a replicate and its merges, with the held-out episodes of all their checkpoints."""
    study, judged = planner.study, list[str]()
    made: dict[tuple[str, ...], Made] = {(): replicate.root}

    def evaluate(step: str) -> list[str]:
        every = (Made(checkpoint=one, step=step) for one in planner.steps[step].checkpoints)
        return [name for one in every for name in _evaluate(planner, replicate.base, one, replicate.split_seed)]

    for lineage in study.lineages_of(replicate.base):
        for length in range(1, len(lineage) + 1):
            if (prefix := lineage[:length]) not in made:
                made[prefix] = planner.train(replicate, made, prefix)
                judged += evaluate(made[prefix].step)
    for label in study.merges:
        judged += evaluate(_plan_merge(planner, replicate, made, label).step)
    return judged


def _plan_merge(planner: Planner, replicate: Replicate, made: Mapping[tuple[str, ...], Made], name: str) -> Made:
    """The step that interpolates two lineages' weights at every share."""
    merge = planner.study.merges[name]
    of = [made[one] for one in merge.of]
    first, second = (one.checkpoint for one in of)
    settings = MergeSettings(stage=name, of=(first.id, second.id), shares=merge.shares)
    trained = dict.fromkeys(goal for one in (first, second) for stage in one.stages for goal in stage.objectives)
    told = StageRecord(name=name, method=MERGE, objectives=tuple(trained), steps=0, pairs=0)
    lineages = [list(one.lineage) for one in (first, second)]
    kept = {
        share: ([replace(told, settings={"share": share, "of": lineages})], {"share": share}) for share in merge.shares
    }
    inputs, size = [one.step for one in of], len(merge.shares)
    # Its parent is, of the two, the one that a merge with a small share is next to.
    return planner.add_training(replicate, name, inputs, settings, size=size, parent=first, kept=kept, verb="merge")[0]
