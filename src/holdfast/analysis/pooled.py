"""The estimator ``pooled``: score points first, ratios of pooled means with Fieller sets, two claims for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from holdfast.analysis.design import BASE, Contrast, Design, Terms, contrast, describe_arm, over, splits_differ, subject
from holdfast.analysis.panel import Axes, Config
from holdfast.analysis.roles import HELPFULNESS, SAFETY, Arm, Lineage
from holdfast.records import FEW_CASES, Estimate, Unbounded, cannot_be_told
from holdfast.records.arrays import Floats
from holdfast.records.estimates import AGAINST_BASE, UNDECLARED_GOAL
from holdfast.records.words import count_noun, true_minus
from holdfast.stats.contrasts import (
    MIN_SEEDS,
    NO_VARIANCE,
    SMALLEST_DENOMINATOR,
    Spread,
    interval,
    limits,
    ratio_set,
    spread,
    standard_errors,
)

POOLED = "pooled"
Claim = Literal["checkpoint", "recipe"]
Shown = tuple[float, float] | Unbounded | None  # an estimate's interval
CLAIMS: tuple[Claim, ...] = ("checkpoint", "recipe")
FELL = "the first stage lowered the score: the ratio is of losses"
FIXED_BASES = "the bases are held fixed: others may differ"


def claim_fields(claim: Claim, unit: str, caveats: tuple[str, ...], left_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an Estimate that say what a claim treats as random, holds fixed and leaves out."""
    recipe = claim == "recipe"
    fixed = (FIXED_BASES,) if recipe and unit == "seeds" else ()
    return {
        "claim": claim,
        "resampled": ("cases", unit) if recipe else ("cases",),
        "caveats": caveats + fixed + left_out,
    }


def missing_interval(found: Spread, claim: Claim, unit: str) -> tuple[str, ...]:
    """Why there is no interval, or why it tells little: below ``FEW_CASES`` cases nothing is found."""
    if not np.all(np.isfinite(found.values)):
        return ("no scores",)
    if found.case is None:
        return ("fewer than 2 cases: no interval",)
    few = (cannot_be_told(found.cases),) if found.cases < FEW_CASES else ()
    if claim == "recipe" and found.seeds < MIN_SEEDS:
        return (*few, f"{count_noun(found.seeds, unit)}, fewer than {MIN_SEEDS}: a point, no interval for the recipe")
    return few


def spreads(design: Design, *contrasts: Contrast) -> tuple[Spread, Spread | None]:
    """Contrasts with what their claims treat as random; then the same with seeds taken within each base and judge,
    where that is not how they are taken.

    Seeds of one base and judge are trainings of their own, independent of those of another, so that the variance
    between them is pooled within these cells. Where replicates are splits of the cases, all cells share them: there
    seeds are taken over all cells at once, and the pooled ones stand beside.
    """
    weights = np.stack([one.weights for one in contrasts])
    by_unit = [np.stack(some) for some in zip(*(one.by_unit for one in contrasts), strict=True)]
    idle = (np.zeros_like(contrasts[0].weights),) * len(by_unit)
    cells = [
        [np.stack(some) for some in zip(*(one.cells.get(name, idle) for one in contrasts), strict=True)]
        for name in dict.fromkeys(name for one in contrasts for name in one.cells)
    ]
    shared = splits_differ(contrasts[0].units)
    pooled = spread(design.sample, weights, by_unit, cells) if len(cells) > 1 else None
    if pooled is not None and not shared:
        return pooled, None
    return spread(design.sample, weights, by_unit), pooled


def _seed_caveats(found: Spread, beside: Spread | None, unit: str) -> tuple[str, ...]:
    """What to know of the variance between seeds of a recipe's interval of the first contrast."""
    case, seed = standard_errors(found, 0)
    if case is None or seed is None or found.seeds < MIN_SEEDS:
        return ()
    caveats: tuple[str, ...] = ()
    if seed < case:
        low = f"SE of {unit} {seed:.4f} ({found.degrees} df) is below SE of cases {case:.4f}"
        caveats = (f"{low}: so few {unit} may be alike by luck",)
    both = None if beside is None else interval(beside.alike(), seeds=True)
    if beside is not None and both is not None:
        pooled = f"{unit} pooled within {len(beside.parts)} cells of base and judge, as if no splits were shared"
        error = f"SE of {unit} {standard_errors(beside, 0)[1]:.4f} ({beside.degrees} df)"
        caveats += (f"{pooled}: {error}, interval {true_minus(f'[{both[0]:.3f}, {both[1]:.3f}]')}",)
    return caveats


