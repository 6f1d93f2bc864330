"""Frontiers to draw: points of lineages in the plane of two objectives, with their covariances and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from holdfast.analysis.design import BASE, Design, by_base, subject
from holdfast.analysis.frontier import BASE_POINTS, MEAN_POINTS, draw_cloud
from holdfast.analysis.panel import Config
from holdfast.analysis.published import DELTA_POINTS, point_of, point_weights
from holdfast.analysis.repair import REPAIR_POINTS, find_repairs
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Estimate, Frontier, Point
from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import MIN_SEEDS, spread
from holdfast.stats.lines import non_dominated


def frontiers(design: Design, means: Floats, rows: Sequence[Estimate]) -> Iterator[Frontier]:
    """Frontiers to draw: published differences by base, pooled means over bases (with repairs too), and of each base.

    All of them are of the headline's judges. Covariances of the published differences treat cases as random; those of
    means treat seeds as random too, where there are enough.
    """
    if not design.recipes or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    whole = design.headline(HELPFULNESS, SAFETY)
    judges = {key.judge for key in whole}
    rows = [row for row in rows if not row.beside and (row.judge is None or {row.judge} == judges)]
    points = []
    for base, keys in by_base(whole):
        for config, weights in point_weights(design, keys, design.recipes, relative=True)[0].items():
            flat = np.zeros((2, *design.means.shape))
            for place, name in enumerate((HELPFULNESS, SAFETY)):
                flat[place, design.objective(name)] = weights
            case = spread(design.sample, flat.reshape(2, -1)).case  # of what a base shares
            points.append(_point(base, config, point_of(design, weights), case))
    yield _frontier(DELTA_POINTS, points, rows, ("cases",), relative=True)
    every = (BASE, *design.recipes)
    repairs = find_repairs(design)
    planes = [(MEAN_POINTS, None, whole, every)]
    # The lines are those of the plain recipes: a repair is held against them.
    planes += [(REPAIR_POINTS, None, whole, (*every, *repairs))] if repairs else []
    for unit, base, keys, configs in (*planes, *((BASE_POINTS, base, keys, every) for base, keys in by_base(whole))):
        drawn = draw_cloud(design, [(base, keys)], configs, means, relative=False)
        if drawn.configs:
            share = non_dominated(drawn.x_draws, drawn.y_draws).mean(axis=0)
            places = zip(drawn.x, drawn.y, strict=True)
            of_each = zip(drawn.bases, drawn.configs, places, drawn.covariance, share, strict=True)
            random = ("cases", drawn.unit) if drawn.spread.seeds >= MIN_SEEDS else ("cases",)
            yield _frontier(unit, [_point(*one) for one in of_each], rows, random, relative=False)


def _point(
    base: str | None, config: Config, at: tuple[float, float], covariance: Floats | None, share: float | None = None
) -> Point:
    triangle = None
    if covariance is not None:
        triangle = float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])
    shown = None if share is None else float(share)
    return Point(base=base, x=float(at[0]), y=float(at[1]), covariance=triangle, non_dominated=shown, **subject(config))


def _frontier(
    unit: str, points: Sequence[Point], rows: Sequence[Estimate], random: tuple[str, ...], *, relative: bool
) -> Frontier:
    """A frontier with the lines through its points."""
    drawn = MEAN_POINTS if unit == REPAIR_POINTS else unit
    return Frontier(
        unit=unit,
        x_objective=HELPFULNESS,
        y_objective=SAFETY,
        relative=relative,
        points=tuple(points),
        lines=tuple(row for row in rows if row.unit == drawn and row.kind in ("slope", "intercept")),
        resampled=random,
    )
