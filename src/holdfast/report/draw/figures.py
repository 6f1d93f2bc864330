"""The plane of two objectives as SVG: lineages, the arrows between them, regions and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from holdfast.records import Analysis, Estimate, Frontier, Point
from holdfast.report.draw.svg import (
    DASHES,
    PAPER,
    SERIES,
    SHAPES,
    SOFT,
    Attribute,
    Canvas,
    Scale,
    color_of,
    draw_arrow,
    draw_axes,
    draw_mark,
    span,
    stroke_of,
)
from holdfast.report.words.labels import (
    Lineage,
    format_interval,
    format_number,
    format_percent,
    name_axes,
    name_lineage,
    name_subject,
)

CHI_SQUARE_95 = 5.991  # the 95 % quantile of chi-square with 2 degrees of freedom
CORNERS = 48  # of an ellipse
WIDTH, HEIGHT = 940.0, 560.0  # pixels
# The lineages of the published design have the same colour in every report.
COLORS: Mapping[Lineage, int] = {(): 0, ("S",): 1, ("H",): 2, ("S&H",): 3, ("S", "H"): 4, ("H", "S"): 7}


def order_lineages(analysis: Analysis) -> dict[Lineage, int]:
    """Every lineage of an analysis → 8 · its place + its colour: base first, then by length and appearance.

    The number modulo 8 is the colour, and sorting by the number keeps the order. A colour follows from the name, so
    that a lineage has the same one from report to report, unless another lineage of the same report took it first.
    """
    points = (point.lineage for frontier in analysis.frontiers for point in frontier.points)
    curves = (curve.lineage for curve in analysis.curves)
    named = (one.lineage for _, section in analysis.sections() for one in section if one.lineage is not None)
    lineages: dict[Lineage, None] = dict.fromkeys([(), *points, *curves, *named])
    colors = {lineage: COLORS[lineage] for lineage in lineages if lineage in COLORS}
    for lineage in sorted(lineages.keys() - COLORS.keys(), key=lambda one: (len(one), one)):
        first = crc32("→".join(lineage).encode())
        choices = [1 + (first + turn) % (len(SERIES) - 1) for turn in range(len(SERIES) - 1)]
        colors[lineage] = next((one for one in choices if one not in colors.values()), choices[0])
    return {lineage: len(SERIES) * place + colors[lineage] for place, lineage in enumerate(sorted(lineages, key=len))}


def _ellipse_path(point: Point, x: Scale, y: Scale) -> str | None:
    """A point's 95 % region as a path in pixels (the two scales differ, so it is drawn point by point)."""
    if point.covariance is None or not all(map(math.isfinite, point.covariance)):
        return None
    xx, xy, yy = point.covariance
    values, vectors = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
    angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    half_axes = vectors * np.sqrt(np.clip(values, 0, None) * CHI_SQUARE_95)
    corners = (half_axes @ np.array([np.cos(angles), np.sin(angles)])).T.tolist()
    return "M" + "L".join(f"{x(point.x + u):.1f} {y(point.y + v):.1f}" for u, v in corners) + "Z"


def point_words(point: Point, frontier: Frontier) -> str:
    """What the hover title of a point says."""
    words = " · ".join(filter(None, [name_lineage(point.lineage), point.base, name_axes(point.axes), point.judge]))
    words += f"\n{frontier.x_objective} {format_number(point.x)}, {frontier.y_objective} {format_number(point.y)}"
    if point.non_dominated is not None:
        words += f"\nnot dominated in {format_percent(point.non_dominated)} of resamples"
    return words


def pair_lines(frontier: Frontier) -> list[tuple[str, float, float]]:
    """(words, slope, intercept) of every line of which both numbers are known."""
    found: dict[str, dict[str, Estimate]] = {}
    for estimate in frontier.lines:
        subject = name_subject(replace(estimate, unit=None, lineage=None), objective=False)
        words = estimate.estimator.replace("_", " ") + ("" if subject == "pooled" else f" · {subject}")
        found.setdefault(words, {}).setdefault(estimate.kind, estimate)
    lines = []
    for words, parts in found.items():
        slope, intercept = parts.get("slope"), parts.get("intercept")
        if slope and intercept and slope.value is not None and intercept.value is not None:
            label = f"{words}: slope {format_number(slope.value)} {format_interval(slope)}".strip()
            lines.append((label, slope.value, intercept.value))
    return lines


def mean_points(frontier: Frontier) -> dict[Lineage, Point]:
    """A point per lineage: the unweighted mean of its points, or the point itself where it is alone."""
    groups: dict[Lineage, list[Point]] = {}
    for point in frontier.points:
        groups.setdefault(point.lineage, []).append(point)
    if frontier.relative and () not in groups:
        groups[()] = [Point(lineage=(), x=0.0, y=0.0)]
    means = {}
    for lineage, points in groups.items():
        x, y = (sum(values) / len(points) for values in ([one.x for one in points], [one.y for one in points]))
        means[lineage] = points[0] if len(points) == 1 else Point(lineage=lineage, x=x, y=y)
    return means


