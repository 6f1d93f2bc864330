"""Mean scores and their changes from the base: the page's tables, and the tables of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Checkpoint, Estimate
from holdfast.records.words import count_noun
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import show_line, wrap_line
from holdfast.report.words.labels import (
    drop_judge,
    find_controls,
    main_rows,
    name_headline,
    name_lineage,
    names_html,
    order_controls,
    pick_claim,
    prefer_pooled,
)
from holdfast.report.words.layout import Section, fold, make_section, paragraph
from holdfast.report.words.tables import (
    pivot,
    table_html,
)

Lineage = tuple[str, ...]


def results_section(
    analysis: Analysis, colors: Mapping[Lineage, int], checkpoints: Sequence[Checkpoint] = ()
) -> Section | None:
    """Means with intervals per base × lineage × axes, and the changes from the base."""
    if not analysis.scores:
        return None
    means = [one for one in analysis.scores if one.kind == "mean"]
    others = [one for one in analysis.scores if one.kind != "mean"]
    table = pivot(means, "Mean scores (0–3) with the half-width of the 95 % interval", colors)
    parts = [
        names_html(checkpoints),
        paragraph(
            "A checkpoint claim speaks of these weights: cases are random. A recipe claim speaks of this kind of"
            " training: seeds are random too. Point at a number for its interval, counts and caveats."
        ),
        table_html(table, identity="results-table"),
    ]
    tables = {"results": table}
    if others:
        tables["spread"] = pivot(others, "Spread of scores", colors)
        parts.append(fold("Spread", table_html(tables["spread"], identity="spread-table")))
    if analysis.deltas:
        tables["deltas"] = pivot(analysis.deltas, "Change from the base, in score points", colors)
        parts.append(fold("Change from the base", table_html(tables["deltas"], identity="deltas-table")))
        parts.append(chance_paragraph(analysis, "deltas"))
    return make_section("results", "Results", parts, tables=tables)


def scores_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int, most: int | None = None) -> str | None:
    """The means of the headline's judges; of more than ``most`` rows those of main lineages at their least dose.

    None where nothing is judged.
    """
    scores = main_rows(one for one in analysis.scores if one.kind == "mean")
    scores = prefer_pooled(scores)
    if not scores:
        return None
    apart = find_controls(analysis) & {one.lineage for one in scores if one.lineage is not None}
    scores, whose = order_controls(drop_judge(scores), apart), name_headline(analysis.judges)
    lines = [f"Scores {show_line(whose)}"] if whose else []
    table = pivot(scores, "Results", colors)
    if most is not None and len(table.rows) > most:
        main = [one for one in scores if one.lineage not in apart]
        shown = pivot(main, table.title, colors)
        if len(shown.rows) > most:
            least = {one.lineage: _dose(one) for one in sorted(main, key=_dose, reverse=True)}
            shown = pivot([one for one in main if _dose(one) == least[one.lineage]], table.title, colors)
        shown = replace(shown, rows=shown.rows[:most])
        lines += [table_text(shown, width), f"  … {count_noun(len(table.rows) - len(shown.rows), 'more rows')}"]
        return "\n".join(lines)
    lines.append(table_text(table, width))
    if apart:
        names = ", ".join(name_lineage(one) for one in sorted(apart, key=lambda one: colors.get(one, 0)))
        words = f"last rows: controls ({names}): the same stage again, or pairs with sides swapped at random"
        lines += wrap_line(words, width, rest="  ")
    return "\n".join(lines)


def _dose(estimate: Estimate) -> float:
    return float(estimate.axes.get("dose", 1))


def _others_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """The means of judges beside those of the headline; None where there are no others."""
    found = [one for one in analysis.scores if one.beside and one.base is None and one.estimator == "pooled"]
    found = pick_claim(one for one in found if one.kind == "mean")
    if not found:
        return None
    table = table_text(pivot(found, "Other judges", colors), width)
    return f"Other judges, in no mean with these\n{table}"


def results_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """The means of the headline's judges, then those of the others; None where nothing is judged."""
    blocks = (scores_text(analysis, colors, width), _others_text(analysis, colors, width))
    return "\n\n".join(block for block in blocks if block is not None) or None
