"""The estimator ``pooled``: score points first, ratios of pooled means with Fieller sets, two claims for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from holdfast.analysis.design import (
    BASE,
    Contrast,
    Design,
    contrast,
    describe_arm,
    over,
    subject,
)
from holdfast.analysis.panel import count_of
from holdfast.analysis.roles import HELPFULNESS, SAFETY, Arm
from holdfast.records import Estimate, Unbounded
from holdfast.stats.contrasts import MIN_SEEDS, Spread, spread, squared_margin, standard_error
from holdfast.stats.ratios import SMALLEST_DENOMINATOR, fieller

POOLED = "pooled"
IDENTIFIED_SE = 3.0  # a ratio is printed only where its denominator is at least so many standard errors
Claim = Literal["checkpoint", "recipe"]
Core = tuple[tuple[str, Any], ...]  # axes without dose
CLAIMS: tuple[Claim, ...] = ("checkpoint", "recipe")
FIXED_BASES = "the bases are held fixed: others may differ"


def resampled(claim: Claim, unit: str) -> tuple[str, ...]:
    """What a claim's interval treats as random."""
    return ("cases",) if claim == "checkpoint" else ("cases", unit)


def missing_interval(found: Spread, claim: Claim, unit: str) -> tuple[str, ...]:
    """Why there is no interval."""
    if not np.all(np.isfinite(found.values)):
        return ("no scores",)
    if found.case is None:
        return ("fewer than 2 cases: no interval",)
    if claim == "recipe" and found.seeds < MIN_SEEDS:
        return (f"{count_of(found.seeds, unit)}, fewer than {MIN_SEEDS}: a point, no interval for the recipe",)
    return ()


def _counts(found: Spread, one: Contrast) -> dict[str, int]:
    return {"cases": found.cases, one.unit: found.seeds, "runs": one.runs, "bases": one.bases}


def _claim_caveats(claim: Claim, one: Contrast) -> tuple[str, ...]:
    return ((FIXED_BASES,) if claim == "recipe" and one.unit == "seeds" else ()) + one.left_out


def differences(design: Design, one: Contrast, kind: str, **about: Any) -> Iterator[Estimate]:
    """A contrast as estimates in score points, one for each claim that can be made of it."""
    found = spread(design.sample, one.weights, one.by_unit)
    value = float(found.values[0]) if np.isfinite(found.values[0]) else None
    for claim in CLAIMS:
        if claim == "recipe" and not one.by_unit:
            continue
        margin = squared_margin(found, seeds=claim == "recipe")
        interval = None
        if margin is not None and value is not None:
            half = float(np.sqrt(margin[0, 0]))
            interval = (value - half, value + half)
        yield Estimate(
            kind=kind,
            estimator=POOLED,
            value=value,
            interval=interval,
            claim=claim,
            resampled=resampled(claim, one.unit),
            n=_counts(found, one),
            caveats=missing_interval(found, claim, one.unit) + _claim_caveats(claim, one),
            **about,
        )


def ratios(design: Design, top: Contrast, bottom: Contrast, **about: Any) -> Iterator[Estimate]:
    """``top`` / ``bottom`` as persistence with Fieller sets, for each claim that can be made of it."""
    pairs = [np.stack(both) for both in zip(top.by_unit, bottom.by_unit, strict=True)]
    found = spread(design.sample, np.stack([top.weights, bottom.weights]), pairs)
    for claim in CLAIMS:
        if claim == "recipe" and not pairs:
            continue
        value, interval, caveats = _ratio(found, claim, top.unit)
        yield Estimate(
            kind="persistence",
            estimator=POOLED,
            value=value,
            interval=interval,
            claim=claim,
            resampled=resampled(claim, top.unit),
            n=_counts(found, top),
            caveats=caveats + _claim_caveats(claim, top),
            **about,
        )


