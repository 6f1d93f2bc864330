"""Mean scores and their changes from the base: the page's tables, and the tables of a terminal."""

from __future__ import annotations

from dataclasses import replace

from holdfast.records import Estimate
from holdfast.records.words import count_noun
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import show_line, wrap_line
from holdfast.report.words.labels import (
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
from holdfast.report.words.tables import pivot

CLAIMS = (
    "A checkpoint claim speaks of these weights: cases are random. A recipe claim speaks of this kind of training:"
    " seeds are random too. A number opens to its interval, counts and caveats."
)


def results_section(shown: Shown) -> Section | None:
    """Means with intervals per base × lineage × axes, and the changes from the base."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.scores:
        return None
    section = Section(identity="results", title="Results", short="Results")
    section.say(CLAIMS)
    means = [one for one in analysis.scores if one.kind == "mean"]
    section.table("results", pivot(means, "Mean scores (0–3) with the half-width of the 95 % interval", colors))
    if others := [one for one in analysis.scores if one.kind != "mean"]:
        section.table("spread", pivot(others, "Spread of scores", colors), fold_as="Spread")
    if analysis.deltas:
        table = pivot(analysis.deltas, "Change from the base, in score points", colors)
        section.table("deltas", table, fold_as="Change from the base")
        section.say(describe_chance(analysis, "deltas"))
    return section


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
            least = {one.lineage: _dose(one) for one in sorted(main, key=_dose, reverse=True)}
            short = pivot([one for one in main if _dose(one) == least[one.lineage]], table.title, colors)
        short = replace(short, rows=short.rows[:most])
        lines += [table_text(short, width), f"  … {count_noun(len(table.rows) - len(short.rows), 'more rows')}"]
        return "\n".join(lines)
    lines.append(table_text(table, width))
    if apart:
        names = ", ".join(name_lineage(one) for one in sorted(apart, key=lambda one: colors.get(one, 0)))
        words = f"last rows: controls ({names}): the same stage again, or pairs with sides swapped at random"
        lines += wrap_line(words, width, rest="  ")
    return "\n".join(lines)


def _dose(estimate: Estimate) -> float:
    return float(estimate.axes.get("dose", 1))


def _others_text(shown: Shown, width: int) -> str | None:
    """The means of judges beside those of the headline; None where there are no others."""
    beside = [one for one in shown.analysis.scores if one.beside and one.base is None and one.estimator == "pooled"]
    means = pick_claim(one for one in beside if one.kind == "mean")
    if not means:
        return None
    return f"Other judges, in no mean with these\n{table_text(pivot(means, 'Other judges', shown.colors), width)}"


def results_text(shown: Shown, width: int) -> str | None:
    """The means of the headline's judges, then those of the others; None where nothing is judged."""
    blocks = (scores_text(shown, width), _others_text(shown, width))
    return "\n\n".join(block for block in blocks if block is not None) or None
