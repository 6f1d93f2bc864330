"""Estimates as rows of one plot, as SVG: words, marks with intervals and numbers; the audit's rates as bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from holdfast.records import Estimate, Unbounded
from holdfast.records.quantities import NOT_IDENTIFIED
from holdfast.report.draw.svg import (
    LETTER,
    NARROW_WIDTH,
    PAPER,
    WIDTH,
    Attribute,
    Canvas,
    Scale,
    color_of,
    draw_mark,
    span,
    stroke_of,
    write_tick,
)
from holdfast.report.words.inert import cut_line, show_line
from holdfast.report.words.labels import (
    UNBOUNDED,
    Lineage,
    describe_basis,
    format_interval,
    format_percent,
    format_value,
    is_against_base,
    name_axes,
    name_kind,
    name_lineage,
    name_subject,
)

ROW, NARROW_ROW, TOP = 30.0, 58.0, 14.0  # pixels
NARROW_SIDE = 24.0  # pixels left and right of the plot
WORDS, NARROW_WORDS = 52, 56  # characters of a row's words
PERSISTENCE, RATIO_RANGE = "persistence", (-0.5, 1.5)  # the share that is drawn between 0 and 1, and its range
AUDIT_COLUMNS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An estimate's mark and interval: colour, shape, and by how many pixels it stands above or below its row."""

    estimate: Estimate
    series: int = 1
    shape: str = "circle"
    lift: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: what it is about, a second word in grey, its marks, the numbers as text, and a rule above it."""

    words: str
    note: str = ""
    marks: tuple[Mark, ...] = ()
    numbers: str
    ruled: bool = False


def draw_rows(
    rows: Sequence[Row],
    scale: tuple[float, float],
    *,
    title: str,
    label: str,
    narrow: bool,
    ruled_at: Sequence[float] = (0.0,),
    shares: bool = False,
) -> str:
    """The rows as SVG on a scale from low to high; a narrow plot has its words above and its numbers below the bars.

    An interval that leaves the plot ends in an arrow head, one without an end is dashed across the plot, and a row
    without a mark says that it is not identified. ``title`` is the text alternative, ``label`` stands under the axis,
    ``ruled_at`` are the values that have a strong line; ``shares`` are written in per cent.
    """
    height, width = (NARROW_ROW, NARROW_WIDTH) if narrow else (ROW, WIDTH)
    bottom = TOP + height * len(rows)
    canvas = Canvas(width=width, height=bottom + 50, title=show_line(title))
    beside = 30 + LETTER * max((len(row.numbers) for row in rows), default=0)
    side = 40 + LETTER * max((min(len(row.words), WORDS) + len(row.note) for row in rows), default=0)
    start, end = (NARROW_SIDE, width - NARROW_SIDE) if narrow else (max(150.0, side), width - max(150.0, beside))
    x = Scale(low=scale[0], high=scale[1], start=start, end=end)
    for tick in x.ticks(5):
        strong = tick in ruled_at
        canvas.rule(x(tick), TOP - 6, x(tick), bottom, strong=strong, dash="3 3" if strong and tick else None)
        words = format_percent(tick) if shares else write_tick(tick)
        canvas.text(x(tick), bottom + 16, words, anchor="middle", soft=True)
    canvas.text((x.start + x.end) / 2, bottom + 38, label, anchor="middle")
    for number, row in enumerate(rows):
        above = TOP + height * number
        if row.ruled:
            canvas.rule(8, above, width - 8, above)
        _draw_row(canvas, row, x, above + height / 2, narrow=narrow)
    return canvas.render()


def _draw_row(canvas: Canvas, row: Row, x: Scale, y: float, *, narrow: bool) -> None:
    whole = " · ".join(filter(None, (row.words, row.note))) if narrow else row.words
    words = cut_line(whole, NARROW_WORDS if narrow else WORDS)
    full = whole if words.endswith("…") else None
    if narrow:
        canvas.text(10, y - 14, words, size=11, hover=full)
        canvas.text(x.end, y + 18, row.numbers, anchor="end", soft=True, size=11)
    else:
        canvas.text(10, y + 4, words, hover=full)
        canvas.text(x.start - 12, y + 4, row.note, anchor="end", soft=True, size=11)
        canvas.text(x.end + 14, y + 4, row.numbers)
    known = [mark for mark in row.marks if mark.estimate.value is not None]
    if not known:
        middle = (x.start + x.end) / 2
        canvas.text(middle, y + 4, NOT_IDENTIFIED, anchor="middle", soft=True, font_style="italic")
    for mark in known:
        _draw_interval(canvas, mark, x, y + mark.lift)
        place = min(max(mark.estimate.value or 0.0, x.low), x.high)
        look: dict[str, Attribute] = {"hover": describe_basis(mark.estimate), "stroke": PAPER, "stroke_width": 1.5}
        draw_mark(canvas, mark.shape, (x(place), y + mark.lift), 5, mark.series, **look)


def _draw_interval(canvas: Canvas, mark: Mark, x: Scale, y: float) -> None:
    """An interval with arrow heads where it leaves the plot; dashed across everything where it is unbounded."""
    interval = mark.estimate.interval
    if interval is None:
        return
    ends, dash = ((-math.inf, math.inf), "2 5") if isinstance(interval, Unbounded) else (interval, None)
    look: dict[str, Attribute] = {**stroke_of(mark.series), "stroke_width": 2.2}
    low, high = (x(min(max(end, x.low), x.high)) for end in ends)
    canvas.add("line", x1=low, y1=y, x2=high, y2=y, stroke_dasharray=dash, **look)
    for end, edge, sign in ((ends[0], x.start, 1), (ends[1], x.end, -1)):
        if x.low <= end <= x.high:
            canvas.add("line", x1=x(end), y1=y - 4, x2=x(end), y2=y + 4, **look)
        else:
            path = f"M{edge + 6 * sign:.1f} {y - 4:.1f}L{edge:.1f} {y:.1f}L{edge + 6 * sign:.1f} {y + 4:.1f}"
            canvas.add("path", d=path, fill="none", **look)


def span_of(estimates: Iterable[Estimate], reach: float = 0.6) -> tuple[float, float]:
    """A range that holds zero and every value, and of the intervals what makes it at most ``reach`` wider at an end."""
    listed = list(estimates)
    values = [0.0, *(one.value for one in listed if one.value is not None and math.isfinite(one.value))]
    low, high = min(values), max(values)
    room = max(high - low, 0.4) * reach  # values close together would else cut every interval
    ends = [end for one in listed if isinstance(one.interval, tuple) for end in one.interval]
    return span([*values, *(min(max(end, low - room), high + room) for end in ends if math.isfinite(end))], pad=0.05)


def draw_forest(estimates: Sequence[Estimate], narrow: bool = False) -> str:
    """Estimates of one kind as a forest plot, a row each: circles are checkpoint claims, squares recipe claims."""
    kind = estimates[0].kind
    ratio = kind == PERSISTENCE
    scale = span_of(estimates)
    if ratio:  # wider than its usual range only where a value lies outside
        values = [one.value for one in estimates if one.value is not None and math.isfinite(one.value)]
        low, high = RATIO_RANGE
        scale = min([low, *(value - 0.05 for value in values)]), max([high, *(value + 0.05 for value in values)])
    rows = []
    for number, estimate in enumerate(estimates):
        interval = format_interval(estimate)
        numbers = f"{format_value(estimate)} {f'({UNBOUNDED})' if interval == UNBOUNDED else interval}".strip()
        series, shape = (2, "square") if estimate.claim == "recipe" else (1, "circle")
        rows.append(
            Row(
                words=name_subject(estimate),
                note=f"{estimate.estimator.replace('_', ' ')} · {estimate.claim}",
                marks=(Mark(estimate=estimate, series=series, shape=shape),),
                numbers="–" if estimate.value is None else numbers,
                ruled=number > 0 and estimate.objective != estimates[number - 1].objective,
            )
        )
    title, label = f"{name_kind(kind)} with 95 % intervals", f"{name_kind(kind)} (score points)"
    if ratio and estimates and all(map(is_against_base, estimates)):
        label = "" if narrow else "share that is left of the first stage's gain over the base; "
        label += "0 like the base, 1 like the first stage"
    elif ratio:
        label = "" if narrow else "share of the gap between the two single stages; "
        label += "0 like the second stage alone, 1 like the first"
    ruled_at = (0.0, 1.0) if ratio else (0.0,)
    return draw_rows(rows, scale, title=title, label=label, narrow=narrow, ruled_at=ruled_at)


def frequent_kinds(rates: Iterable[Estimate], most: int) -> list[str]:
    """The findings with the highest rates, those that a reader must know first before others."""
    peaks: dict[str, float] = {}
    for one in rates:
        peaks[one.kind] = max(peaks.get(one.kind, 0.0), one.value or 0.0)
    first = ("unfit", "no_call_and_invented")
    kinds = [kind for kind, peak in peaks.items() if peak > 0]
    return sorted(kinds, key=lambda kind: (first.index(kind) if kind in first else 2, -peaks[kind]))[:most]


def draw_audit(rates: Sequence[Estimate], colors: Mapping[Lineage, int]) -> str | None:
    """Rates of the audit's findings as bars, lineages down and findings across; None where nothing was found.

    Only the most frequent findings have a column; a missing bar is a rate that is not known.
    """
    kinds = frequent_kinds(rates, AUDIT_COLUMNS)
    if not kinds:
        return None
    rows: dict[tuple[Lineage, str], dict[str, Estimate]] = {}
    for one in rates:
        if one.value is not None:
            words = " · ".join(filter(None, (name_lineage(one.lineage), name_axes(one.axes))))
            rows.setdefault((one.lineage or (), words), {})[one.kind] = one
    row, top, left, width = 24, 44, 150, 900.0
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
                x, room = left + position * column, column - 52
                share = min(max(found[kind].value or 0.0, 0.0), 1.0)
                hover = f"{name_kind(kind)}: {format_percent(share, 1)}\n{describe_basis(found[kind])}"
                canvas.add("rect", x=x, y=y + 4.0, width=room, height=15, rx=2, fill="#eef0f4", cls="track")
                bar = {"width": max(1.0, share * room), "height": 15, "rx": 2, **color_of(colors.get(lineage, 0))}
                canvas.add("rect", x=x, y=y + 4.0, hover=hover, **bar)
                canvas.text(x + room + 5, y + 16.0, format_percent(share, 0 if share >= 0.1 else 1), size=11)
    return canvas.render()
