"""Lines as SVG text: small multiples along training or against each other, and values against a dose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from holdfast.records import Curve, Estimate
from holdfast.records.quantities import Format, quantity_of
from holdfast.report.draw.rows import span_of
from holdfast.report.draw.svg import (
    LETTER,
    NARROW_WIDTH,
    PAPER,
    SHAPES,
    WIDTH,
    Attribute,
    Canvas,
    Scale,
    draw_axes,
    draw_mark,
    span,
    stroke_of,
    write_tick,
)
from holdfast.report.words.inert import cut_line, show_line
from holdfast.report.words.labels import (
    Lineage,
    describe_basis,
    format_interval,
    format_number,
    name_axes,
    name_kind,
    name_subject,
    varying_axes,
)

Spot = tuple[float, float | None]  # None where nothing was measured: the line is broken there
MOST_POINTS = 60  # of a line; a longer one is drawn as means over windows of equal length
MOST_PANELS = 12  # of one figure
COLUMNS = 3
PANEL_HEIGHT, LEFT, RIGHT, TOP, PLOT = 206.0, 46.0, 16.0, 42.0, 128.0
LEGEND_LINE, LEGEND_MARK = 20.0, 40.0  # pixels
TITLE_CHARACTERS, NOTE_CHARACTERS = 40, 46
LABELS: Mapping[str | None, tuple[str, int, str | None, str]] = {
    "gameable": ("gameable user", 2, None, "circle"),
    "other": ("other user", 1, "6 3", "square"),
    None: ("all users", 3, None, "diamond"),
}
DOSE_AXES = ("dose", "steps", "kl_parent", "kl_base")
AXIS_WORDS = {
    "dose": "dose of the last stage (multiples of the first dose)",
    "steps": "optimiser steps of the last stage",
    "kl_parent": "KL to the checkpoint that the stage started from, nats an episode",
    "kl_base": "KL to the base, nats an episode",
}
SET_AXES = ("dose", "steps")  # chosen by the study, so that curves share their values
DOSE_WIDTH = 860.0  # pixels
BESIDE = 7.0  # pixels between marks of different curves at one dose


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel: what it is of, its look, its single seeds, their mean, and marks over it."""

    words: str
    series: int
    mean: tuple[Spot, ...]
    seeds: tuple[tuple[Spot, ...], ...] = ()
    marks: tuple[Spot, ...] = ()
    dash: str | None = None
    shape: str = "circle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot among several: a title, a second line in grey, and its lines."""

    title: str
    note: str
    lines: tuple[Line, ...]


def _present(spots: Iterable[Spot]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in spots if y is not None and math.isfinite(y)]


def window_length(curves: Iterable[Curve]) -> int:
    """Optimiser steps that one drawn point is the mean of, so that no line has more than ``MOST_POINTS``."""
    last = max((curve.x[-1] for curve in curves if curve.x), default=0)
    return max(1, math.ceil(last / MOST_POINTS))


