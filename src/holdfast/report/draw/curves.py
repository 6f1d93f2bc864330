"""Small multiples as SVG text: lines along training or against each other, and gaps by model or setting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import Curve
from holdfast.records.quantities import Format, quantity_of
from holdfast.report.draw.svg import PAPER, Attribute, Canvas, Scale, draw_mark, span, stroke_of, write_tick
from holdfast.report.words.inert import cut_line, show_line
from holdfast.report.words.labels import format_number

Spot = tuple[float, float | None]  # None where nothing was measured: the line is broken there
MOST_POINTS = 60  # of a line; a longer one is drawn as means over windows of equal length
MOST_PANELS = 12  # of one figure
COLUMNS, WIDTH, NARROW_WIDTH = 3, 1000.0, 350.0
PANEL_HEIGHT, LEFT, RIGHT, TOP, PLOT = 206.0, 46.0, 16.0, 42.0, 128.0
LETTER, LEGEND_LINE, LEGEND_MARK = 6.6, 20.0, 40.0  # pixels
TITLE_CHARACTERS = 46
LABELS: Mapping[str | None, tuple[str, int, str | None, str]] = {
    "gameable": ("gameable user", 2, None, "circle"),
    "other": ("other user", 1, "6 3", "square"),
    None: ("all users", 3, None, "diamond"),
}


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
    for window in sorted(set().union(*read)) if read else []:
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
    single = [tuple(_windows(curve, width).values()) for curve in source]
    line = Line(
        words=words,
        series=series,
        mean=average_seeds(source, width),
        seeds=tuple(single) if len(single) > 1 else (),
        marks=average_seeds(held_out),
        dash=dash,
        shape=shape,
    )
    anything = _present(line.mean) or _present(line.marks) or any(_present(one) for one in line.seeds)
    return line if anything else None


def _path(spots: Sequence[Spot], x: Scale, y: Scale) -> str:
    """The path through the spots, broken where one is missing."""
    words, pen = [], "M"
    for px, py in spots:
        if py is None or not math.isfinite(py):
            pen = "M"
            continue
        words.append(f"{pen}{x(px):.1f} {y(py):.1f}")
        pen = "L"
    return "".join(words)


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
        ends = []
        for line in panel.lines:
            spots = _present(line.mean) or _present(line.marks)
            if spots:
                ends.append(f"{line.words} {format_number(spots[0][1])} to {format_number(spots[-1][1])}")
        named = f"{panel.title} ({panel.note})" if panel.note else panel.title
        told.append(f"{named}: {', '.join(ends) or 'nothing measured'}")
    return show_line(f"{title}. {'; '.join(told)}")


def _range(panels: Sequence[Panel], axis: int, kind: str) -> tuple[float, float]:
    """The range that all panels share, from all they draw; a share's is from 0 to 1."""
    if quantity_of(kind).format is Format.SHARE:
        return -0.02, 1.02
    spots = [spot for panel in panels for line in panel.lines for one in (line.mean, line.marks, *line.seeds)
             for spot in _present(one)]  # fmt: skip
    values = [spot[axis] for spot in spots]
    return span([*values, 0.0] if kind in ("kl", "length", "entropy", "gap", "steps") else values, pad=0.06)


def draw_panels(
    panels: Sequence[Panel], *, title: str, x_label: str, kind: str, x_kind: str = "steps", narrow: bool = False
) -> str:
    """Small multiples with the same axes everywhere, as SVG.

    ``kind`` and ``x_kind`` say what the axes are of: shares go from 0 to 1, counts from 0. A narrow figure has one
    column. The text alternative says where each line starts and ends.
    """
    width = NARROW_WIDTH if narrow else WIDTH
    columns = 1 if narrow else COLUMNS
    column = width / columns
    entries = {line.words: line for panel in panels for line in panel.lines}
    legend = _place_legend(entries, width)
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
        x = Scale(low=x_range[0], high=x_range[1], start=left + LEFT, end=left + column - RIGHT)
        y = Scale(low=y_range[0], high=y_range[1], start=above + TOP + PLOT, end=above + TOP)
        _draw_panel(canvas, panel, x, y, (left + 12, above))
    canvas.text(width / 2, canvas.height - 8, x_label, anchor="middle")
    return canvas.render()


def _draw_panel(canvas: Canvas, panel: Panel, x: Scale, y: Scale, corner: tuple[float, float]) -> None:
    left, above = corner
    canvas.text(left, above + 16, cut_line(panel.title, 40), size=13, font_weight="650", hover=panel.title)
    canvas.text(left, above + 32, cut_line(panel.note, TITLE_CHARACTERS), soft=True, size=11, hover=panel.note)
    for tick in x.ticks(4):
        canvas.rule(x(tick), y.start, x(tick), y.end)
        canvas.text(x(tick), y.start + 16, write_tick(tick), anchor="middle", soft=True, size=11)
    for tick in y.ticks(4):
        canvas.rule(x.start, y(tick), x.end, y(tick), strong=tick == 0)
        canvas.text(x.start - 6, y(tick) + 4, write_tick(tick), anchor="end", soft=True, size=11)
    for line in panel.lines:
        _draw_line(canvas, line, x, y)