def _draw_lines(canvas: Canvas, frontier: Frontier, x: Scale, y: Scale) -> None:
    for number, (words, slope, intercept) in enumerate(pair_lines(frontier)):
        ends = [(value, slope * value + intercept) for value in (x.low, x.high)]
        if slope:
            ends += [((bound - intercept) / slope, bound) for bound in (y.low, y.high)]
        near = 1e-9
        inside = [(px, py) for px, py in ends if x.low - near <= px <= x.high + near]
        inside = sorted((px, py) for px, py in inside if y.low - near <= py <= y.high + near)
        if len(inside) >= 2:
            (x1, y1), (x2, y2) = inside[0], inside[-1]
            dash = DASHES[number % len(DASHES)]
            look: dict[str, Attribute] = {"stroke": SOFT, "stroke_width": 1.6, "cls": "fit", "stroke_dasharray": dash}
            canvas.add("line", x1=x(x1), y1=y(y1), x2=x(x2), y2=y(y2), hover=words, **look)


def _draw_points(canvas: Canvas, frontier: Frontier, colors: Mapping[Lineage, int], x: Scale, y: Scale) -> None:
    """Ellipses and small marks of single points, where lineages have several."""
    bases = list(dict.fromkeys(point.base for point in frontier.points if point.base))
    alone = len(frontier.points) == len({point.lineage for point in frontier.points})
    for point in frontier.points:
        series = colors.get(point.lineage, 0)
        if path := _ellipse_path(point, x, y):
            classes = f"f{series % len(SERIES)} l{series % len(SERIES)}"
            look: dict[str, Attribute] = {**color_of(series), **stroke_of(series), "cls": classes}
            fill, stroke = (0.16, 0.6) if alone else (0.04, 0.22)
            canvas.add("path", d=path, stroke_width=1, **look, fill_opacity=fill, stroke_opacity=stroke)
        if not alone:
            shape = SHAPES[(bases.index(point.base) if point.base in bases else 0) % len(SHAPES)]
            hover = point_words(point, frontier)
            draw_mark(canvas, shape, (x(point.x), y(point.y)), 3.6, series, hover=hover, opacity=0.8)


def _spread_labels(places: Sequence[tuple[float, float]]) -> list[float]:
    """Baselines of labels at ``places``, moved down until none overlaps a neighbour."""
    result = [py for _, py in places]
    for index in sorted(range(len(places)), key=lambda one: places[one][1]):
        for other in sorted(range(len(places)), key=lambda one: result[one]):
            near = abs(places[index][0] - places[other][0]) < 64  # pixels: about the width of a name; 15 is its height
            if other != index and near and result[other] <= result[index] < result[other] + 15:
                result[index] = result[other] + 15
    return result


def _draw_means(canvas: Canvas, frontier: Frontier, colors: Mapping[Lineage, int], x: Scale, y: Scale) -> None:
    """Arrows through the stages, large marks and their names."""
    means = mean_points(frontier)
    for lineage, point in means.items():
        if lineage and (parent := means.get(lineage[:-1])) is not None:
            start, end = (x(parent.x), y(parent.y)), (x(point.x), y(point.y))
            draw_arrow(canvas, start, end, colors.get(lineage, 0), gap=10)
    places = [(x(point.x), y(point.y)) for point in means.values()]
    halo: dict[str, Any] = {"stroke": PAPER, "stroke_width": "4", "paint_order": "stroke", "stroke_linejoin": "round"}
    for (lineage, point), (px, py), label_y in zip(means.items(), places, _spread_labels(places), strict=True):
        hover = point_words(point, frontier)
        draw_mark(canvas, "circle", (px, py), 7.5, colors.get(lineage, 0), hover=hover, stroke=PAPER, stroke_width=2)
        side, aside = ("end", -12) if px > x.end - 70 else ("start", 12)
        canvas.text(px + aside, label_y + 4.5, name_lineage(lineage), anchor=side, size=13, font_weight="650", **halo)


def draw_frontier(frontier: Frontier, colors: Mapping[Lineage, int]) -> str:
    """The frontier plot as SVG: points with 95 % ellipses, arrows from base through the stages, fitted lines.

    Where a lineage has several points the large mark is their mean and the small ones are told apart by base.
    """
    prefix = "change of " if frontier.relative else ""
    title = f"{prefix}{frontier.y_objective} against {prefix}{frontier.x_objective}"
    canvas = Canvas(width=WIDTH, height=HEIGHT, title=f"{title}, by lineage")
    spots = [(0.0, 0.0, 0.0, 0.0)] if frontier.relative else []
    for point in frontier.points:
        xx, _, yy = point.covariance or (0.0, 0.0, 0.0)
        spots.append((point.x, point.y, 2 * math.sqrt(max(xx, 0)), 2 * math.sqrt(max(yy, 0))))
    across = span([px + sign * ex for px, _, ex, _ in spots for sign in (-1, 1)], pad=0.05)
    upward = span([py + sign * ey for _, py, _, ey in spots for sign in (-1, 1)], pad=0.05)
    x, y = Scale(*across, start=70, end=WIDTH - 24), Scale(*upward, start=HEIGHT - 58, end=16)
    against = " against the base" if frontier.relative else ""
    labels = (f"{prefix}{name}{against}, score points" for name in (frontier.x_objective, frontier.y_objective))
    draw_axes(canvas, x, y, *labels)
    canvas.text(x.end - 6, y.end + 16, "better in both ↗", anchor="end", soft=True, font_style="italic")
    _draw_lines(canvas, frontier, x, y)
    _draw_points(canvas, frontier, colors, x, y)
    _draw_means(canvas, frontier, colors, x, y)
    return canvas.render()