def _windows(curve: Curve, length: int) -> dict[int, tuple[float, float | None]]:
    """Window → mean step and mean value of what was measured in it, None where nothing was."""
    found: dict[int, tuple[list[int], list[float]]] = {}
    for x, y in zip(curve.x, curve.y, strict=True):
        steps, values = found.setdefault(max(0, x - 1) // length if length > 1 else x, ([], []))
        steps.append(x)
        if y is not None and math.isfinite(y):
            values.append(y)
    return {
        window: (sum(steps) / len(steps), sum(values) / len(values) if values else None)
        for window, (steps, values) in sorted(found.items())
    }


def average_seeds(curves: Sequence[Curve], length: int = 1) -> tuple[Spot, ...]:
    """The mean over runs in each window that any of them has, None where one of them was not measured."""
    read = [_windows(curve, length) for curve in curves]
    spots: list[Spot] = []
    for window in sorted(set().union(*read)):
        there = [one[window] for one in read if window in one]
        values = [y for _, y in there if y is not None]
        step = sum(x for x, _ in there) / len(there)
        spots.append((step, sum(values) / len(values) if len(values) == len(read) else None))
    return tuple(spots)


def make_line(training: Sequence[Curve], held_out: Sequence[Curve], label: str | None, length: int) -> Line | None:
    """The line of one label in a panel: runs in training, thin, their mean, and held-out means as marks.

    Where there is no training log, the held-out values are the line. None where nothing was measured.
    """
    words, series, dash, shape = LABELS.get(label, (show_line(str(label)), 4, "2 3", "up"))
    source, width = (training, length) if training else (held_out, 1)
    seeds = tuple(tuple(_windows(curve, width).values()) for curve in source) if len(source) > 1 else ()
    mean, marks = average_seeds(source, width), average_seeds(held_out)
    if not any(map(_present, (mean, marks, *seeds))):
        return None
    return Line(words=words, series=series, mean=mean, seeds=seeds, marks=marks, dash=dash, shape=shape)


def _path(spots: Sequence[Spot], x: Scale, y: Scale) -> str:
    """The path through the spots, broken where one is missing."""
    path, pen = "", "M"
    for px, py in spots:
        if py is None or not math.isfinite(py):
            pen = "M"
        else:
            path, pen = f"{path}{pen}{x(px):.1f} {y(py):.1f}", "L"
    return path


def _draw_line(canvas: Canvas, line: Line, x: Scale, y: Scale) -> None:
    look: dict[str, Attribute] = {"fill": "none", "stroke_linejoin": "round", **stroke_of(line.series)}
    for seed in line.seeds:
        if path := _path(seed, x, y):
            canvas.add("path", d=path, stroke_width=1, opacity=0.35, stroke_dasharray=line.dash, **look)
    if path := _path(line.mean, x, y):
        canvas.add("path", d=path, stroke_width=2.4, stroke_dasharray=line.dash, hover=line.words, **look)
    spots = line.marks or (line.mean if len(_present(line.mean)) == 1 else ())
    for px, py in _present(spots):
        hover = f"{line.words}: {format_number(py)} at {px:g}"
        draw_mark(canvas, line.shape, (x(px), y(py)), 4.2, line.series, hover=hover, stroke=PAPER, stroke_width=1.2)


def _place_legend(lines: Mapping[str, Line], width: float) -> list[tuple[float, float, Line]]:
    """Where each entry of the legend stands, in rows of at most ``width`` pixels."""
    placed, x, y = [], LEFT, 16.0
    for words, line in lines.items():
        room = LEGEND_MARK + LETTER * len(words) + 14
        if x > LEFT and x + room > width:
            x, y = LEFT, y + LEGEND_LINE
        placed.append((x, y, line))
        x += room
    return placed


def describe_panels(panels: Sequence[Panel], title: str) -> str:
    """What the figure shows, in words: where each line starts and ends."""
    told = []
    for panel in panels:
        drawn = ((line.words, _present(line.mean) or _present(line.marks)) for line in panel.lines)
        values = ((words, [format_number(y) for _, y in spots]) for words, spots in drawn if spots)
        ends = [f"{words} {known[0]} to {known[-1]}" for words, known in values]
        named = f"{panel.title} ({panel.note})" if panel.note else panel.title
        told.append(f"{named}: {', '.join(ends) or 'nothing measured'}")
    return show_line(f"{title}. {'; '.join(told)}")


def _range(panels: Sequence[Panel], axis: int, kind: str) -> tuple[float, float]:
    """The range that all panels share, from all they draw; a share's is from 0 to 1."""
    if quantity_of(kind).format is Format.SHARE:
        return -0.02, 1.02
    lines = [line for panel in panels for line in panel.lines]
    values = [spot[axis] for line in lines for spot in _present([*line.mean, *line.marks, *chain(*line.seeds)])]
    return span([*values, 0.0] if kind in ("kl", "length", "entropy", "gap", "steps") else values, pad=0.06)


def draw_panels(
    panels: Sequence[Panel], *, title: str, x_label: str, kind: str, x_kind: str = "steps", narrow: bool = False
) -> str:
    """Small multiples with the same axes everywhere, as SVG.

    ``kind`` and ``x_kind`` say what the axes are of: shares go from 0 to 1, counts from 0. A narrow figure has one
    column. The text alternative says where each line starts and ends.
    """
    width, columns = (NARROW_WIDTH, 1) if narrow else (WIDTH, COLUMNS)
    column = width / columns
    legend = _place_legend({line.words: line for panel in panels for line in panel.lines}, width)
    top = max((y for _, y, _ in legend), default=0.0) + 14
    rows = math.ceil(len(panels) / columns)
    canvas = Canvas(width=width, height=top + rows * PANEL_HEIGHT + 22, title=describe_panels(panels, title))
    for px, py, line in legend:
        dash: dict[str, Attribute] = {"stroke_dasharray": line.dash, **stroke_of(line.series)}
        canvas.add("line", x1=px, y1=py - 4, x2=px + 26, y2=py - 4, stroke_width=2.4, **dash)
        draw_mark(canvas, line.shape, (px + 13, py - 4), 4.2, line.series, stroke=PAPER, stroke_width=1.2)
        canvas.text(px + 33, py, line.words)
    x_range, y_range = _range(panels, 0, x_kind), _range(panels, 1, kind)
    for number, panel in enumerate(panels):
        left, above = column * (number % columns), top + PANEL_HEIGHT * (number // columns)
        x = Scale(*x_range, start=left + LEFT, end=left + column - RIGHT)
        y = Scale(*y_range, start=above + TOP + PLOT, end=above + TOP)
        head, note = cut_line(panel.title, TITLE_CHARACTERS), cut_line(panel.note, NOTE_CHARACTERS)
        canvas.text(left + 12, above + 16, head, size=13, font_weight="650", hover=panel.title)
        canvas.text(left + 12, above + 32, note, soft=True, size=11, hover=panel.note)
        for tick in x.ticks(4):
            canvas.rule(x(tick), y.start, x(tick), y.end)
            canvas.text(x(tick), y.start + 16, write_tick(tick), anchor="middle", soft=True, size=11)
        for tick in y.ticks(4):
            canvas.rule(x.start, y(tick), x.end, y(tick), strong=tick == 0)
            canvas.text(x.start - 6, y(tick) + 4, write_tick(tick), anchor="end", soft=True, size=11)
        for line in panel.lines:
            _draw_line(canvas, line, x, y)
    canvas.text(width / 2, canvas.height - 8, x_label, anchor="middle")
    return canvas.render()


def find_dose_axes(estimates: Sequence[Estimate]) -> list[str]:
    """Numeric axes that vary over the estimates: doses first, then others by name."""
    varying = varying_axes(estimates)
    numeric = (key for key, values in varying.items() if sum(type(value) in (int, float) for value in values) > 1)
    return sorted(numeric, key=lambda key: not any(word in key for word in DOSE_AXES))


def draw_dose(estimates: Sequence[Estimate], axis: str, colors: Mapping[Lineage, int]) -> str | None:
    """One quantity against a numeric axis, a curve for each subject, as SVG; None where no curve has two points.

    Curves have the colours of their lineages, and marks of their own.
    """
    curves = _curves(estimates, axis)
    if not curves:
        return None
    legend = 18 * len(curves)
    width, height = DOSE_WIDTH, 380 + legend
    canvas = Canvas(width=width, height=height, title=f"values against {axis}")
    everything = list(chain(*curves.values()))
    doses = [float(one.axes[axis]) for one in everything]
    x = Scale(*span(doses, pad=0.06), start=70, end=width - 24)
    y = Scale(*span_of(everything, reach=0.9), start=height - legend - 58, end=14)
    ticks = sorted(set(doses)) if axis in SET_AXES else None
    draw_axes(canvas, x, y, AXIS_WORDS.get(axis, axis.replace("_", " ")), name_kind(estimates[0].kind), x_ticks=ticks)
    for number, (name, curve) in enumerate(curves.items()):
        beside = BESIDE * (number - (len(curves) - 1) / 2) if axis in SET_AXES else 0.0
        series, shape = colors.get(curve[0].lineage or (), 0), SHAPES[number % len(SHAPES)]
        places = [(x(float(one.axes[axis])) + beside, y(one.value or 0.0)) for one in curve]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        canvas.add("path", d=path, fill="none", stroke_width=2, **stroke_of(series))
        for (px, py), one in zip(places, curve, strict=True):
            if isinstance(one.interval, tuple):
                low, high = (y(min(max(end, y.low), y.high)) for end in one.interval)
                canvas.add("line", x1=px, y1=low, x2=px, y2=high, stroke_width=1.4, opacity=0.7, **stroke_of(series))
            hover = f"{name_axes(one.axes)}: {format_number(one.value)} {format_interval(one)}\n{describe_basis(one)}"
            draw_mark(canvas, shape, (px, py), 5, series, hover=hover, stroke=PAPER, stroke_width=1.5)
        line = y.start + 64 + 18 * number
        draw_mark(canvas, shape, (x.start + 6, line - 4), 5, series)
        canvas.text(x.start + 18, line, name)
    return canvas.render()


def _curves(estimates: Sequence[Estimate], axis: str) -> dict[str, list[Estimate]]:
    """Estimates that have a value and a dose, by what they are about."""
    varying = {*DOSE_AXES, axis} if axis in DOSE_AXES else {axis}
    curves: dict[str, list[Estimate]] = {}
    known = [one for one in estimates if axis in one.axes and one.value is not None]
    for one in sorted(known, key=lambda one: float(one.axes[axis])):
        rest = {key: value for key, value in one.axes.items() if key not in varying}
        curves.setdefault(name_subject(replace(one, axes=rest, unit=None)), []).append(one)
    return {words: curve for words, curve in curves.items() if len(curve) > 1}
