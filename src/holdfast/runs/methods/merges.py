"""Merges: weights between two lineages of one base; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.records import StageRecord
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import TrainSettings
from holdfast.runs.plan.step import Made, Replicate, Step
from holdfast.runs.steps.outcomes import Finished
from holdfast.runs.steps.reading import weights_of
from holdfast.store import Store, weights
from holdfast.study.stages import MERGE


@dataclass(frozen=True, kw_only=True)
class MergeSettings(TrainSettings):
    """Weights between two checkpoints at every share of the second."""

    unit = "merges"
    method: str = MERGE
    stage: str
    of: tuple[str, str]
    shares: tuple[float, ...]


def plan_merge(planner: Planner, replicate: Replicate, made: Mapping[tuple[str, ...], Made], name: str) -> Made:
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


def merge(step: Step, settings: MergeSettings, store: Store, scratch: Path) -> Finished:
    """A checkpoint between two others for every share; nothing is trained."""
    from holdfast.training.policy.merging import merge_checkpoints

    weights.clear_scratch(scratch)
    of = [weights_of(store, name) for name in settings.of]
    made = [
        (checkpoint, merge_checkpoints(of[0], of[1], share, scratch / f"share-{number}"))
        for number, (checkpoint, share) in enumerate(zip(step.checkpoints, settings.shares, strict=True))
    ]
    return Finished(result={"merged": len(made)}, checkpoints=tuple(made))
