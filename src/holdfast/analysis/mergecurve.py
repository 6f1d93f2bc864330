"""What merging two checkpoints gives at no cost, as a curve, and what stands beyond it.

A line through other recipes is a weak rival where the trade-off bends. Merges of the safety and the helpfulness stage
at several shares are mixtures of the two, and show how the trade-off runs between them: their curve is a parabola
through both stages and their merges, for each base, in coordinates along and off the chord of the two stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from holdfast.analysis.design import Design, by_base, subject, without_dose
from holdfast.analysis.frontier import (
    EXPLORATORY,
    THESE_WEIGHTS,
    Drawn,
    Statistic,
    claim_row,
    cloud,
    describe_cloud,
    draw_cloud,
    interval_of,
)
from holdfast.analysis.panel import Config
from holdfast.analysis.pooled import CLAIMS
from holdfast.analysis.published import BASE_DELTA_POINTS, DELTA_POINTS
from holdfast.analysis.roles import HELPFULNESS, MERGE, MERGED, SAFETY, SHARE
from holdfast.records import Checkpoint, Estimate
from holdfast.records.arrays import Bools, Floats
from holdfast.stats.lines import Lines, curve_distances

Axes = tuple[tuple[str, Any], ...]


def merge_curve_rows(design: Design, repairs: Sequence[Config], means: Floats) -> Iterator[Estimate]:
    """Every joint recipe and repair that is no merge against the curve of the merges of S and H; none without merges.

    Kind ``off_merges``: signed distance from the curve, in score points; positive is better on both.
    """
    tested = [one for one in design.recipes if design.roles.is_joint(one[0])]
    tested += [one for one in repairs if design.roles.repairs(one[0]) != MERGE]
    for core in design.core_axes:
        ends, merges = _merges(design, core)
        for config in (one for one in tested if merges and _core(one) == core):
            yield from _off_curve(design, (*ends, *merges, config), means)


def _core(config: Config) -> Axes:
    """The axes of a configuration but its dose and the share of a merge or a mixture."""
    return tuple(one for one in without_dose(config[1]) if one[0] != SHARE)


def _merges(design: Design, core: Axes) -> tuple[tuple[Config, ...], list[Config]]:
    """A safety and a helpfulness stage at some axes, and the merges of just these two; none where there are none.

    Of several pairs of stages it is the one with most merges.
    """
    parents = {one.lineage: one.stages[-1].settings.get(MERGED, ()) for one in _checkpoints(design) if one.stages}
    found: dict[tuple[tuple[str, ...], ...], list[Config]] = {}
    for config in design.configs:
        of = tuple(sorted(map(tuple, parents.get(config[0], ()))))
        goals = [design.roles.single(lineage[0]) for lineage in of if len(lineage) == 1]
        if sorted(map(str, goals)) == [HELPFULNESS, SAFETY] and len(config[0]) == 1 and _core(config) == core:
            found.setdefault(of, []).append(config)
    if not found:
        return (), []
    of = max(found, key=lambda pair: len(found[pair]))
    ends = tuple(one for one in (design.main(lineage, core) for lineage in of) if one is not None)
    return (ends, found[of]) if len(ends) == len(of) else ((), [])


def _checkpoints(design: Design) -> Iterator[Checkpoint]:
    """Every checkpoint that is a merge."""
    for one in design.panel.trajectories.checkpoints:
        if design.roles.repairs(one.lineage) == MERGE:
            yield one


def _off_curve(design: Design, chosen: tuple[Config, ...], means: Floats) -> Iterator[Estimate]:
    """The last of some configurations against the curve of the others, of which the first two are its ends."""
    ends, config = chosen[:2], chosen[-1]
    for fields, keys, span, _ in design.levels(chosen, HELPFULNESS, SAFETY):
        if span == "cell":
            continue
        points = cloud(design, by_base(keys), chosen, relative=True)
        if not set(chosen) <= set(points.configs):
            continue
        drawn = draw_cloud(design, points, means)
        unit = BASE_DELTA_POINTS if span == "base" else DELTA_POINTS
        about = describe_cloud(drawn, fields, unit) | subject(config) | {"kind": "off_merges"}
        distance = _distance(drawn, ends, config)
        value = float(distance(drawn.x, drawn.y))
        if not np.isfinite(value):
            yield Estimate(value=None, caveats=("no curve through the merges", *points.left_out), **about)
            continue
        for claim in CLAIMS:
            if claim == "recipe" and not points.units:
                continue
            row = Estimate(value=value, interval=interval_of(drawn, distance, value, claim), **about)
            more = (EXPLORATORY, *((THESE_WEIGHTS,) if claim == "checkpoint" else ()))
            yield claim_row(drawn, row, claim, more)


def _distance(drawn: Drawn, ends: Sequence[Config], config: Config) -> Statistic:
    """The mean over bases of a configuration's distance from the curve of its base's merges."""
    configs, bases = drawn.points.configs, drawn.points.bases
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
