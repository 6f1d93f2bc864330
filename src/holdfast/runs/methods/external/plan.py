"""Plans stages that were trained elsewhere: one step for all seeds and splits, since nothing is trained anew."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.records import Checkpoint, StageRecord, content_id
from holdfast.runs.plan.planner import Planner
from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Made, Replicate
from holdfast.study.kinds import METHODS
from holdfast.study.stages import ExternalSection


@dataclass(frozen=True, kw_only=True)
class ExternalSettings(StageSettings):
    """A stage that was trained elsewhere; ``train_seed`` is always 0, for no seed of the study had a part in it."""

    unit = "models"
    section: ExternalSection = field(metadata={"flat": True})
    train_seed: int = 0


def plan_stage(planner: Planner, replicate: Replicate, parent: Made, lineage: tuple[str, ...]) -> Made:
    """A lineage's last stage at dose 1, with the seeds of what it was trained from: on a base it has none."""
    name, known = lineage[-1], parent.checkpoint
    section = planner.study.stages[name]
    assert isinstance(section, ExternalSection)
    settings = ExternalSettings(
        **(planner.of_stage(replicate, parent, name, section) | {"train_seed": 0}),
        method_version=METHODS.find(section.method).version,
    )
    label = f"open {known.base} · {','.join(lineage)}"
    fingerprint = planner.add(label, [parent.step], settings, size=len(section.digests))
    checkpoints = tuple(
        Checkpoint(
            id=content_id("checkpoint", fingerprint, dose),
            base=known.base,
            stages=(
                *known.stages,
                StageRecord(
                    name=name,
                    method=section.method,
                    objectives=section.objectives,
                    settings={"method": section.method, "digest": digest},
                    steps=steps,
                ),
            ),
            axes={"dose": dose},
            split_seed=known.split_seed,
            train_seed=known.train_seed,
            parent_id=known.id,
        )
        for dose, steps, digest in zip(section.doses, section.counted, section.digests, strict=True)
    )
    return planner.make(fingerprint, checkpoints)[0]
