"""Mean scores, their changes from the base and the plane of two objectives: figures, tables, and a terminal's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.records import Estimate, Frontier
from holdfast.records.checkpoints import rank_dose
from holdfast.records.words import count_noun
from holdfast.report.draw.figures import draw_frontier, pair_lines
from holdfast.report.draw.svg import SHAPES, Canvas, draw_mark
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.answer import find_answer
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import escape_html, show_line, wrap_line
from holdfast.report.words.labels import (
    Lineage,
    drop_judge,
    find_controls,
    main_rows,
    name_headline,
    name_lineage,
    order_controls,
    pick_claim,
    prefer_pooled,
)
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import list_estimates, pivot

DASHES = ("solid", "dashed", "dotted", "dash-dotted")
CLAIMS = (
    "A checkpoint claim speaks of these weights: cases are random. A recipe claim speaks of this kind of training:"
    " seeds are random too. A number opens to its interval, counts and caveats."
)


def _legend(frontier: Frontier, colors: Mapping[Lineage, int]) -> str:
    numbers = sorted((colors.get(one, 0), one) for one in {point.lineage for point in frontier.points})
    items = [f'<li><i class="dot b{number % 8}"></i>{escape_html(name_lineage(one))}</li>' for number, one in numbers]
    if len(frontier.points) > len(numbers):
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


def fill_frontier(section: Section, shown: Shown) -> None:
    """The plane of two objectives: lineages, arrows, ellipses, lines, and the numbers that belong to them."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.frontiers and not analysis.frontier:
        return
    ends = [f"{one.objective} after {name_lineage(one.lineage)} {one.verdict}" for one in find_answer(analysis)]
    told = f"From the base: {'; '.join(ends[:4])}." if ends else ""
    for number, frontier in enumerate(analysis.frontiers):
        bases = {point.base for point in frontier.points}
        base = f", {bases.pop()}" if len(bases) == 1 and None not in bases else ""
        title = f"{frontier.y_objective} against {frontier.x_objective}, {frontier.unit}{base}"
        if number == 0:
            section.parts.append(_legend(frontier, colors))
        name, fold_as = (f"frontier-{number + 1}", title) if number else ("frontier", "")
        words = f"{title[:1].upper()}{title[1:]}.", told, _caption(frontier)
        section.figure(name, words, draw_frontier(frontier, colors), fold_as=fold_as)
    if analysis.frontier:
        table = list_estimates(analysis.frontier, "Lines, fits and tests of the frontier", colors)
        section.table("frontier", table, fold_as="Lines, fits and tests")
        section.say(describe_chance(analysis, "frontier"))


def fill_results(section: Section, shown: Shown) -> None:
    """Means with intervals per base × lineage × axes, and the changes from the base."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.scores:
        return
    section.say(CLAIMS)
    means = [one for one in analysis.scores if one.kind == "mean"]
    section.table("results", pivot(means, "Mean scores (0–3) with the half-width of the 95 % interval", colors))
    if others := [one for one in analysis.scores if one.kind != "mean"]:
        section.table("spread", pivot(others, "Spread of scores", colors), fold_as="Spread")
    if analysis.deltas:
        table = pivot(analysis.deltas, "Change from the base, in score points", colors)
        section.table("deltas", table, fold_as="Change from the base")
        section.say(describe_chance(analysis, "deltas"))


def scores_text(shown: Shown, width: int, most: int | None = None) -> str | None:
    """The means of the headline's judges; of more than ``most`` rows those of main lineages at their least dose.

    None where nothing is judged.
    """
    analysis, colors = shown.analysis, shown.colors
    scores = prefer_pooled(main_rows(one for one in analysis.scores if one.kind == "mean"))
    if not scores:
        return None
    apart = find_controls(analysis) & {one.lineage for one in scores if one.lineage is not None}
    scores, whose = order_controls(drop_judge(scores), apart), name_headline(analysis.judges)
    lines = [f"Scores {show_line(whose)}"] if whose else []
    table = pivot(scores, "Results", colors)
    if most is not None and len(table.rows) > most:
        main = [one for one in scores if one.lineage not in apart]
        short = pivot(main, table.title, colors)
        if len(short.rows) > most:
            least = {
                one.lineage: _dose(one) for one in sorted(main, key=lambda one: rank_dose(_dose(one)), reverse=True)
            }
            short = pivot([one for one in main if _dose(one) == least[one.lineage]], table.title, colors)
        short = replace(short, rows=short.rows[:most])
        lines += [table_text(short, width), f"  … {count_noun(len(table.rows) - len(short.rows), 'more rows')}"]
        return "\n".join(lines)
    lines.append(table_text(table, width))
    if apart:
        names = ", ".join(map(name_lineage, sorted(apart, key=lambda one: colors.get(one, 0))))
        words = f"last rows: controls ({names}): the same stage again, or pairs with sides swapped at random"
        lines += wrap_line(words, width, rest="  ")
    return "\n".join(lines)


def _dose(estimate: Estimate) -> float:
    return float(estimate.axes.get("dose", 1))


def results_text(shown: Shown, width: int) -> str | None:
    """The means of the headline's judges, then those of the others; None where nothing is judged."""
    blocks = [scores_text(shown, width)]
    beside = [one for one in shown.analysis.scores if one.beside and one.base is None and one.estimator == "pooled"]
    if means := pick_claim(one for one in beside if one.kind == "mean"):
        table = pivot(means, "Other judges", shown.colors)
        blocks.append(f"Other judges, in no mean with these\n{table_text(table, width)}")
    return "\n\n".join(filter(None, blocks)) or None
