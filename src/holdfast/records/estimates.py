"""What was measured: estimates, frontiers, curves, and the analysis that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from holdfast.records.episodes import JSON


class Labelled(str, Enum):
    """Of how many of the stages that something is about a judge labelled the pairs, or gave the rewards."""

    NONE = "none"
    SOME = "some"
    ALL = "all"
    UNKNOWN = "unknown"  # the run does not say who labelled them


SECTIONS = ("scores", "persistence", "frontier", "deltas", "agreement", "audit", "dose", "health")
# Only where a study asks for them, or a judge's truth is known.
OPTIONAL_SECTIONS = ("calibration", "susceptibility", "shifts", "taxonomy", "repair", "second_stage", "exploitation")
# Caveats: of a lineage's first stage, and of a lineage whose later stages are not there alone.
UNDECLARED_GOAL = "what it was trained for is not declared"
AGAINST_BASE = "held against the base"
FEW_CASES = 10  # below this nothing is found, whatever an interval says


class Unbounded(str, Enum):
    """An interval that is no interval: a Fieller set that excludes nothing, or all but a gap."""

    UNBOUNDED = "unbounded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One number of a report, with what it is a number of.

    ``kind`` names the quantity, ``estimator`` how it was computed. ``base``, ``lineage``, ``axes``,
    ``judge`` and ``objective`` say what it is about: an absent key means pooled over. ``unit`` says what one
    point or one counted thing is, where that needs saying. ``interval`` is a 95 % interval, ``resampled``
    names what it treats as random (cases, seeds, bases), ``claim`` says whether it speaks of these checkpoints
    or of the recipe. ``value`` None means not identified or not computable, and ``caveats`` then say why.

    ``labelled`` and ``reads_state`` say how the judges whose scores these are stand to what was trained: whether they
    labelled its pairs, and whether they read the world's end state; None where no judge is part of it. ``beside`` is
    True where the headline is another judge's.
    """

    kind: str
    estimator: str
    value: float | None
    interval: tuple[float, float] | Unbounded | None = None
    claim: Literal["checkpoint", "recipe"] = "checkpoint"
    base: str | None = None
    lineage: tuple[str, ...] | None = None
    axes: JSON = field(default_factory=dict)
    judge: str | None = None
    objective: str | None = None
    unit: str | None = None
    resampled: tuple[str, ...] = ()
    n: Mapping[str, int] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    labelled: Labelled | None = None
    reads_state: bool | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFacts:
    """How a judge stands to what it scored.

    ``objectives`` are what it was asked for, ``headline`` those of them whose headline is its own, alone or pooled with
    the judges of other recipes. A judge that labelled some recipes and not others stands here once for each relation.
    """

    judge: str
    objectives: tuple[str, ...]
    labelled: Labelled
    reads_state: bool
    headline: tuple[str, ...] = ()


def cannot_be_told(cases: int) -> str:
    """What is said instead of a finding that fewer than ``FEW_CASES`` cases would carry."""
    return f"cannot be told ({cases} {'case' if cases == 1 else 'cases'})"


def can_be_told(estimate: Estimate) -> bool:
    """Whether an estimate rests on enough cases for a finding; its value and interval stand either way."""
    return estimate.n.get("cases", FEW_CASES) >= FEW_CASES


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A lineage in the plane of two objectives. ``covariance`` is (xx, xy, yy) in squared score points.

    ``non_dominated`` is the share of resamples in which no other point of the frontier is better on both.
    """

    lineage: tuple[str, ...]
    x: float
    y: float
    base: str | None = None
    axes: JSON = field(default_factory=dict)
    judge: str | None = None
    covariance: tuple[float, float, float] | None = None
    non_dominated: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Points of lineages in the plane of two objectives, and the lines through them.

    ``relative`` is True where coordinates are differences from each point's base. ``lines`` are estimates of
    kind ``slope`` and ``intercept`` by estimator. ``resampled`` names what the points' covariances treat as random.
    """

    unit: str
    x_objective: str
    y_objective: str
    relative: bool
    points: tuple[Point, ...]
    lines: tuple[Estimate, ...]
    resampled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A quantity along one training run: ``y`` at the optimiser steps ``x``, None where it was not measured.

    ``kind`` names the quantity (reward, harm, exploit_rate, kl, length, entropy …); ``source`` says whether it is of
    the rollouts that were trained on or of held-out episodes. ``axes`` hold what it is limited to, such as ``setting``,
    ``environment`` and ``label``.
    """

    kind: str
    source: Literal["training", "held-out"]
    base: str
    lineage: tuple[str, ...]
    train_seed: int | None
    x: tuple[int, ...]
    y: tuple[float | None, ...]
    axes: JSON = field(default_factory=dict)
    judge: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Rows of one quantity that are read together: ``away`` of ``intervals`` lie on one side of zero.

    ``by`` says what its rows are split by, ``by_chance`` how many would lie away from zero if all truths were zero.
    Rows of too few cases are not counted: no finding is made of them.
    """

    section: str
    kind: str
    by: tuple[str, ...]
    claim: str
    intervals: int
    away: int
    by_chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Every estimate that a report needs, by section.

    ``rewarder`` is the judge that rewards, where a study has one; ``judges`` say whose scores all of it is of;
    ``families`` count the intervals of changes that lie away from zero.
    """

    scores: tuple[Estimate, ...] = ()
    persistence: tuple[Estimate, ...] = ()
    frontier: tuple[Estimate, ...] = ()
    deltas: tuple[Estimate, ...] = ()
    agreement: tuple[Estimate, ...] = ()
    audit: tuple[Estimate, ...] = ()
    dose: tuple[Estimate, ...] = ()
    health: tuple[Estimate, ...] = ()
    calibration: tuple[Estimate, ...] = ()
    susceptibility: tuple[Estimate, ...] = ()
    shifts: tuple[Estimate, ...] = ()
    taxonomy: tuple[Estimate, ...] = ()
    repair: tuple[Estimate, ...] = ()
    second_stage: tuple[Estimate, ...] = ()
    exploitation: tuple[Estimate, ...] = ()
    curves: tuple[Curve, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    notes: tuple[str, ...] = ()
    rewarder: str | None = None
    judges: tuple[JudgeFacts, ...] = ()
    families: tuple[Family, ...] = ()

    def sections(self) -> Iterator[tuple[str, tuple[Estimate, ...]]]:
        """Name and estimates of every section, the optional ones last; curves and frontiers are not among them."""
        for name in (*SECTIONS, *OPTIONAL_SECTIONS):
            yield name, getattr(self, name)