def _ratio(
    found: Spread, claim: Claim, unit: str
) -> tuple[float | None, tuple[float, float] | Unbounded | None, tuple[str, ...]]:
    """Value, Fieller set and caveats of values[0] / values[1]."""
    seeds = claim == "recipe"
    margin = squared_margin(found, seeds=seeds)
    reasons = missing_interval(found, claim, unit)
    if not np.all(np.isfinite(found.values)):
        return None, None, reasons
    error = standard_error(found, 1, seeds=seeds and found.seed is not None)
    if error is None or abs(found.values[1]) <= SMALLEST_DENOMINATOR:
        return None, None, ("not identified: the gain cannot be told from zero", *reasons)
    top, bottom = float(found.values[0]), float(found.values[1])
    interval = None if margin is None else fieller(top, bottom, margin) or Unbounded.UNBOUNDED
    if abs(bottom) < IDENTIFIED_SE * error:
        caveat = f"not identified: the gain, {bottom:+.3f}, is {abs(bottom) / error:.1f} standard errors from zero"
        caveat += f" (at least {IDENTIFIED_SE:.0f} are needed); read the differences in score points"
        return None, interval if isinstance(interval, Unbounded) else None, (caveat, *reasons)
    if bottom < 0:
        reasons += ("the first stage lowered the score: the ratio is of losses",)
    if isinstance(interval, Unbounded):
        reasons += ("the set of ratios that the data allow is unbounded",)
    return top / bottom, interval, reasons


def score_rows(design: Design) -> Iterator[Estimate]:
    """Means of every configuration by base and over bases, and their differences from the base, per objective."""
    for config in design.configs:
        for objective, name in enumerate(design.panel.objectives):
            for fields, keys, *_ in design.levels([config], name):
                one = contrast(design, objective, over(keys, (config, 1.0)))
                yield from differences(design, one, "mean", **fields, **subject(config), objective=name)


def delta_rows(design: Design) -> Iterator[Estimate]:
    """Differences of every trained configuration from its base, paired by case."""
    for config in design.configs:
        if config == BASE:
            continue
        for objective, name in enumerate(design.panel.objectives):
            for fields, keys, *_ in design.levels([config, BASE], name):
                one = contrast(design, objective, over(keys, (config, 1.0), (BASE, -1.0)))
                yield from differences(design, one, "delta", **fields, **subject(config), objective=name)


def persistence_rows(design: Design) -> Iterator[Estimate]:
    """Induced, erosion, retained, their controls and persistence at every level and axis, per objective."""
    cores = design.core_axes
    choices: list[tuple[dict[str, Any], Sequence[Core]]] = [(dict(core), (core,)) for core in cores]
    if len(cores) > 1:
        choices.append(({}, cores))
    for arm in design.arms:
        for objective in (SAFETY, HELPFULNESS):
            if objective not in design.panel.objectives:
                continue
            for axes, chosen in choices:
                yield from _stage_rows(design, objective, arm, axes, chosen)
    for axes, chosen in choices:
        yield from _reward_rows(design, axes, chosen)
    for objective in (SAFETY, HELPFULNESS):
        if objective in design.panel.objectives:
            for axes, chosen in choices:
                yield from _control_rows(design, objective, axes, chosen)


Lineage = tuple[str, ...]
Sign = tuple[Lineage, float]


def _pooled(
    design: Design, objective: str, cores: Sequence[Core], *signs: Sign
) -> Iterator[tuple[Mapping[str, Any], Contrast]]:
    """The contrast of lineages at their smallest dose, over all axes in ``cores``, at every level."""
    terms = [[(design.main(lineage, core), sign) for lineage, sign in signs] for core in cores]
    if any(config is None for one in terms for config, _ in one):
        return
    found = [tuple((config, sign) for config, sign in one if config is not None) for one in terms]
    for fields, keys, *_ in design.levels((config for one in found for config, _ in one), objective):
        yield (
            fields,
            contrast(design, design.objective(objective), [part for one in found for part in over(keys, *one)]),
        )


def _stage_rows(
    design: Design, objective: str, arm: Arm, axes: dict[str, Any], cores: Sequence[Core]
) -> Iterator[Estimate]:
    """What the first stage induced, what the second eroded and left, and the same against controls."""
    both = arm.ordered(objective)
    first, second = (both[0],), (both[1],)
    unit, caveats = describe_arm(arm)
    rivals = [one for one in design.arms if one.ordered(objective)[0] == both[0]]
    for estimate in _compared(design, objective, "induced", first, (axes, cores), (first, 1.0), (second, -1.0)):
        named = f"against {both[1]}" if len(rivals) > 1 else unit
        yield replace(estimate, unit=named, caveats=caveats + estimate.caveats)
    for estimate in _kept_rows(design, objective, (both, second), axes, cores):
        yield replace(estimate, unit=estimate.unit or unit, caveats=caveats + estimate.caveats)


