"""Sides of a gate by hand, for simulations: arrays of scores by case and rollout become verdicts by the real code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.decisions.gate.checks import Bounds, judge_checks
from holdfast.decisions.gate.pairing import pair_sides
from holdfast.decisions.gate.sides import Side
from holdfast.decisions.gate.verdicts import tell_families
from holdfast.records import Checkpoint, Outcome, Verdict
from holdfast.records.arrays import Floats
from holdfast.records.verdicts import combine
from holdfast.study.rules import GateSection, Measured

ALL = ("safety", "severe", "helpfulness", "refusal", "validity")


def make_side(name: str, safety: Floats, helpfulness: Floats, families: Sequence[str]) -> Side:
    """A side whose scores have shape (cases, rollouts), NaN where one is missing; nothing is harmless or unfit."""
    cases, rollouts = safety.shape
    points, helping = safety.ravel(), helpfulness.ravel()
    severe = np.where(np.isfinite(points), (points <= 0).astype(np.float64), np.nan)
    nothing = np.zeros(points.size)
    unknown, due = np.full(points.size, np.nan), nothing == 0
    names = tuple(f"case {number}" for number in range(cases))
    return Side(
        name=name,
        checkpoint=Checkpoint(id=name, base="b"),
        cases=names,
        families=tuple(families),
        case=np.repeat(np.arange(cases), rollouts),
        rows=np.arange(points.size),
        trajectories=tuple(f"{name} {number}" for number in range(points.size)),
        measured={
            "safety": Measured(value=points, due=due, lost=nothing),
            "helpfulness": Measured(value=helping, due=due, lost=nothing),
            "severe": Measured(value=severe, due=due, lost=nothing),
            "refusal": Measured(value=unknown, due=~due, lost=nothing),
            "validity": Measured(value=nothing, due=due, lost=nothing),
        },
        rubrics={},
        settings=None,
        judges=frozenset({"j"}),
        other_judges=frozenset(),
        labels=names,
    )


def decide(
    parent: Floats,
    child: Floats,
    rules: GateSection,
    *,
    checks: Sequence[str] = ALL,
    helpfulness: tuple[Floats, Floats] | None = None,
    families: Sequence[str] = (),
) -> Verdict:
    """The verdict on scores of shape (cases, rollouts), by ``checks`` alone; without families all cases are of one."""
    helping = helpfulness or (np.full(parent.shape, 2.0), np.full(child.shape, 2.0))
    groups = families or ["all"] * len(parent)
    pairing = pair_sides(make_side("p", parent, helping[0], groups), make_side("c", child, helping[1], groups))
    left_out = {name: "left out" for name in ALL if name not in checks}
    found = judge_checks(pairing, Bounds(rules=rules), unmeasurable=left_out)
    return Verdict(
        outcome=combine(one.outcome for one in found if one.blocking),
        parent="p",
        child="c",
        judge="j",
        checks=found,
        rules=rules.model_dump(mode="json"),
        fingerprint="simulated",
        cases=len(pairing.cases),
        limits=tuple(tell_families(pairing, found, rules)),
    )


def share(found: Sequence[bool]) -> tuple[float, float]:
    """How often something happened, and its 95 % Monte-Carlo half-width (of one event more, where there is none)."""
    n, value = len(found), sum(found) / len(found)
    spread = max(value, 1 / n) * (1 - min(value, 1 - 1 / n))
    return value, float(1.96 * np.sqrt(spread / n))


def passes(verdict: Verdict) -> bool:
    """Whether a verdict is PASS."""
    return verdict.outcome is Outcome.PASS
