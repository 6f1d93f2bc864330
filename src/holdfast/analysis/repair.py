"""Stages that keep a second objective: where they stand against the line of those that do not, and what they cost.

A *repair* is a lineage whose last stage mixes in another objective's pairs, has a term or a balance for it, or is a
merge; and one that teaches the first objective again after another (S, H, then a short S). What is not one is a plain
lineage: its recipes make the line that a repair would have to leave.

Kinds of rows, all of the estimator "pooled" unless said otherwise:

    off_line        signed distance from the line through the plain recipes, in score points; positive is better on both
    off_line_lower  its one-sided lower bound, at 95 % for all repairs of the study together (Bonferroni): above 0 a
                    repair leaves the line
    off_merges      the same distance from the curve of the merges of S and H
    repair_change   a repair minus its plain counterpart, by objective ("against …" is the unit)
    repair_steps, repair_pairs    what its last stage takes (estimator "measured"); a merge takes nothing
    reteach_lower   one-sided lower bound of safety after re-teaching minus safety after the first stage, at a dose
    reteach_dose    the smallest dose that, with every larger one, keeps that bound above the gate's margin

A line through other recipes is a weak rival where the trade-off bends. Merges of the safety and the helpfulness stage
at several shares are mixtures of the two, and show how the trade-off runs between them: their curve is a parabola
through both stages and their merges, for each base, in coordinates along and off the chord of the two stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from holdfast.analysis.design import Design, Key, dose_of, match, name_config, subject, without_dose
from holdfast.analysis.frontier import (
    EXPLORATORY,
    MIN_LINE_POINTS,
    THESE_WEIGHTS,
    WIDEST,
    Cloud,
    Statistic,
    claim_row,
    claims_of,
    delta_clouds,
    describe_cloud,
    distance_caveats,
    distance_of,
    distance_rows,
    distances_of,
    whitening,
)
from holdfast.analysis.panel import Axes, Config, Measures
from holdfast.analysis.pooled import POOLED, Claim, contrast_rows
from holdfast.analysis.roles import HELPFULNESS, MERGE, MERGED, SAFETY, SHARE
from holdfast.records import Estimate
from holdfast.records.arrays import Bools, Floats
from holdfast.records.words import count_noun
from holdfast.stats.bounded import cluster_means, lower_bound, order_cases
from holdfast.stats.lines import Lines, curve_distances
from holdfast.stats.resample import row_means
from holdfast.study.rules import GateSection

MEASURED = "measured"
BOUND_LEVEL = 0.95  # one-sided, of all repairs together
REPAIR_POINTS = "configuration averaged over bases, absolute, with repairs"
ONE_SIDED = "one-sided lower bound, in score points"


def repair_rows(
    design: Design, means: Floats, measures: Measures, gate: GateSection | None = None
) -> Iterator[Estimate]:
    """Rows of a run's repairs; none where a study has none.

    ``means`` are resampled row means (draws, rows); ``gate`` has the margin that a re-taught stage is held to, by
    default that of a study that declares none.
    """
    repairs = find_repairs(design)
    if not repairs or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    for config in repairs:
        yield from _off_line(design, config, means, len(repairs))
    yield from _off_merges(design, repairs, means)
    for config in repairs:
        if (plain := _counterpart(design, config)) is not None:
            unit, terms = f"against {name_config(plain)}", ((config, 1.0), (plain, -1.0))
            yield from contrast_rows(design, "repair_change", (SAFETY, HELPFULNESS), *terms, unit=unit)
        yield from _costs(design, config, measures)
    yield from _reteaching(design, gate or GateSection())


def find_repairs(design: Design) -> list[Config]:
    """The configurations that a study repairs with, at every dose and share."""
    roles = design.roles
    return [one for one in design.configs if roles.repairs(one[0]) is not None or roles.reteaches(one[0])]


# --- the line ---------------------------------------------------------------------------------------------------


def _off_line(design: Design, config: Config, means: Floats, repairs: int) -> Iterator[Estimate]:
    """A repair against the line that is fitted without it and without the other ``repairs``."""
    # The recipes at a repair's own axes, whatever its dose and share; all of them where none has these axes.
    line = [one for one in design.recipes if without_dose(one[1]) == _core(config)] or list(design.recipes)
    # Two-sided at 1 − 2 α / m is one-sided at 1 − α / m.
    level = 1 - 2 * (1 - BOUND_LEVEL) / repairs
    shared = f"holds for {count_noun(repairs, 'repairs')} of the study together"
    for where, unit, drawn in delta_clouds(design, [*line, config], means):
        if config not in drawn.configs:
            continue
        tested: Bools = np.array([one == config for one in drawn.configs])
        about = describe_cloud(drawn, where.fields, unit) | subject(config) | {"kind": "off_line"}
        others = int((~tested).sum())
        lacking = f"{count_noun(others, 'points')} of other lineages, or no line through them"
        if others < MIN_LINE_POINTS:
            yield Estimate(value=None, caveats=(lacking, *drawn.left_out), **about)
            continue
        covariance, singular = whitening(drawn)
        bent = {claim: (*distance_caveats(drawn, tested, covariance, claim), *singular) for claim in claims_of(drawn)}
        explored = {claim: (EXPLORATORY, *caveats) for claim, caveats in bent.items()}
        distance = distance_of(tested, covariance)
        for row in distance_rows(drawn, distance, about, lacking, explored):
            yield row
            if row.value is not None:
                away = distances_of(drawn, distance, row.claim, level)
                low = None if away is None else row.value - away[0]
                bound = replace(row, kind="off_line_lower", value=low, interval=None, unit=ONE_SIDED)
                yield claim_row(drawn, bound, row.claim, (shared, *bent[row.claim]))


# --- the curve of merges ------------------------------------------------------------------------------------------


def _off_merges(design: Design, repairs: Sequence[Config], means: Floats) -> Iterator[Estimate]:
    """Every joint recipe and repair that is no merge against the curve of the merges of S and H, if there are any."""
    tested = [one for one in design.recipes if design.roles.is_joint(one[0])]
    tested += [one for one in repairs if design.roles.repairs(one[0]) != MERGE]
    caveats: Mapping[Claim, tuple[str, ...]] = {"checkpoint": (EXPLORATORY, THESE_WEIGHTS), "recipe": (EXPLORATORY,)}
    for core in design.core_axes:
        ends, merges = _merges(design, core)
        for config in (one for one in tested if merges and _core(one) == core):
            chosen = (*ends, *merges, config)
            for level, unit, drawn in delta_clouds(design, chosen, means):
                if set(chosen) <= set(drawn.configs):
                    about = describe_cloud(drawn, level.fields, unit) | subject(config) | {"kind": "off_merges"}
                    distance = _curve_distance(drawn, ends, config)
                    yield from distance_rows(drawn, distance, about, "no curve through the merges", caveats)


def _core(config: Config) -> Axes:
    """The axes of a configuration but its dose and the share of a merge or a mixture."""
    return tuple(one for one in without_dose(config[1]) if one[0] != SHARE)


def _merges(design: Design, core: Axes) -> tuple[tuple[Config, ...], list[Config]]:
    """A safety and a helpfulness stage at some axes, and the merges of just these two; none where there are none.

    Of several pairs of stages it is the one with most merges.
    """
    parents = {
        one.lineage: one.stages[-1].settings.get(MERGED, ())
        for one in design.panel.trajectories.checkpoints
        if one.stages and design.roles.repairs(one.lineage) == MERGE
    }
    found: dict[tuple[tuple[str, ...], ...], list[Config]] = {}
    for config in design.configs:
        of = tuple(sorted(map(tuple, parents.get(config[0], ()))))
        goals = [design.roles.single(lineage[0]) for lineage in of if len(lineage) == 1]
        if sorted(map(str, goals)) == [HELPFULNESS, SAFETY] and len(config[0]) == 1 and _core(config) == core:
            found.setdefault(of, []).append(config)
    of = max(found, key=lambda pair: len(found[pair]), default=())
    ends = tuple(one for one in (design.main(lineage, core) for lineage in of) if one is not None)
    return (ends, found[of]) if ends and len(ends) == len(of) else ((), [])


def _curve_distance(drawn: Cloud, ends: Sequence[Config], config: Config) -> Statistic:
    """The mean over bases of a configuration's distance from the curve of its base's merges."""
    configs, bases = drawn.configs, drawn.bases
    places = [[place for place, one in enumerate(bases) if one == base] for base in dict.fromkeys(bases)]

    def distance(x: Floats, y: Floats) -> Floats:
        found = []
        for own in places:
            first, last = (next(place for place in own if configs[place] == end) for end in ends)
            slope = (y[..., last] - y[..., first]) / (x[..., last] - x[..., first])
            chord = Lines(slope=slope, intercept=y[..., first] - slope * x[..., first])
            tested: Bools = np.array([configs[place] == config for place in own], dtype=np.bool_)
            found.append(curve_distances(chord, x[..., own], y[..., own], tested))
        return np.asarray(np.mean(found, axis=0), dtype=np.float64)

    return distance


# --- against the plain counterpart ------------------------------------------------------------------------------


def _counterpart(design: Design, config: Config) -> Config | None:
    """The plain lineage that a repair stands in for: the same with a plain last stage, or without re-teaching."""
    lineage, roles = config[0], design.roles
    if roles.reteaches(lineage):
        return design.main(lineage[:-1], without_dose(config[1]))
    if roles.repairs(lineage) == MERGE:
        return None
    goals = roles.by_stage[lineage[-1]].objectives
    for other in design.lineages:
        plain = other[:-1] == lineage[:-1] and roles.single(other[-1]) is not None and not roles.flipped(other[-1])
        if plain and roles.by_stage[other[-1]].objectives == goals:
            same: Config = (other, config[1])
            return same if same in design.configs else design.main(other, without_dose(config[1]))
    return None


def _costs(design: Design, config: Config, measures: Measures) -> Iterator[Estimate]:
    """Steps and pairs of the last stage, as measured or as its record tells; what is not known has no row."""
    table = design.panel.trajectories
    rows = {row for (_, one), rows in design.rows.items() if one == config for row in rows.values()}
    made = [table.checkpoints[number] for number in sorted({design.panel.rows[row].checkpoint for row in rows})]
    for key in ("steps", "pairs"):
        values = [measures.get(one.id, {}).get(key, getattr(one.stages[-1], key)) for one in made]
        if values and all(value is not None and np.isfinite(value) for value in values):
            yield Estimate(
                kind=f"repair_{key}",
                estimator=MEASURED,
                value=float(np.mean(values)),
                unit=f"{key} of the last stage",
                n={"checkpoints": len(values)},
                **subject(config),
            )


# --- re-teaching ------------------------------------------------------------------------------------------------


def _reteaching(design: Design, gate: GateSection) -> Iterator[Estimate]:
    """What a dose of the first objective brings back, and the smallest that keeps the gate's margin.

    Doses are tested from the largest down, each at the gate's own level, until one fails: so the error of any of them
    stays at that level (a fixed sequence).
    """
    for lineage in (one for one in design.lineages if design.roles.reteaches(one)):
        goal = design.roles.single(lineage[0]) or SAFETY
        for core in design.core_axes:
            doses = [one for one in design.configs if one[0] == lineage and without_dose(one[1]) == core]
            first = design.main(lineage[:1], core)
            if not doses or first is None:
                continue
            for fields, keys, *_ in design.levels([*doses, first], goal):
                about = {**fields, "lineage": lineage, "objective": goal}
                yield from _doses(design, keys, [first, *sorted(doses, key=dose_of)], gate, about)


def _doses(
    design: Design, keys: Sequence[Key], chosen: Sequence[Config], gate: GateSection, about: dict[str, Any]
) -> Iterator[Estimate]:
    """The rows of one lineage at some keys; ``chosen`` are the first stage and then the doses, the smallest first."""
    first, *doses = chosen
    about = {**about, "estimator": POOLED, "resampled": ("cases",)}
    passing: float | None = None
    going = True
    for config in reversed(doses):
        changes = case_changes(design, keys, (first, config), about["objective"], family=gate.cluster == "family")
        low = None
        if len(changes) > 1:
            low = lower_bound(changes, gate.alpha, low=-WIDEST, high=WIDEST, method=gate.bound)
        going = going and low is not None and low > -gate.margin
        passing = dose_of(config) if going else passing
        yield Estimate(
            kind="reteach_lower",
            value=low,
            unit=f"{ONE_SIDED}, against {name_config(first)}",
            n={"cases": len(changes)},
            caveats=() if low is not None else ("fewer than 2 cases with scores on both sides",),
            **about,
            axes=dict(config[1]),
        )
    tried = ", ".join(f"{dose_of(config):g}" for config in doses)
    margin = f"at margin {gate.margin:g}"
    alone = f"safety alone is held against {name_config(first)}, {margin}; `holdfast gate` has all checks"
    why = () if passing is not None else (f"none of the doses {tried} passes {margin}",)
    yield Estimate(
        kind="reteach_dose",
        value=passing,
        unit=f"dose of {about['lineage'][-1]}, of {tried}",
        caveats=(*why, alone),
        **about,
        axes=dict(without_dose(first[1])),
    )


def case_changes(
    design: Design, keys: Sequence[Key], pair: tuple[Config, Config], objective: str, *, family: bool = False
) -> Floats:
    """By case (or family of cases), the mean change from one configuration to another, over all seeds.

    Only replicates that have both count; cases stand in an order that no score decides.
    """
    first, config = pair
    number, values = design.objective(objective), design.panel.values
    found = [
        values[number, own] - values[number, other]
        for matched in (match(design, key, (config, first), (number,)) for key in keys)
        for own, other in zip(matched.rows[config], matched.rows[first], strict=True)
    ]
    if not found:
        return np.zeros(0)
    changes, scores = row_means(np.stack(found, axis=1)), design.panel.cells.scores
    place = {scores.case_ids[case]: int(case) for case in np.flatnonzero(np.isfinite(changes))}
    order = [place[name] for name in order_cases(list(place))]
    if family:
        return cluster_means(changes[order], [scores.families[case] for case in order])
    return np.asarray(changes[order], dtype=np.float64)
