"""Frontiers to draw: points of lineages in the plane of two objectives, with their covariances and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from holdfast.analysis.design import BASE, Design, by_base, subject
from holdfast.analysis.frontier import BASE_POINTS, MEAN_POINTS, Drawn, cloud, draw_cloud
from holdfast.analysis.published import DELTA_POINTS, point_of, point_weights
from holdfast.analysis.repair import REPAIR_POINTS, find_repairs
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Estimate, Frontier, Point
from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import MIN_SEEDS, spread
from holdfast.stats.lines import non_dominated


def frontiers(design: Design, means: Floats, rows: Sequence[Estimate]) -> Iterator[Frontier]:
    """Frontiers to draw: published differences by base, pooled means over bases (with repairs too), and of each base.

    All of them are of the headline's judges.
    Covariances of the published differences treat cases as random; those of means treat seeds as random too, where
    there are enough.
    """
    if not design.recipes or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    points = []
    whole = design.headline(HELPFULNESS, SAFETY)
    judges = {key.judge for key in whole}
    rows = [row for row in rows if not row.beside and (row.judge is None or {row.judge} == judges)]
    for base, keys in by_base(whole):
        for config, weights in point_weights(design, keys, design.recipes, relative=True)[0].items():
            x, y = point_of(design, weights)
            covariance = _triangle(_case_covariance(design, weights))
            points.append(Point(base=base, x=x, y=y, covariance=covariance, **subject(config)))
    yield Frontier(
        unit=DELTA_POINTS,
        x_objective=HELPFULNESS,
        y_objective=SAFETY,
        relative=True,
        points=tuple(points),
        lines=tuple(_lines(rows, DELTA_POINTS)),
        resampled=("cases",),
    )
    mean = cloud(design, [(None, whole)], (BASE, *design.recipes), relative=False)
    if mean.configs:
        yield _frontier(draw_cloud(design, mean, means), MEAN_POINTS, rows)
    if repairs := find_repairs(design):
        both = cloud(design, [(None, whole)], (BASE, *design.recipes, *repairs), relative=False)
        if both.configs:
            drawn = draw_cloud(design, both, means)
            # The lines are those of the plain recipes: a repair is held against them.
            yield replace(_frontier(drawn, MEAN_POINTS, rows), unit=REPAIR_POINTS)
    for base, keys in by_base(whole):
        own = cloud(design, [(base, keys)], (BASE, *design.recipes), relative=False)
        if own.configs:
            yield _frontier(draw_cloud(design, own, means), BASE_POINTS, rows)


def _lines(rows: Sequence[Estimate], unit: str) -> Iterator[Estimate]:
    """The estimates that draw the lines through points of this unit."""
    return (row for row in rows if row.unit == unit and row.kind in ("slope", "intercept"))


def _case_covariance(design: Design, weights: Floats) -> Floats | None:
    """Covariance of a published (helpfulness, safety) from cases, which its base shares."""
    flat = np.zeros((2, *design.means.shape))
    for place, name in enumerate((HELPFULNESS, SAFETY)):
        flat[place, design.objective(name)] = weights
    return spread(design.sample, flat.reshape(2, -1)).case


def _triangle(covariance: Floats | None) -> tuple[float, float, float] | None:
    """(xx, xy, yy) of a 2 × 2 covariance."""
    if covariance is None:
        return None
    return float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])


def _frontier(drawn: Drawn, unit: str, rows: Sequence[Estimate]) -> Frontier:
    """The frontier of absolute points with covariances and the share of resamples in which each is non-dominated."""
    share = non_dominated(drawn.x_draws, drawn.y_draws).mean(axis=0)
    points = tuple(
        Point(
            base=base,
            x=float(drawn.x[index]),
            y=float(drawn.y[index]),
            covariance=_triangle(drawn.points.covariance[index]),
            non_dominated=float(share[index]),
            **subject(config),
        )
        for index, (base, config) in enumerate(zip(drawn.points.bases, drawn.points.configs, strict=True))
    )
    seeds = len(drawn.points.units) >= MIN_SEEDS
    return Frontier(
        unit=unit,
        x_objective=HELPFULNESS,
        y_objective=SAFETY,
        relative=False,
        points=points,
        lines=tuple(_lines(rows, unit)),
        resampled=("cases", drawn.points.unit) if seeds else ("cases",),
    )
