"""The plane of two objectives: points of lineages, and the lines through them."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Analysis, Frontier
from holdfast.report.draw.figures import draw_frontier, pair_lines
from holdfast.report.draw.svg import SHAPES, Canvas, draw_mark
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import (
    name_lineage,
)
from holdfast.report.words.layout import Section, fold, make_section, wrap_figure
from holdfast.report.words.tables import (
    list_estimates,
    table_html,
)

Lineage = tuple[str, ...]


def _legend(frontier: Frontier, colors: Mapping[Lineage, int]) -> str:
    lineages = sorted({point.lineage for point in frontier.points}, key=lambda one: colors.get(one, 0))
    items = [
        f'<li><i class="dot b{colors.get(lineage, 0) % 8}"></i>{escape_html(name_lineage(lineage))}</li>'
        for lineage in lineages
    ]
    bases = list(dict.fromkeys(point.base for point in frontier.points if point.base))
    if len(frontier.points) > len(lineages):
        for number, base in enumerate(bases):
            canvas = Canvas(width=14, height=14, title=base)
            draw_mark(canvas, SHAPES[number % len(SHAPES)], (7, 7), 4.5, 0)
            items.append(f"<li>{canvas.render()}{escape_html(base)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _frontier_figure(frontier: Frontier, name: str, colors: Mapping[Lineage, int]) -> tuple[str, str]:
    svg = draw_frontier(frontier, colors)
    several = len(frontier.points) > len({point.lineage for point in frontier.points})
    marks = "Large marks are means of a lineage, small ones its points" if several else "A mark is a lineage"
    dashes = ("solid", "dashed", "dotted", "dash-dotted")
    lines = "; ".join(f"{dashes[i % 4]}: {words}" for i, (words, _, _) in enumerate(pair_lines(frontier)))
    regions = "; ellipses are 95 % regions" if any(point.covariance for point in frontier.points) else ""
    regions += f" ({' and '.join(frontier.resampled)} are random)" if regions and frontier.resampled else ""
    caption = f"Unit: {frontier.unit}. {marks}{regions}; arrows go from base through the stages."
    caption += f" Lines — {lines}." if lines else " No line is identified."
    return _legend(frontier, colors) + wrap_figure(svg, name, caption), svg


def frontier_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """The plane of two objectives: lineages, arrows, ellipses, lines, and the numbers that belong to them."""
    if not analysis.frontiers and not analysis.frontier:
        return None
    parts, figures, tables = [], {}, {}
    for number, frontier in enumerate(analysis.frontiers):
        name = "frontier" if number == 0 else f"frontier-{number + 1}"
        html, figures[name] = _frontier_figure(frontier, name, colors)
        bases = {point.base for point in frontier.points}
        base = f", {bases.pop()}" if len(bases) == 1 and None not in bases else ""
        against = f"{frontier.y_objective} against {frontier.x_objective}, {frontier.unit}{base}"
        parts.append(html if number == 0 else fold(against, html))
    if analysis.frontier:
        tables["frontier"] = list_estimates(analysis.frontier, "Lines, fits and tests of the frontier", colors)
        parts.append(fold("Lines, fits and tests", table_html(tables["frontier"], identity="frontier-table")))
        parts.append(chance_paragraph(analysis, "frontier"))
    return make_section("frontier", "Frontier", parts, figures, tables)
