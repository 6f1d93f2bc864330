"""The train steps of lineages: stages one after the other, and merges of two lineages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.records import JSON, Checkpoint, StageRecord, content_id
from holdfast.runs.plan.planner import Planner, decisive_suite
from holdfast.runs.plan.settings import MergeSettings, PairStageSettings, TuningSettings
from holdfast.runs.plan.step import Made
from holdfast.study.stages import AXIS_SETTINGS, MERGE, MergeSection, StageSection
from holdfast.suites.casebook import count_tuning


def second_objective(stage: StageSection) -> str | None:
    """The objective that a stage keeps beside its own, or None."""
    for kept in (stage.mix, stage.term, stage.balance):
        if kept is not None:
            return kept.objective
    return None


def train_stage(
    planner: Planner,
    base: str,
    parent: Made,
    lineage: tuple[str, ...],
    point: JSON,
    *,
    rollout: str,
    judge: str,
    seed: int,
) -> Made:
    """The lineage's last stage, from ``parent`` on the pairs that ``judge`` makes of a rollout step, at dose 1.

    A stage that keeps a second objective has its pairs of the same rollouts, by the same rule, as one more input.
    """
    name, study, known = lineage[-1], planner.study, parent.checkpoint
    overrides = {axis: value for axis, value in point.items() if axis in AXIS_SETTINGS}
    section = study.pair_stage(name).model_copy(update=overrides)
    split_seed = point.get("split_seed", study.suite.split_seed)
    pairs = planner.pair(rollout, judge, section, split_seed, seed)
    reference = planner.reference(base, parent, rollout, section, split_seed)
    inputs = [parent.step, pairs, reference]
    doses = study.doses_of(lineage)
    settings = PairStageSettings(
        method=section.method,
        section=section,
        stage=name,
        parent=known.id,
        train_seed=seed,
        doses=doses,
        calls=planner.calls_of(base),
    )
    if (other := second_objective(section)) is not None:
        plain = section.model_copy(update={"objective": other, "agree": "all", "flip": 0.0})
        inputs.append(planner.pair(rollout, judge, plain, split_seed, seed))
    if section.balance is not None:
        emulator, needed = planner.emulator()
        tuning = _tuning(planner, judge, split_seed)
        settings = replace(settings, tuning=tuning, agent=planner.agent(base), emulator=emulator)
        inputs += needed
    fingerprint = planner.add(
        label_step("train", known.base, ",".join(lineage), seed, point),
        inputs,
        settings,
        size=section.steps * doses[-1],
    )
    checkpoints = tuple(
        Checkpoint(
            id=content_id("checkpoint", fingerprint, dose),
            base=known.base,
            stages=(*known.stages, _record(section, name, dose, pairs)),
            axes={**point_axes(point), "dose": dose},
            split_seed=split_seed,
            train_seed=seed,
            parent_id=known.id,
        )
        for dose in doses
    )
    planner.set_checkpoints(fingerprint, checkpoints)
    return Made(checkpoint=checkpoints[0], step=fingerprint)


def label_step(verb: str, base: str, name: str, seed: int, point: JSON) -> str:
    """A train step for people."""
    return " · ".join([f"{verb} {base} · {name} · seed {seed}", *(f"{axis}={value}" for axis, value in point.items())])


def point_axes(point: JSON) -> dict[str, Any]:
    """A point's axes as a checkpoint has them, which has its split apart."""
    return {key: value for key, value in point.items() if key != "split_seed"}


def _record(section: StageSection, name: str, dose: int, pairs: str) -> StageRecord:
    """The stage as it is run to a dose. ``pairs`` is the fingerprint of the step that made its own pairs."""
    # Steps of whole sub-trees, and the last step of a pairwise epoch, take as many pairs as there are; a balance takes
    # a second pair only while it weighs something.
    exact = not (section.pairwise or section.trajectories_per_case or section.epochs or section.balance)
    each = section.pairs_per_step * (2 if section.term is not None else 1)
    return StageRecord(
        name=name,
        method=section.method,
        objectives=section.objectives,
        # The record tells a control from its stage.
        settings={**section.resolved(), "flip": section.flip},
        # How many make an epoch is known when the pairs are.
        steps=None if section.epochs else section.steps * dose,
        pairs=section.steps * each * dose if exact else None,
        data=pairs,
    )


def _tuning(planner: Planner, judge: str, split_seed: int) -> TuningSettings:
    """What a balance is measured with."""
    study = planner.study
    return TuningSettings(
        suite=decisive_suite(study.suite),
        split_seed=split_seed,
        # The part is drawn for the stage that asks for most, which decides its cases.
        of=count_tuning(study),
        limits=planner.limits(),
        judge=judge,
        section=study.judges[judge],
    )


def merge_lineages(
    planner: Planner, name: str, merge: MergeSection, of: Sequence[Made], point: JSON, *, seed: int
) -> str:
    """The step that interpolates two checkpoints' weights at every share; its fingerprint."""
    first, second = (made.checkpoint for made in of)
    fingerprint = planner.add(
        label_step("merge", first.base, name, seed, point),
        [made.step for made in of],
        MergeSettings(stage=name, of=(first.id, second.id), shares=merge.shares),
        size=len(merge.shares),
    )
    trained = dict.fromkeys(goal for one in (first, second) for stage in one.stages for goal in stage.objectives)
    checkpoints = tuple(
        Checkpoint(
            id=content_id("checkpoint", fingerprint, share),
            base=first.base,
            stages=(
                StageRecord(
                    name=name,
                    method=MERGE,
                    objectives=tuple(trained),
                    settings={"share": share, "of": [list(one.lineage) for one in (first, second)]},
                    steps=0,
                    pairs=0,
                ),
            ),
            axes={**point_axes(point), "share": share},
            split_seed=first.split_seed,
            train_seed=seed,
            # Of the two, the one that a merge with a small share is next to.
            parent_id=first.id,
        )
        for share in merge.shares
    )
    planner.set_checkpoints(fingerprint, checkpoints)
    return fingerprint
