"""The plane of two objectives: points of lineages, and the lines through them."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Frontier
from holdfast.report.draw.figures import draw_frontier, pair_lines
from holdfast.report.draw.svg import SHAPES, Canvas, draw_mark
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.answer import find_answer
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import name_lineage
from holdfast.report.words.layout import Lineage, Section, Shown
from holdfast.report.words.tables import list_estimates

DASHES = ("solid", "dashed", "dotted", "dash-dotted")


def _legend(frontier: Frontier, colors: Mapping[Lineage, int]) -> str:
    lineages = sorted({point.lineage for point in frontier.points}, key=lambda one: colors.get(one, 0))
    items = [
        f'<li><i class="dot b{colors.get(lineage, 0) % 8}"></i>{escape_html(name_lineage(lineage))}</li>'
        for lineage in lineages
    ]
    if len(frontier.points) > len(lineages):
        for number, base in enumerate(dict.fromkeys(point.base for point in frontier.points if point.base)):
            canvas = Canvas(width=14, height=14, title=base)
            draw_mark(canvas, SHAPES[number % len(SHAPES)], (7, 7), 4.5, 0)
            items.append(f"<li>{canvas.render()}{escape_html(base)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _caption(frontier: Frontier) -> str:
    several = len(frontier.points) > len({point.lineage for point in frontier.points})
    words = f"Unit: {frontier.unit}. "
    words += "Large marks are means of a lineage, small ones its points" if several else "A mark is a lineage"
    if any(point.covariance for point in frontier.points):
        words += "; ellipses are 95 % regions"
        words += f" ({' and '.join(frontier.resampled)} are random)" if frontier.resampled else ""
    words += "; arrows go from the base through the stages."
    lines = "; ".join(f"{DASHES[place % 4]}: {label}" for place, (label, _, _) in enumerate(pair_lines(frontier)))
    return f"{words} Lines — {lines}." if lines else f"{words} No line is identified."


def frontier_section(shown: Shown) -> Section | None:
    """The plane of two objectives: lineages, arrows, ellipses, lines, and the numbers that belong to them."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.frontiers and not analysis.frontier:
        return None
    section = Section(identity="frontier", title="The trade between objectives", short="Frontier")
    ends = [f"{one.objective} after {name_lineage(one.lineage)} {one.verdict}" for one in find_answer(analysis)]
    told = f"From the base: {'; '.join(ends[:4])}." if ends else ""
    for number, frontier in enumerate(analysis.frontiers):
        bases = {point.base for point in frontier.points}
        base = f", {bases.pop()}" if len(bases) == 1 and None not in bases else ""
        title = f"{frontier.y_objective} against {frontier.x_objective}, {frontier.unit}{base}"
        if number == 0:
            section.parts.append(_legend(frontier, colors))
        section.figure(
            f"frontier-{number + 1}" if number else "frontier",
            (f"{title[:1].upper()}{title[1:]}.", told, _caption(frontier)),
            draw_frontier(frontier, colors),
            fold_as=title if number else "",
        )
    if analysis.frontier:
        table = list_estimates(analysis.frontier, "Lines, fits and tests of the frontier", colors)
        section.table("frontier", table, fold_as="Lines, fits and tests")
        section.say(describe_chance(analysis, "frontier"))
    return section
