"""Charts as SVG text: dose curves and the audit's rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap

from holdfast.records import Estimate
from holdfast.report.draw.rows import span_of
from holdfast.report.draw.svg import PAPER, SHAPES, Canvas, Scale, color_of, draw_axes, draw_mark, span, stroke_of
from holdfast.report.words.labels import (
    describe_basis,
    format_interval,
    format_number,
    format_percent,
    name_axes,
    name_kind,
    name_lineage,
    name_subject,
    varying_axes,
)

Lineage = tuple[str, ...]
DOSE_AXES = ("dose", "steps", "kl_parent", "kl_base")
AXIS_WORDS = {
    "dose": "dose of the last stage (multiples of the first dose)",
    "steps": "optimiser steps of the last stage",
    "kl_parent": "KL to the checkpoint that the stage started from, nats an episode",
    "kl_base": "KL to the base, nats an episode",
}
SET_AXES = ("dose", "steps")  # chosen by the study, so that curves share their values
BESIDE = 7.0  # pixels between marks of different curves at one dose
AUDIT_COLUMNS = 6


def find_dose_axes(estimates: Sequence[Estimate]) -> list[str]:
    """Numeric axes that vary over the estimates: doses first, then others by name."""
    found = [
        key
        for key, seen in varying_axes(estimates).items()
        if sum(isinstance(value, int | float) and not isinstance(value, bool) for value in seen) > 1
    ]
    return sorted(found, key=lambda key: (not any(word in key for word in DOSE_AXES), found.index(key)))


def draw_dose(
    estimates: Sequence[Estimate], axis: str, colors: Mapping[Lineage, int], *, width: float = 860
) -> str | None:
    """One quantity against a numeric axis, a curve for each subject, as SVG; None where no curve has two points.

    Curves have the colours of their lineages, and marks of their own.
    """
    curves = _curves(estimates, axis)
    if not curves:
        return None
    legend = 18 * len(curves)
    height = 380 + legend
    canvas = Canvas(width=width, height=height, title=f"values against {axis}")
    everything = [one for curve in curves.values() for one in curve]
    doses = [float(one.axes[axis]) for one in everything]
    low, high = span(doses, pad=0.06)
    x = Scale(low=low, high=high, start=70, end=width - 24)
    low, high = span_of(everything, reach=0.9)
    y = Scale(low=low, high=high, start=height - legend - 58, end=14)
    ticks = sorted(set(doses)) if axis in SET_AXES else None
    draw_axes(canvas, x, y, AXIS_WORDS.get(axis, axis.replace("_", " ")), name_kind(estimates[0].kind), x_ticks=ticks)
    for number, (name, curve) in enumerate(curves.items()):
        beside = BESIDE * (number - (len(curves) - 1) / 2) if axis in SET_AXES else 0.0
        moved = replace(x, start=x.start + beside, end=x.end + beside)
        series, shape = colors.get(curve[0].lineage or (), 0), SHAPES[number % len(SHAPES)]
        _draw_curve(canvas, curve, axis, (moved, y), (series, shape))
        line = y.start + 64 + 18 * number
        draw_mark(canvas, shape, (x.start + 6, line - 4), 5, series)
        canvas.text(x.start + 18, line, name)
    return canvas.render()


def _curves(estimates: Sequence[Estimate], axis: str) -> dict[str, list[Estimate]]:
    """Estimates that have a value and a dose, by what they are about."""
    varying = {*DOSE_AXES, axis} if axis in DOSE_AXES else {axis}
    curves: dict[str, list[Estimate]] = {}
    for one in sorted((one for one in estimates if axis in one.axes), key=lambda one: float(one.axes[axis])):
        if one.value is not None:
            rest = {key: value for key, value in one.axes.items() if key not in varying}
            curves.setdefault(name_subject(replace(one, axes=rest, unit=None)), []).append(one)
    return {words: curve for words, curve in curves.items() if len(curve) > 1}


def _draw_curve(
    canvas: Canvas, curve: Sequence[Estimate], axis: str, scales: tuple[Scale, Scale], look: tuple[int, str]
) -> None:
    (x, y), (series, shape) = scales, look
    places = [(x(float(one.axes[axis])), y(one.value or 0.0)) for one in curve]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    canvas.add("path", d=path, fill="none", stroke_width=2, **stroke_of(series))
    for (px, py), one in zip(places, curve, strict=True):
        if isinstance(one.interval, tuple):
            low, high = (y(min(max(end, y.low), y.high)) for end in one.interval)
            canvas.add("line", x1=px, y1=low, x2=px, y2=high, stroke_width=1.4, opacity=0.7, **stroke_of(series))
        hover = f"{name_axes(one.axes)}: {format_number(one.value)} {format_interval(one)}\n{describe_basis(one)}"
        draw_mark(canvas, shape, (px, py), 5, series, hover=hover, stroke=PAPER, stroke_width=1.5)


def frequent_kinds(rates: Iterable[Estimate], most: int) -> list[str]:
    """The findings with the highest rates, those that a reader must know first before others."""
    peaks: dict[str, float] = {}
    for one in rates:
        peaks[one.kind] = max(peaks.get(one.kind, 0.0), one.value or 0.0)
    first = ("unfit", "no_call_and_invented")
    kinds = [kind for kind, peak in peaks.items() if peak > 0]
    return sorted(kinds, key=lambda kind: (first.index(kind) if kind in first else 2, -peaks[kind]))[:most]


def draw_audit(rates: Sequence[Estimate], colors: Mapping[Lineage, int], *, width: float = 900) -> str | None:
    """Rates of the audit's findings as bars, lineages down and findings across; None where nothing was found.

    Only the most frequent findings have a column; a missing bar is a rate that is not known.
    """
    kinds = frequent_kinds(rates, AUDIT_COLUMNS)
    if not kinds:
        return None
    rows: dict[tuple[Lineage, str], dict[str, Estimate]] = {}
    for one in rates:
        if one.value is not None:
            words = " · ".join(part for part in (name_lineage(one.lineage), name_axes(one.axes)) if part)
            rows.setdefault((one.lineage or (), words), {})[one.kind] = one
    row, top, left = 24, 44, 150
    column = (width - left - 10) / len(kinds)
    canvas = Canvas(width=width, height=top + row * len(rows) + 12, title="rates of the audit's findings by lineage")
    for position, kind in enumerate(kinds):
        for line, words in enumerate(wrap(name_kind(kind), int(column / 6.4), max_lines=2, placeholder="…")):
            canvas.text(left + position * column, 14 + 13 * line, words, size=11, soft=True)
    for number, ((lineage, words), found) in enumerate(rows.items()):
        y = top + row * number
        canvas.text(left - 12, y + 16, words, anchor="end")
        for position, kind in enumerate(kinds):
            if kind in found:
                corner = (left + position * column, y + 4.0)
                _draw_bar(canvas, found[kind], corner, column - 52, colors.get(lineage, 0))
    return canvas.render()


def _draw_bar(canvas: Canvas, rate: Estimate, corner: tuple[float, float], room: float, series: int) -> None:
    x, y = corner
    value = min(max(rate.value or 0.0, 0.0), 1.0)
    hover = f"{name_kind(rate.kind)}: {format_percent(value, 1)}\n{describe_basis(rate)}"
    canvas.add("rect", x=x, y=y, width=room, height=15, rx=2, fill="#eef0f4", cls="track")
    canvas.add("rect", x=x, y=y, width=max(1.0, value * room), height=15, rx=2, hover=hover, **color_of(series))
    canvas.text(x + room + 5, y + 12, format_percent(value, 0 if value >= 0.1 else 1), size=11)
