"""What was decided: checks and the verdict that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from holdfast.records.episodes import JSON
from holdfast.records.estimates import Labelled


class Outcome(str, Enum):
    """What a gate says: nothing beyond the margin was lost, it was, or the data cannot tell."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def combine(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of several outcomes; INCONCLUSIVE where there is none."""
    return min(outcomes, key=WORST_FIRST.index, default=Outcome.INCONCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a gate: a child's ``change`` against its parent, held against a margin.

    ``metric`` is the name of one of ``study.rules.CHECK_KINDS``, or that in ``[gate.checks.NAME]``; ``unit`` is
    "points" or "share". ``lower`` and ``upper`` are one-sided bounds of what has scores, each at the confidence
    ``level``; where it is ``adjusted``, Holm's rule chose a level for each bound. ``lower_all`` and ``upper_all`` hold
    whatever the missing scores would have been; None where none is missing. A positive change is worse only where
    ``worse`` is "higher". ``parent`` and ``child`` are the two means; ``change`` is None where the child is held
    against a limit by itself. ``n`` counts cases, families, what was drawn (clusters), rollouts without a score, and
    cases with a severe event.
    ``design_effect`` is how much wider the variance of the mean is where families are drawn instead of cases.
    ``measured`` is False where the data cannot have the metric, which ``reason`` then explains. ``words`` name the
    metric of a check from elsewhere in a sentence.
    """

    metric: str
    outcome: Outcome
    blocking: bool
    unit: Literal["points", "share"]
    worse: Literal["lower", "higher"]
    margin: float
    parent: float | None = None
    child: float | None = None
    change: float | None = None
    lower: float | None = None
    upper: float | None = None
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
    words: str = ""


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
