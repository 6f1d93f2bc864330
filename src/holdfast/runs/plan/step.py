"""From a study to the steps that carry it out. Pure: the same study gives the same plan everywhere.

    sft ─▶ base ─┬─ rollout (train cases) ─┬─ judge ─ pair ─▶ train S ─┬─ rollout (test cases) ─ judge
                 │                         └─ reference ─────▲         └─ reference, pair ─▶ train H (that is S,H) ─ …
                 └─ rollout (test cases) ─ judge

Where pairs come from another run, a bring step takes the place of the rollout on train cases and of its judges.
A reference step takes the log-probabilities that one checkpoint gives the trajectories of one rollout step. All
stages that start from the checkpoint and learn from the rollout share it, whatever their pairs and settings.

A step's fingerprint hashes its settings, the fingerprints of its inputs and its kind's version, which is
raised by hand when that kind of step changes meaning. Equal work has equal fingerprints, so S and S,H share
one S checkpoint without being told, and a run that stops goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from holdfast.records import JSON, Checkpoint
from holdfast.study.study import Study

Kind = Literal["train", "bring", "rollout", "judge", "pair", "reference", "analyze"]
VERSIONS: Mapping[Kind, int] = {
    "train": 2,
    "bring": 1,
    "rollout": 1,
    "judge": 1,
    "pair": 1,
    "reference": 1,
    "analyze": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of a plan. ``size`` counts what it works through, in units of ``unit``.

    ``settings`` say all that the work needs besides its inputs; ``checkpoints`` are what a train step makes,
    one per dose, with path and digest still open. ``means`` say how remote models are reached and what may be spent:
    no part of the fingerprint.
    """

    fingerprint: str
    kind: Kind
    name: str
    inputs: tuple[str, ...]
    settings: JSON
    size: int
    unit: str
    checkpoints: tuple[Checkpoint, ...] = ()
    means: JSON = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a study, each after its inputs."""

    study: Study
    steps: tuple[Step, ...]

    def step(self, fingerprint: str) -> Step:
        """The step with this fingerprint."""
        return next(step for step in self.steps if step.fingerprint == fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A checkpoint of the plan and the step that makes it."""

    checkpoint: Checkpoint
    step: str
