"""Figures as SVG text: the frontier with its lineages, and persistence as a forest plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from holdfast.records import Analysis, Estimate, Frontier, Point, Unbounded
from holdfast.records.quantities import NOT_IDENTIFIED, Format, quantity_of
from holdfast.report.draw.svg import (
    PAPER,
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
    UNBOUNDED,
    describe_basis,
    format_interval,
    format_number,
    format_percent,
    format_value,
    name_axes,
    name_kind,
    name_lineage,
    name_subject,
)

Lineage = tuple[str, ...]
CHI_SQUARE_95 = 5.991  # the 95 % quantile of chi-square with 2 degrees of freedom
RATIO_RANGE = (-0.5, 1.5)  # of persistence in a forest plot
DASHES = (None, "6 4", "2 3", "8 3 2 3")


def order_lineages(analysis: Analysis) -> dict[Lineage, int]:
    """Every lineage of an analysis with the number of its colour: base first, then by length and appearance."""
    found: dict[Lineage, None] = {(): None}
    for frontier in analysis.frontiers:
        found |= dict.fromkeys(point.lineage for point in frontier.points)
    found |= dict.fromkeys(curve.lineage for curve in analysis.curves)
    for _, section in analysis.sections():
        found |= dict.fromkeys(estimate.lineage for estimate in section if estimate.lineage is not None)
    return {lineage: number for number, lineage in enumerate(sorted(found, key=len))}


def _ellipse(point: Point) -> tuple[float, float, float] | None:
    """Half axes and angle in degrees of a point's 95 % ellipse, in data units."""
    if point.covariance is None or not all(math.isfinite(value) for value in point.covariance):
        return None
    xx, xy, yy = point.covariance
    values, vectors = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
    minor, major = (math.sqrt(max(value, 0.0) * CHI_SQUARE_95) for value in values)
    return major, minor, math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))


def _ellipse_path(point: Point, x: Scale, y: Scale) -> str | None:
    """The ellipse as a path in pixels (the two scales differ, so it is drawn point by point)."""
    shape = _ellipse(point)
    if shape is None:
        return None
    major, minor, degrees = shape
    turn = math.radians(degrees)
    corners = []
    for step in range(48):
        angle = 2 * math.pi * step / 48
        u, v = major * math.cos(angle), minor * math.sin(angle)
        px = x(point.x + u * math.cos(turn) - v * math.sin(turn))
        py = y(point.y + u * math.sin(turn) + v * math.cos(turn))
        corners.append(f"{px:.1f} {py:.1f}")
    return "M" + "L".join(corners) + "Z"


def point_words(point: Point, frontier: Frontier) -> str:
    """What the hover title of a point says."""
    parts = [name_lineage(point.lineage), point.base, name_axes(point.axes), point.judge]
    words = " · ".join(part for part in parts if part)
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
    return {
        lineage: points[0]
        if len(points) == 1
        else Point(
            lineage=lineage,
            x=sum(point.x for point in points) / len(points),
            y=sum(point.y for point in points) / len(points),
        )
        for lineage, points in groups.items()
    }


def _draw_lines(canvas: Canvas, frontier: Frontier, x: Scale, y: Scale) -> None:
    for number, (words, slope, intercept) in enumerate(pair_lines(frontier)):
        ends = []
        for value in (x.low, x.high):
            ends.append((value, slope * value + intercept))
        if slope:
            ends += [((bound - intercept) / slope, bound) for bound in (y.low, y.high)]
        inside = sorted(
            (px, py)
            for px, py in ends
            if x.low - 1e-9 <= px <= x.high + 1e-9 and min(y.low, y.high) - 1e-9 <= py <= max(y.low, y.high) + 1e-9
        )
        if len(inside) >= 2:
            (x1, y1), (x2, y2) = inside[0], inside[-1]
            canvas.add(
                "line",
                x1=x(x1),
                y1=y(y1),
                x2=x(x2),
                y2=y(y2),
                stroke=SOFT,
                stroke_width=1.6,
                stroke_dasharray=DASHES[number % len(DASHES)],
                cls="fit",
                hover=words,
            )


def _draw_points(canvas: Canvas, frontier: Frontier, colors: Mapping[Lineage, int], x: Scale, y: Scale) -> None:
    """Ellipses and small marks of single points, where lineages have several."""
    bases = list(dict.fromkeys(point.base for point in frontier.points if point.base))
    alone = len(frontier.points) == len({point.lineage for point in frontier.points})
    for point in frontier.points:
        series = colors.get(point.lineage, 0)
        path = _ellipse_path(point, x, y)
        hover = point_words(point, frontier)
        if path:
            look: dict[str, Attribute] = {
                **color_of(series),
                **stroke_of(series),
                "cls": f"f{series % 8} l{series % 8}",
            }
            opacity = {"fill_opacity": 0.16, "stroke_opacity": 0.6}
            faint = {"fill_opacity": 0.04, "stroke_opacity": 0.22}
            canvas.add("path", d=path, stroke_width=1, **look, **(opacity if alone else faint))
        if not alone:
            shape = SHAPES[(bases.index(point.base) if point.base in bases else 0) % len(SHAPES)]
            draw_mark(canvas, shape, (x(point.x), y(point.y)), 3.6, series, hover=hover, opacity=0.8)