def differences(design: Design, one: Contrast, kind: str, **about: Any) -> Iterator[Estimate]:
    """A contrast as estimates in score points, one for each claim that can be made of it."""
    found, beside = spreads(design, one)
    value = float(found.values[0]) if np.isfinite(found.values[0]) else None
    for claim in CLAIMS if one.by_unit else CLAIMS[:1]:
        seeds = claim == "recipe"
        caveats = missing_interval(found, claim, one.unit) + (_seed_caveats(found, beside, one.unit) if seeds else ())
        yield _claim_row(claim, one, found, interval(found, seeds=seeds), caveats, kind=kind, value=value, **about)


def _claim_row(
    claim: Claim, one: Contrast, found: Spread, shown: Shown, caveats: tuple[str, ...], **about: Any
) -> Estimate:
    """A claim about a contrast, with what it treats as random and what was left out."""
    n = {"cases": found.cases, one.unit: found.seeds, "runs": one.runs, "bases": one.bases}
    about |= claim_fields(claim, one.unit, caveats, one.left_out)
    return Estimate(estimator=POOLED, interval=shown, n=n, **about)


def ratios(
    design: Design, top: Contrast, bottom: Contrast, *, kind: str = "persistence", falling: str = FELL, **about: Any
) -> Iterator[Estimate]:
    """``top`` / ``bottom`` with Fieller sets, for each claim that can be made of it.

    ``falling`` is the caveat where ``bottom`` is below zero.
    """
    found, _ = spreads(design, top, bottom)
    for claim in CLAIMS if top.by_unit else CLAIMS[:1]:
        value, kept, caveats = _ratio(found, claim, top.unit, falling)
        yield _claim_row(claim, top, found, kept, caveats, kind=kind, value=value, **about)


def _ratio(both: Spread, claim: Claim, unit: str, falling: str) -> tuple[float | None, Shown, tuple[str, ...]]:
    """Value, Fieller set and caveats of values[0] / values[1].

    A ratio is identified where its set is bounded: where the gain's own interval excludes zero.
    """
    seeds = claim == "recipe"
    reasons = missing_interval(both, claim, unit)
    if not np.all(np.isfinite(both.values)):
        return None, None, reasons
    gain = limits(both, np.array([[0.0, 1.0]]), seeds=seeds)
    unsure = _unsure(both, gain, unit if seeds else None)
    if gain is None or unsure:
        unbounded = Unbounded.UNBOUNDED if gain is not None else None
        return None, unbounded, (f"{unsure}; read the differences in score points", *reasons)
    top, bottom = float(both.values[0]), float(both.values[1])
    if bottom < 0:
        reasons += (falling,)
    return top / bottom, ratio_set(both, seeds=seeds) or Unbounded.UNBOUNDED, reasons


def _unsure(found: Spread, gain: Floats | None, unit: str | None) -> str:
    """Why a gain with these limits (1, 2) cannot stand under a ratio, or empty; ``unit`` is what a recipe draws."""
    if abs(found.values[1]) <= SMALLEST_DENOMINATOR:
        return "the gain is zero"
    if gain is None:
        return "the gain has no interval"
    if gain[0, 0] <= 0 <= gain[0, 1]:
        told = true_minus(f"{found.values[1]:+.3f} [{gain[0, 0]:.3f}, {gain[0, 1]:.3f}]")
        return f"the gain, {told}, cannot be told from zero"
    random = {"cases": found.case} | ({} if unit is None else {unit: found.seed})
    alike = [name for name, one in random.items() if one is not None and one[1, 1] <= NO_VARIANCE]
    return f"the gain is the same in all {alike[0]}, so that its error is not known" if alike else ""


