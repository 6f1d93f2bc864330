"""A watch as a chart and as a page that opens from disk: no script, nothing fetched, every word escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.decisions.watch.render import column_heads, describe_watch, make_document, row_cells, state_finding
from holdfast.decisions.watch.series import Watch
from holdfast.records.outputs import to_json, write_file
from holdfast.report.draw.svg import PAPER, Canvas, Scale, draw_axes, draw_mark, span, stroke_of
from holdfast.report.page.page import bare_page
from holdfast.report.words.inert import escape_html, show_line
from holdfast.report.words.labels import format_number
from holdfast.report.words.layout import paragraph

PAGE, CHART, DOCUMENT = "watch.html", "watch.svg", "watch.json"
CALM, ALARMED, BLAMED = 1, 5, 6  # colours: silent, alarm, alarm that is the judge's
SHORT = 14  # characters of a look's name under the axis
MOST_TICKS = 12


def draw_watch(watch: Watch) -> str | None:
    """The change at each look with its bounds, the margin and zero as SVG; None where no look has a change."""
    rows = [(number, row) for number, row in enumerate(watch.rows, 1) if row.change is not None]
    if not rows:
        return None
    width, height = 860.0, 380.0
    canvas = Canvas(width=width, height=height, title=f"change of {watch.objective} at each look")
    x = Scale(low=0.5, high=len(watch.rows) + 0.5, start=70, end=width - 24)
    seen = [value for _, row in rows for value in (row.change, row.lower, row.upper) if value is not None]
    low, high = span([*seen, 0.0, -watch.margin], pad=0.06)
    y = Scale(low=low, high=high, start=height - 62, end=14)
    draw_axes(canvas, x, y, "look", f"change of {watch.objective}, points", x_ticks=())
    every = -(-len(watch.rows) // MOST_TICKS)
    for number, row in list(enumerate(watch.rows, 1))[::every]:
        name = show_line(row.label)
        name = name if len(name) <= SHORT else f"…{name[1 - SHORT :]}"
        canvas.text(x(number), y.start + 18, name, anchor="middle", soft=True)
    canvas.rule(x.start, y(0.0), x.end, y(0.0), strong=True)
    canvas.rule(x.start, y(-watch.margin), x.end, y(-watch.margin), strong=True, dash="5 4")
    canvas.text(x.end - 4, y(-watch.margin) - 5, "margin", anchor="end", soft=True)
    path = "M" + "L".join(f"{x(number):.1f} {y(row.change or 0.0):.1f}" for number, row in rows)
    canvas.add("path", d=path, fill="none", stroke_width=1.5, opacity=0.6, **stroke_of(CALM))
    for number, row in rows:
        px, series = x(number), CALM if not row.alarm else ALARMED if row.attributable else BLAMED
        if row.lower is not None and row.upper is not None:
            canvas.add("line", x1=px, y1=y(row.lower), x2=px, y2=y(row.upper), stroke_width=1.6, **stroke_of(series))
        change, lower, upper = (format_number(value) for value in (row.change, row.lower, row.upper))
        hover = f"{show_line(row.label)}: {change} [{lower}, {upper}], {state_finding(row)}"
        shape = "down" if row.alarm else "circle"
        draw_mark(canvas, shape, (px, y(row.change or 0.0)), 5, series, hover=hover, stroke=PAPER, stroke_width=1.5)
    return canvas.render()


def render_section(watch: Watch) -> str:
    """The watch as a section of a page: sentences, chart, table."""
    chart = draw_watch(watch)
    sentences = describe_watch(watch)
    alert = sentences[1] if watch.rows and (watch.alarm or watch.drifted) else None
    parts = ['<section id="watch"><h2>Watch</h2>']
    parts += [] if alert is None else [f'<p class="alert" role="note">{escape_html(alert)}</p>']
    parts += [paragraph(words) for words in sentences if words != alert]
    if chart is not None:
        caption = (
            f"Change of {watch.objective} against {watch.baseline} at each look, with bounds that hold for all looks"
            " together. Triangles: an alarm, which may come from a window of several looks."
        )
        parts.append(
            f'<figure><div class="plot scroll">{chart}</div><figcaption>{escape_html(caption)}</figcaption></figure>'
        )
    if watch.rows:
        body = "".join(f"<tr>{_cells(row_cells(row), 'td')}</tr>" for row in watch.rows)
        parts.append(
            f'<div class="scroll"><table><caption>looks</caption><thead><tr>{_cells(column_heads(watch), "th")}</tr>'
            f"</thead><tbody>{body}</tbody></table></div>"
        )
    return "".join([*parts, "</section>"])


def _cells(texts: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{escape_html(text)}</{tag}>" for text in texts)


def render_page(watch: Watch) -> str:
    """A page of the section alone."""
    title = f"Watch: {watch.objective} against {watch.baseline}"
    head = f'<header><div class="wide"><p class="mark">holdfast</p><h1>{escape_html(title)}</h1></div></header>'
    return bare_page(title, f'{head}<main class="wide">{render_section(watch)}</main>')


def write_watch(watch: Watch, declared: Mapping[str, Any], folder: Path) -> None:
    """Write page, JSON and the chart that there may be into ``folder``, each replaced whole. Errors: StudyError."""
    write_file(folder / PAGE, render_page(watch))
    write_file(folder / DOCUMENT, to_json(make_document(watch, declared)) + "\n")
    if (chart := draw_watch(watch)) is not None:
        write_file(folder / CHART, chart)