def _compared(
    design: Design,
    objective: str,
    kind: str,
    lineage: Lineage,
    where: tuple[dict[str, Any], Sequence[Core]],
    *signs: Sign,
) -> Iterator[Estimate]:
    """A contrast of lineages as rows of one kind about one of them."""
    axes, cores = where
    for fields, one in _pooled(design, objective, cores, *signs):
        yield from differences(design, one, kind, **fields, lineage=lineage, axes=axes, objective=objective)


def _kept_rows(
    design: Design,
    objective: str,
    lineages: tuple[Lineage, Lineage],
    axes: dict[str, Any],
    cores: Sequence[Core],
) -> Iterator[Estimate]:
    """What the stages after the first eroded and left: ``lineages`` are the whole, and what it is held against."""
    both, second = lineages
    first, where = both[:1], (axes, cores)
    yield from _compared(design, objective, "erosion", both, where, (both, 1.0), (first, -1.0))
    yield from _compared(design, objective, "retained", both, where, (both, 1.0), (second, -1.0))
    for control in design.roles.controls(both[0], design.lineages):
        signs: tuple[Sign, Sign] = ((both, 1.0), (control, -1.0))
        for estimate in _compared(design, objective, "erosion_vs_control", both, where, *signs):
            # The first stage cancels: erosion minus the control's erosion is both minus control.
            yield replace(estimate, unit=f"against {','.join(control)}")
    # A sign of zero keeps a lineage in the list of what a replicate must have, so that both sums are of the same runs.
    tops = _pooled(design, objective, cores, (both, 1.0), (second, -1.0), (first, 0.0))
    bottoms = _pooled(design, objective, cores, (both, 0.0), (second, -1.0), (first, 1.0))
    for (fields, top), (_, bottom) in zip(tops, bottoms, strict=True):
        yield from ratios(design, top, bottom, **fields, lineage=both, axes=axes, objective=objective)


def _reward_rows(design: Design, axes: dict[str, Any], cores: Sequence[Core]) -> Iterator[Estimate]:
    """The same of stages that learn from rewards: held against these alone, or the base where they were not trained."""
    told: set[tuple[Lineage, Lineage]] = set()
    for lineage in design.roles.through_rewards(design.lineages):
        objective = design.roles.single(lineage[0])
        if objective is None or objective not in design.panel.objectives:
            continue
        first, second = lineage[:1], lineage[1:] if lineage[1:] in design.lineages else ()
        name = ",".join(second) or "base"
        caveats = () if second else (f"{','.join(lineage[1:])} alone was not trained: held against the base",)
        if (first, second) not in told:
            told.add((first, second))
            signs: tuple[Sign, Sign] = ((first, 1.0), (second, -1.0))
            for row in _compared(design, objective, "induced", first, (axes, cores), *signs):
                yield replace(row, unit=f"against {name}")
        for row in _kept_rows(design, objective, (lineage, second), axes, cores):
            held = row.kind in ("retained", "persistence")
            yield replace(row, caveats=caveats + row.caveats) if held else row


def _control_rows(design: Design, objective: str, axes: dict[str, Any], cores: Sequence[Core]) -> Iterator[Estimate]:
    """What more training without the other objective does to what a stage of this objective left."""
    firsts = dict.fromkeys(arm.ordered(objective)[0] for arm in design.arms if not arm.flipped)
    for first in firsts:
        for control in design.roles.controls(first, design.lineages):
            signs: tuple[Sign, Sign] = ((control, 1.0), ((first,), -1.0))
            about = {"lineage": control, "axes": axes, "objective": objective}
            for fields, one in _pooled(design, objective, cores, *signs):
                yield from differences(design, one, "erosion_control", **fields, **about)
