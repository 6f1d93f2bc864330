"""Frontiers to draw: points of lineages in the plane of two objectives, with their covariances and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.analysis.design import BASE, Design, Key, subject
from holdfast.analysis.frontier import BASE_POINTS, MEAN_POINTS, Drawn, by_base, cloud, draw_cloud
from holdfast.analysis.panel import Config
from holdfast.analysis.paper import DELTA_POINTS, delta_points, delta_weights
from holdfast.analysis.roles import HELPFULNESS, SAFETY
from holdfast.records import Estimate, Frontier, Point
from holdfast.stats.contrasts import MIN_SEEDS, spread
from holdfast.stats.lines import non_dominated

Floats = NDArray[np.float64]


def frontiers(design: Design, means: Floats, rows: Sequence[Estimate]) -> Iterator[Frontier]:
    """Frontiers to draw: published differences by base, pooled means over bases, pooled means of each base.

    Covariances of the published differences treat cases as random; those of means treat seeds as random too, where
    there are enough.
    """
    if not design.recipes or not {SAFETY, HELPFULNESS} <= set(design.panel.objectives):
        return
    about: dict[str, Any] = {"x_objective": HELPFULNESS, "y_objective": SAFETY}
    points = []
    for base, keys in by_base(design.keys):
        for config in design.recipes:
            for x, y in delta_points(design, keys, [config]):
                covariance = _triangle(_delta_covariance(design, keys, config))
                points.append(Point(base=base, x=x, y=y, covariance=covariance, **subject(config)))
    lines = tuple(row for row in rows if row.unit == DELTA_POINTS and row.kind in ("slope", "intercept"))
    pooled_lines = tuple(row for row in lines if row.judge is None)
    about |= {"unit": DELTA_POINTS, "relative": True, "resampled": ("cases",)}
    yield Frontier(points=tuple(points), lines=pooled_lines, **about)
    mean = cloud(design, [(None, design.keys)], (BASE, *design.recipes), relative=False)
    if mean is not None:
        yield _frontier(draw_cloud(design, mean, means), MEAN_POINTS, rows)
    for base, keys in by_base(design.keys):
        own = cloud(design, [(base, keys)], (BASE, *design.recipes), relative=False)
        if own is not None:
            yield _frontier(draw_cloud(design, own, means), BASE_POINTS, rows)


def _delta_covariance(design: Design, keys: Sequence[Key], config: Config) -> Floats | None:
    """Covariance of a published (Δ helpfulness, Δ safety) from cases, which its base shares."""
    weights = [delta_weights(design, keys, config, name) for name in (HELPFULNESS, SAFETY)]
    return spread(design.sample, np.stack(weights)).case


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
    lines = tuple(row for row in rows if row.unit == unit and row.kind in ("slope", "intercept"))
    seeds = len(drawn.points.units) >= MIN_SEEDS
    return Frontier(
        unit=unit,
        x_objective=HELPFULNESS,
        y_objective=SAFETY,
        relative=False,
        points=points,
        lines=lines,
        resampled=("cases", drawn.points.unit) if seeds else ("cases",),
    )