def _spread_labels(places: Sequence[tuple[float, float]]) -> list[float]:
    """Baselines of labels at ``places``, moved down until none overlaps a neighbour."""
    result = [py for _, py in places]
    for index in sorted(range(len(places)), key=lambda one: places[one][1]):
        for other in sorted(range(len(places)), key=lambda one: result[one]):
            near = abs(places[index][0] - places[other][0]) < 64
            if other != index and near and result[other] <= result[index] < result[other] + 15:
                result[index] = result[other] + 15
    return result


def _draw_means(canvas: Canvas, frontier: Frontier, colors: Mapping[Lineage, int], x: Scale, y: Scale) -> None:
    """Arrows through the stages, large marks and their names."""
    means = mean_points(frontier)
    for lineage, point in means.items():
        parent = means.get(lineage[:-1]) if lineage else None
        if parent is not None:
            start, end = (x(parent.x), y(parent.y)), (x(point.x), y(point.y))
            draw_arrow(canvas, start, end, colors.get(lineage, 0), gap=10)
    places = [(x(point.x), y(point.y)) for point in means.values()]
    for (lineage, point), label_y in zip(means.items(), _spread_labels(places), strict=True):
        px, py = x(point.x), y(point.y)
        hover = point_words(point, frontier)
        draw_mark(canvas, "circle", (px, py), 7.5, colors.get(lineage, 0), hover=hover, stroke=PAPER, stroke_width=2)
        side = "end" if px > x.end - 70 else "start"
        canvas.text(
            px + (-12 if side == "end" else 12),
            label_y + 4.5,
            name_lineage(lineage),
            anchor=side,
            size=13,
            font_weight="650",
            stroke=PAPER,
            stroke_width="4",
            paint_order="stroke",
            stroke_linejoin="round",
        )


def draw_frontier(frontier: Frontier, colors: Mapping[Lineage, int], *, width: float = 940, height: float = 560) -> str:
    """The frontier plot as SVG: points with 95 % ellipses, arrows from base through the stages, fitted lines.

    Where a lineage has several points the large mark is their mean and the small ones are told apart by base.
    """
    prefix = "change of " if frontier.relative else ""
    title = f"{prefix}{frontier.y_objective} against {prefix}{frontier.x_objective}"
    canvas = Canvas(width=width, height=height, title=f"{title}, by lineage")
    spots = [(0.0, 0.0, 0.0, 0.0)] if frontier.relative else []
    for point in frontier.points:
        xx, _, yy = point.covariance or (0.0, 0.0, 0.0)
        spots.append((point.x, point.y, 2 * math.sqrt(max(xx, 0)), 2 * math.sqrt(max(yy, 0))))
    low, high = span([px + sign * ex for px, _, ex, _ in spots for sign in (-1, 1)], pad=0.05)
    x = Scale(low=low, high=high, start=70, end=width - 24)
    low, high = span([py + sign * ey for _, py, _, ey in spots for sign in (-1, 1)], pad=0.05)
    y = Scale(low=low, high=high, start=height - 58, end=16)
    unit = "Δ " if frontier.relative else ""
    draw_axes(canvas, x, y, f"{unit}{frontier.x_objective} (points)", f"{unit}{frontier.y_objective} (points)")
    _draw_lines(canvas, frontier, x, y)
    _draw_points(canvas, frontier, colors, x, y)
    _draw_means(canvas, frontier, colors, x, y)
    return canvas.render()


def _bounds(estimates: Iterable[Estimate], ratio: bool) -> tuple[float, float]:
    """The range of a forest plot: all values, and intervals as far as they do not dwarf the values.

    A ratio's range is that of ``RATIO_RANGE``, wider only where a value lies outside.
    """
    values = [one.value for one in estimates if one.value is not None and math.isfinite(one.value)]
    if ratio:
        least, most = min(values, default=0.0) - 0.05, max(values, default=0.0) + 0.05
        return min(RATIO_RANGE[0], least), max(RATIO_RANGE[1], most)
    values += [0.0]
    low, high = min(values), max(values)
    reach = max(high - low, 0.4) * 0.6
    ends = [end for one in estimates if isinstance(one.interval, tuple) for end in one.interval]
    finite = [min(max(end, low - reach), high + reach) for end in ends if math.isfinite(end)]
    return span([*values, *finite], pad=0.04)