def score_rows(design: Design) -> Iterator[Estimate]:
    """Means of every configuration by base and over bases, and their differences from the base, per objective."""
    for config in design.configs:
        yield from contrast_rows(design, "mean", design.panel.objectives, (config, 1.0))


def delta_rows(design: Design) -> Iterator[Estimate]:
    """Differences of every trained configuration from its base, paired by case."""
    for config in design.configs:
        if config != BASE:
            yield from contrast_rows(design, "delta", design.panel.objectives, (config, 1.0), (BASE, -1.0))


def contrast_rows(
    design: Design, kind: str, objectives: Sequence[str], *terms: tuple[Config, float], **about: Any
) -> Iterator[Estimate]:
    """A contrast of configurations as rows about the first of them, at every level, for each objective."""
    for name in objectives:
        for fields, keys, *_ in design.levels([config for config, _ in terms], name):
            one = contrast(design, design.objective(name), over(keys, *terms))
            yield from differences(design, one, kind, **fields, **subject(terms[0][0]), objective=name, **about)


def persistence_rows(design: Design) -> Iterator[Estimate]:
    """Induced, erosion, retained, their controls and persistence at every level and axis, per objective."""
    choices = [Where(dict(core), (core,)) for core in design.core_axes]
    if len(choices) > 1:
        choices.append(Where({}, design.core_axes))
    objectives = [one for one in (SAFETY, HELPFULNESS) if one in design.panel.objectives]
    for arm, objective, where in product(design.arms, objectives, choices):
        yield from _stage_rows(design, objective, arm, where)
    for where in choices:
        yield from _reward_rows(design, where)
        yield from _elsewhere_rows(design, objectives, where)
    # What more training without the other objective does to what a stage of this objective left.
    for objective, where in product(objectives, choices):
        for first in dict.fromkeys(arm.ordered(objective)[0] for arm in design.arms if not arm.flipped):
            for control in design.roles.controls(first, design.lineages):
                signs: tuple[Sign, Sign] = ((control, 1.0), ((first,), -1.0))
                yield from _compared(design, objective, "erosion_control", control, where, *signs)


Sign = tuple[Lineage, float]


class Where(NamedTuple):
    """Axes of training that rows are about, as an estimate has them and as the configurations do."""

    axes: dict[str, Any]
    cores: Sequence[Axes]


def _pooled(
    design: Design, objective: str, cores: Sequence[Axes], *signs: Sign
) -> Iterator[tuple[Mapping[str, Any], Contrast]]:
    """The contrast of lineages at their first dose, over all axes in ``cores``, at every level."""
    found: list[Terms] = []
    for core in cores:
        terms = [(config, sign) for lineage, sign in signs if (config := design.main(lineage, core)) is not None]
        if len(terms) < len(signs):
            return
        found.append(tuple(terms))
    for fields, keys, *_ in design.levels((config for one in found for config, _ in one), objective):
        parts = [part for one in found for part in over(keys, *one)]
        yield fields, contrast(design, design.objective(objective), parts)


def _stage_rows(design: Design, objective: str, arm: Arm, where: Where) -> Iterator[Estimate]:
    """What the first stage induced, what the second eroded and left, and the same against controls."""
    both = arm.ordered(objective)
    first, second = (both[0],), (both[1],)
    unit, caveats = describe_arm(arm)
    rivals = [one for one in design.arms if one.ordered(objective)[0] == both[0]]
    for estimate in _compared(design, objective, "induced", first, where, (first, 1.0), (second, -1.0)):
        named = f"against {both[1]}" if len(rivals) > 1 else unit
        yield replace(estimate, unit=named, caveats=caveats + estimate.caveats)
    for estimate in _kept_rows(design, objective, both, second, where):
        yield replace(estimate, unit=estimate.unit or unit, caveats=caveats + estimate.caveats)


