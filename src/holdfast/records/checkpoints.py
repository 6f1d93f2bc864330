"""What was trained: preference pairs, stages, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.records.episodes import JSON

START = "start"  # the source of what a base was before and while it was taught: no result of its run
AS_IT_WAS = "as it was"  # stands behind the name of a base that was then taught
DOSE = "dose"  # the axis that tells checkpoints of one training apart: the share of the stage, or its multiple


def rank_dose(dose: float) -> tuple[bool, float]:
    """The place of a dose in the order in which one stands for its training: dose 1, which is the stage, then less."""
    return dose != 1, dose


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two trajectories of one case, the chosen one scored higher. ``gap`` is in score points."""

    case_id: str
    chosen: str
    rejected: str
    objectives: tuple[str, ...]
    judge: str
    gap: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One training stage as it was run. ``settings`` are resolved; ``steps`` are optimiser steps."""

    name: str
    method: str
    objectives: tuple[str, ...]
    settings: JSON = field(default_factory=dict)
    steps: int | None = None
    pairs: int | None = None
    data: str | None = None  # fingerprint of the data; empty where a stage learnt from none


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights, and how they came to be. A base has no stages.

    ``axes`` are the study's axes at this point (``beta``, ``pair_judge``, ``dose`` …). ``path`` is relative
    to the run directory and None where the weights are elsewhere; ``model`` is the name that a library
    or provider knows the weights by, where there is one; ``source`` is the run that it was brought from with
    trajectories to learn from, or ``START`` for a base as it was before it was taught, so that it is no result of this
    run. ``start`` are the stages that a base went through before the study began: no part of its lineage.
    """

    id: str
    base: str
    stages: tuple[StageRecord, ...] = ()
    axes: JSON = field(default_factory=dict)
    split_seed: int | None = None
    train_seed: int | None = None
    parent_id: str | None = None
    path: str | None = None
    digest: str | None = None
    model: str | None = None
    source: str | None = None
    start: tuple[StageRecord, ...] = ()

    @property
    def lineage(self) -> tuple[str, ...]:
        """Stage names in order after the base."""
        return tuple(stage.name for stage in self.stages)

    @property
    def name(self) -> str:
        """A name for people; never parsed."""
        parts = [self.base, ",".join(self.lineage) or "base"]
        parts += [f"{key}={value}" for key, value in self.axes.items()]
        parts += [f"split {self.split_seed}"] if self.split_seed is not None else []
        parts += [f"seed {self.train_seed}"] if self.train_seed is not None else []
        return " · ".join(parts)
