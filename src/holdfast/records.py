"""The nouns. Frozen records that alone cross the borders between rooms.

    Case ─ rollout ─▶ Trajectory ─ judge ─▶ Score ─ pair ─▶ PreferencePair ─ train ─▶ Checkpoint
    Score ─ analyze ─▶ Estimate

Mappings inside a record are JSON values and are never changed after it is made. Ids are derived from
content, so equal things have equal ids in every run and on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

JSON = Mapping[str, Any]
SCALE_ROUNDING = 1e-9  # of a declared range: sums of shares miss its ends by so much
Role = Literal["system", "user", "assistant", "tool"]


def content_id(*parts: object) -> str:
    """A 32-digit id of JSON-able parts: the same parts give the same id everywhere."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=list)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as it is shown to an agent; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that an agent made. ``arguments`` that were no JSON object stand under the key ``_raw``."""

    name: str
    arguments: JSON
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message. A tool's answer has role ``tool`` and the tool's name.

    ``detail`` holds what the agent never saw, such as an emulator's reasoning behind an answer.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    detail: JSON | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test case.

    ``messages`` open the conversation; ``state`` is the world's initial state, hidden parts included;
    ``facts`` says what is true of the case for judges and splits (family, hazard, objects, twin).
    ``number`` is unique within the suite.
    """

    id: str
    suite: str
    number: int
    family: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    state: JSON = field(default_factory=dict)
    facts: JSON = field(default_factory=dict)


class Ending(str, Enum):
    """How an episode ended."""

    FINISHED = "finished"
    TRUNCATED = "truncated"  # a reply was cut off at its limit, or the conversation outgrew the model
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    INCOHERENT = "incoherent"  # the agent's reply could not be read as a message or a call
    ERROR = "error"  # the infrastructure failed: never scored


CUT_OFF = frozenset({Ending.TRUNCATED, Ending.TURN_LIMIT, Ending.TOKEN_LIMIT, Ending.TIME_LIMIT})
"""The endings at a limit, of whatever kind: how the episode would have gone on is not known."""


class Flag(str, Enum):
    """What the audit found in a trajectory. ``holdfast.audit`` says which of them make it unfit."""

    INVENTED_RESULT = "invented_result"  # the last message holds a call and its result, both written by the agent
    INVENTED_MIDWAY = "invented_midway"  # the same in an earlier message
    NO_CALL = "no_call"  # no tool was ever executed
    CLAIMED_WITHOUT_CALL = "claimed_without_call"  # no tool was executed although the agent wrote calls
    TRUNCATED = "truncated"
    OUT_OF_MEMORY = "out_of_memory"
    LOOP = "loop"
    NOTHING_DONE = "nothing_done"
    INVALID_CALL = "invalid_call"  # at least one call was refused by the world as malformed
    INCOHERENT = "incoherent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What one agent did in one case: the messages after the case's own, and the world before and after.

    ``calls`` counts tool calls that the world executed, ``invalid_calls`` those that it refused as
    malformed, ``tokens`` the agent's own tokens (None where unknown).
    """

    id: str
    case_id: str
    checkpoint_id: str
    rollout: int
    messages: tuple[Message, ...]
    ending: Ending
    flags: tuple[Flag, ...] = ()
    world_before: JSON | None = None
    world_after: JSON | None = None
    calls: int = 0
    invalid_calls: int = 0
    tokens: int | None = None
    detail: JSON | None = None

    def without_texts(self) -> Trajectory:
        """The trajectory without what a store keeps as its text: messages and worlds."""
        return replace(self, messages=(), world_before=None, world_after=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A judge's reading of a trajectory: ``value`` in 0..3, or the reason that it is ``missing``.

    Exactly one of the two is None. ``rubric`` identifies prompt, schema and parser; scores under
    different rubrics are never pooled.
    """

    trajectory_id: str
    judge: str
    objective: str
    value: float | None
    missing: str | None = None
    label: str | None = None
    reply: str | None = None
    rubric: str = ""
    repeat: int = 0

    def __post_init__(self) -> None:
        if (self.value is None) == (self.missing is None):
            raise ValueError("a score has either a value or the reason that it is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What the values of a scorer from elsewhere mean, as its source or the user says it; nothing of it is guessed.

    ``key`` is the name of the value in the log (the scorer's own, or a key where it gives several), ``scorer`` and
    ``task`` limit it to one scorer or task, None to none. Values lie between ``low`` and ``high`` in the scorer's own
    unit, and ``sign`` is 1 where the high end is good, -1 where it is bad. ``severe`` is the value from which on,
    towards the bad end, an episode is a severe event; None where nobody says, so that severe events cannot be counted.
    ``source`` says who declared it.
    """

    objective: str
    key: str
    sign: Literal[1, -1]
    low: float
    high: float
    scorer: str | None = None
    task: str | None = None
    severe: float | None = None
    unit: str = ""
    source: str = ""

    def to_points(self, value: float) -> float:
        """A value between ``low`` and ``high`` on our scale: 0 worst, 3 best. Errors: ValueError for any other.

        What a sum of shares is beyond an end by rounding is that end: ten times 0.1 and one over is still 1.
        """
        slack = SCALE_ROUNDING * (self.high - self.low)
        if not self.low - slack <= value <= self.high + slack:
            raise ValueError(f"{value:.15g} lies outside [{self.low:.15g}, {self.high:.15g}]")
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return 3.0 * (share if self.sign > 0 else 1.0 - share)


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
    data: str | None = None  # fingerprint of the data


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights, and how they came to be. A base has no stages.

    ``axes`` are the study's axes at this point (``beta``, ``pair_judge``, ``dose`` …). ``path`` is relative
    to the run directory and None where the weights are elsewhere; ``model`` is the name that a library
    or provider knows the weights by, where there is one; ``source`` is the run that it was brought from with
    trajectories to learn from, so that it is no result of this run.
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


class Labelled(str, Enum):
    """Of how many of the stages that something is about a judge labelled the pairs, or gave the rewards."""

    NONE = "none"
    SOME = "some"
    ALL = "all"
    UNKNOWN = "unknown"  # the run does not say who labelled them


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
class Analysis:
    """Every estimate that a report needs, by section.

    ``rewarder`` is the judge that rewards, where a study has one; ``judges`` say whose scores all of it is of.
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
    exploitation: tuple[Estimate, ...] = ()
    curves: tuple[Curve, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    notes: tuple[str, ...] = ()
    rewarder: str | None = None
    judges: tuple[JudgeFacts, ...] = ()


class Outcome(str, Enum):
    """What a gate says: nothing beyond the margin was lost, it was, or the data cannot tell."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a gate: a child's ``change`` against its parent, held against a margin.

    ``metric`` is one of ``conditions.CHECKS``, or "ceiling" for the child's own share of severe episodes; ``unit`` is
    "points" or "share". ``lower`` and ``upper`` are one-sided bounds of what has scores, each at the confidence
    ``level``; where it is ``adjusted``, Holm's rule chose a level for each bound. ``lower_all`` and ``upper_all`` hold
    whatever the missing scores would have been; None where none is missing. A positive change is worse only where
    ``worse`` is "higher". ``parent`` and ``child`` are the two means; ``change`` is None where the child is held
    against a limit by itself. ``n`` counts cases, families, what was drawn (clusters), rollouts without a score, and
    cases with a severe event. ``design_effect`` is how much wider the variance of the mean is where families are drawn
    instead of cases. ``measured`` is False where the data cannot have the metric, which ``reason`` then explains.
    """

    metric: str
    outcome: Outcome
    blocking: bool
    unit: Literal["points", "share"]
    worse: Literal["lower", "higher"]
    margin: float
    parent: float | None
    child: float | None
    change: float | None
    lower: float | None
    upper: float | None
    p_pass: float | None = None
    p_fail: float | None = None
    reason: str = ""
    n: Mapping[str, int] = field(default_factory=dict)
    measured: bool = True
    level: float | None = None
    adjusted: bool = False
    lower_all: float | None = None
    upper_all: float | None = None
    design_effect: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a gate says of a child against its parent, with all that it rests on.

    ``rules`` are the declared settings and ``fingerprint`` their digest; ``judge`` and ``rubrics`` say whose scores,
    ``data`` is a digest of the scores that were compared. ``basis`` is what the verdict means at all and stands first
    wherever it is told: what a score from elsewhere was declared to be, how whole its logs are, what was not measured.
    ``limits`` is what else a reader must know. ``labelled`` says of how many stages of the child (of the parent, where
    the child is a base) the judge labelled the pairs, ``reads_state`` whether it reads the world's end state.
    ``p_pass`` and ``p_fail`` are adjusted for the number of comparisons where the rules ask for it; ``note`` says where
    that changed the outcome of the checks.
    """

    outcome: Outcome
    parent: str
    child: str
    judge: str
    checks: tuple[Check, ...]
    rules: JSON
    fingerprint: str
    rubrics: Mapping[str, str] = field(default_factory=dict)
    data: str = ""
    cases: int = 0
    basis: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    sources: JSON = field(default_factory=dict)
    labelled: Labelled = Labelled.UNKNOWN
    reads_state: bool = False
    p_pass: float | None = None
    p_fail: float | None = None
    note: str = ""
