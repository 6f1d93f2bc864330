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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.models.entries import EndpointSection
from holdfast.records import JSON, Checkpoint, content_id
from holdfast.runs.plan.settings import Kind, Settings
from holdfast.study.sections import NeedSection
from holdfast.study.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What changes no result of a step.

    How its remote models are reached, by the study's names for them, what a run may spend on them, and what the step
    needs of a machine; of ``gpus`` left open it takes ``own_gpus`` where there are any.
    """

    endpoints: Mapping[str, EndpointSection] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)  # max_calls, max_cost
    needs: NeedSection = field(default_factory=NeedSection)
    own_gpus: int = 0
    slice: Path | None = None  # what the step reads of the run, where it may not open the run itself
    ledger: Any = None  # of the run, as a machine elsewhere sees it; None where it is opened in the run
    run: Path | None = None  # the run whose ledger is opened, where the step has a slice of it beside the driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of a plan. ``size`` counts what it works through, in the unit of its kind.

    ``settings`` say all that the work needs besides its inputs; ``checkpoints`` are what a train step makes,
    one per dose, with path and digest still open. ``means`` are no part of the fingerprint.
    """

    fingerprint: str
    name: str
    inputs: tuple[str, ...]
    settings: Settings
    size: int
    checkpoints: tuple[Checkpoint, ...] = ()
    means: Means = Means()

    @property
    def kind(self) -> Kind:
        """The kind of step."""
        return self.settings.kind


def fingerprint_of(settings: Settings, inputs: Sequence[str]) -> str:
    """The fingerprint of a step. In which order inputs are named changes nothing of the work."""
    return content_id(settings.kind, settings.version, settings.dump(), sorted(inputs))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate:
    """One base at one point of the axes with one training seed; ``root`` is the base's own checkpoint."""

    base: str
    root: Made
    point: JSON
    seed: int
    split_seed: int

    @property
    def axes(self) -> dict[str, Any]:
        """The point's axes as a checkpoint has them, which has its split apart."""
        return {key: value for key, value in self.point.items() if key != "split_seed"}

    def label(self, verb: str, base: str, name: str) -> str:
        """The name of a train step, for people."""
        axes = (f"{axis}={value}" for axis, value in self.point.items())
        return " · ".join([f"{verb} {base} · {name} · seed {self.seed}", *axes])