def _compared(
    design: Design, objective: str, kind: str, lineage: Lineage, where: Where, *signs: Sign
) -> Iterator[Estimate]:
    """A contrast of lineages as rows of one kind about one of them."""
    for fields, one in _pooled(design, objective, where.cores, *signs):
        yield from differences(design, one, kind, **fields, lineage=lineage, axes=where.axes, objective=objective)


def _kept_rows(design: Design, objective: str, both: Lineage, second: Lineage, where: Where) -> Iterator[Estimate]:
    """What the stages after the first eroded and left of ``both``; ``second`` is what it is held against."""
    first = both[:1]
    yield from _compared(design, objective, "erosion", both, where, (both, 1.0), (first, -1.0))
    yield from _compared(design, objective, "retained", both, where, (both, 1.0), (second, -1.0))
    for control in design.roles.controls(both[0], design.lineages):
        # The first stage cancels: erosion minus the control's erosion is both minus control.
        rows = _compared(design, objective, "erosion_vs_control", both, where, (both, 1.0), (control, -1.0))
        yield from (replace(one, unit=f"against {','.join(control)}") for one in rows)
    # A sign of zero keeps a lineage in the list of what a replicate must have, so that both sums are of the same runs.
    tops = _pooled(design, objective, where.cores, (both, 1.0), (second, -1.0), (first, 0.0))
    bottoms = _pooled(design, objective, where.cores, (both, 0.0), (second, -1.0), (first, 1.0))
    for (fields, top), (_, bottom) in zip(tops, bottoms, strict=True):
        yield from ratios(design, top, bottom, **fields, lineage=both, axes=where.axes, objective=objective)


def _reward_rows(design: Design, where: Where) -> Iterator[Estimate]:
    """The same of stages that learn from rewards: held against these alone, or the base where they were not trained."""
    induced: set[tuple[Lineage, Lineage]] = set()
    for lineage in design.roles.through_rewards(design.lineages):
        objective = design.roles.single(lineage[0])
        if objective is None or objective not in design.panel.objectives:
            continue
        first, second = lineage[:1], lineage[1:] if lineage[1:] in design.lineages else ()
        caveats = () if second else (f"{','.join(lineage[1:])} alone was not trained: {AGAINST_BASE}",)
        if (first, second) not in induced:
            induced.add((first, second))
            for row in _compared(design, objective, "induced", first, where, (first, 1.0), (second, -1.0)):
                yield replace(row, unit=f"against {','.join(second) or 'base'}")
        for row in _kept_rows(design, objective, lineage, second, where):
            held = row.kind in ("retained", "persistence")
            # What a sequence's second stage took of its first is among the rows of arms.
            if held or not design.roles.is_sequence(lineage):
                yield replace(row, caveats=caveats + row.caveats) if held else row


def _elsewhere_rows(design: Design, objectives: Sequence[str], where: Where) -> Iterator[Estimate]:
    """The same of lineages that were trained elsewhere: what their first stage gained over the base, and what is left.

    Of a first stage whose objective nobody declared that is asked of every objective.
    """
    told: set[tuple[Lineage, str]] = set()
    for lineage in design.roles.through_elsewhere(design.lineages):
        first, goal = lineage[:1], design.roles.single(lineage[0])
        declared = bool(design.roles.by_stage[lineage[0]].objectives)
        second = lineage[1:] if lineage[1:] in design.lineages else ()
        caveats = [] if second else [f"{','.join(lineage[1:])} alone is not there: {AGAINST_BASE}"]
        caveats += [] if declared else [f"{lineage[0]}: {UNDECLARED_GOAL}"]
        for objective in objectives if goal is None else [goal] if goal in objectives else []:
            if (first, objective) not in told:
                told.add((first, objective))
                for row in _compared(design, objective, "induced", first, where, (first, 1.0), (second, -1.0)):
                    yield replace(row, unit=f"against {','.join(second) or 'base'}", caveats=(*caveats, *row.caveats))
            for row in _kept_rows(design, objective, lineage, second, where):
                # What a sequence's second stage took of its first is among the rows of arms.
                if row.kind != "erosion" or not design.roles.is_sequence(lineage):
                    yield replace(row, caveats=(*caveats, *row.caveats))