def _draw_interval(canvas: Canvas, estimate: Estimate, x: Scale, y: float, series: int) -> None:
    """An interval with arrow heads where it leaves the plot; dashed across everything where it is unbounded."""
    look: dict[str, Attribute] = {**stroke_of(series), "stroke_width": 2.2}
    if isinstance(estimate.interval, Unbounded):
        canvas.add("line", x1=x.start, y1=y, x2=x.end, y2=y, stroke_dasharray="2 5", **look)
        ends = (-math.inf, math.inf)
    elif estimate.interval is None:
        return
    else:
        ends = estimate.interval
        inside = [min(max(end, x.low), x.high) for end in ends]
        canvas.add("line", x1=x(inside[0]), y1=y, x2=x(inside[1]), y2=y, **look)
    for end, edge, sign in ((ends[0], x.start, 1), (ends[1], x.end, -1)):
        if not x.low <= end <= x.high:
            path = f"M{edge + 6 * sign:.1f} {y - 4:.1f}L{edge:.1f} {y:.1f}L{edge + 6 * sign:.1f} {y + 4:.1f}"
            canvas.add("path", d=path, fill="none", **look)
        else:
            canvas.add("line", x1=x(end), y1=y - 4, x2=x(end), y2=y + 4, **look)


def _draw_row(canvas: Canvas, estimate: Estimate, x: Scale, y: float, *, narrow: bool) -> None:
    series = 2 if estimate.claim == "recipe" else 1
    above = y - 14  # where words stand that have no room beside the bar
    basis = f"{estimate.estimator.replace('_', ' ')} · {estimate.claim}"
    if narrow:
        canvas.text(10, above, f"{name_subject(estimate)} · {basis}", size=11)
    else:
        canvas.text(10, y + 4, name_subject(estimate))
        canvas.text(x.start - 12, y + 4, basis, anchor="end", soft=True, size=11)
    hover = describe_basis(estimate)
    if estimate.value is None:
        canvas.text(
            (x.start + x.end) / 2,
            y + 4,
            NOT_IDENTIFIED,
            anchor="middle",
            soft=True,
            font_style="italic",
        )
        if not narrow:
            canvas.text(x.end + 14, y + 4, "–", soft=True)
        return
    _draw_interval(canvas, estimate, x, y, series)
    shape = "square" if estimate.claim == "recipe" else "circle"
    place = min(max(estimate.value, x.low), x.high)
    draw_mark(canvas, shape, (x(place), y), 5, series, hover=hover, stroke=PAPER, stroke_width=1.5)
    words = format_interval(estimate)
    note = f"({UNBOUNDED})" if words == UNBOUNDED else words
    if narrow:
        canvas.text(x.end, y + 18, f"{format_value(estimate)} {note}".strip(), anchor="end", soft=True, size=11)
    else:
        canvas.text(x.end + 14, y + 4, f"{format_value(estimate)} {note}".strip())


def draw_forest(estimates: Sequence[Estimate], *, width: float = 1000, narrow: bool = False) -> str:
    """Estimates of one kind as a forest plot in SVG, a row each.

    Circles are checkpoint claims, squares recipe claims. What is not identified has no mark; an unbounded
    interval is dashed across the plot; an interval that leaves the plot ends in an arrow head. A narrow plot
    has its words above and below the bars.
    """
    kind = estimates[0].kind
    ratio = quantity_of(kind).format is Format.RATIO
    row, top = (56, 14) if narrow else (27, 14)
    height = top + row * len(estimates) + 50
    canvas = Canvas(width=width, height=height, title=f"{name_kind(kind)} with 95 % intervals")
    low, high = _bounds(estimates, ratio)
    x = Scale(low=low, high=high, start=12 if narrow else 390, end=width - (12 if narrow else 150))
    bottom = top + row * len(estimates)
    for tick in x.ticks(5):
        strong = tick == 0 or (ratio and tick == 1)
        canvas.rule(x(tick), top - 6, x(tick), bottom, strong=strong, dash="3 3" if strong and tick else None)
        canvas.text(x(tick), bottom + 16, f"{tick:g}".replace("-", "−"), anchor="middle", soft=True)
    label = (
        ("" if narrow else "share of the gap between the two single stages; ")
        + "0 like the second stage alone, 1 like the first"
        if ratio
        else f"{name_kind(kind)} (score points)"
    )
    canvas.text((x.start + x.end) / 2, bottom + 38, label, anchor="middle", size=12)
    last = None
    for number, estimate in enumerate(estimates):
        if last is not None and estimate.objective != last:
            canvas.rule(8, top + row * number, width - 8, top + row * number)
        last = estimate.objective
        _draw_row(canvas, estimate, x, top + row * (number + 0.5), narrow=narrow)
    return canvas.render()
