"""Whether a repair leaves the line of the other lineages: its distance from it, and the verdict in words."""

from __future__ import annotations

from dataclasses import replace

from holdfast.records import Analysis, Estimate, can_be_told, cannot_be_told
from holdfast.report.draw.rows import draw_forest
from holdfast.report.words.labels import format_interval, format_number, main_rows, name_axes, name_judge, name_lineage
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import list_estimates
from holdfast.stats.lines import BENT

OFF_LINE, JOINT_BOUND, RETEACH_DOSE = "off_line", "off_line_lower", "reteach_dose"
EXPLANATION = (
    "A repair is a stage, or a mixture of checkpoints, that tries to keep both objectives. Every other lineage trades"
    " one for the other along a line; the distance from the line that is fitted without the repair says whether it"
    " does better than trade. Above zero it has more of both than the line allows, below zero less. It leaves the line"
    " where a lower bound that holds for all repairs together is above zero."
)
MOST_ROWS = 60  # of the forest plot; the table has every row


def _name(one: Estimate) -> str:
    judge = f"judge {name_judge(one.judge, one.labelled, one.reads_state)}" if one.judge else None
    return ", ".join(filter(None, (name_lineage(one.lineage), name_axes(one.axes), one.base, judge)))


def _distances(analysis: Analysis) -> list[Estimate]:
    """The distances at their most pooled level, the largest first."""
    level = main_rows(one for one in analysis.repair if one.kind == OFF_LINE)
    return sorted(level, key=lambda one: -(one.value if one.value is not None else float("-inf")))


def _key(one: Estimate) -> tuple[object, ...]:
    return one.base, one.lineage, str(sorted(one.axes.items())), one.judge, one.labelled, one.claim


def describe_repairs(analysis: Analysis) -> list[str]:
    """Whether any repair leaves the line, then each in a sentence, and what re-teaching takes."""
    distances = _distances(analysis)
    if not distances:
        return _describe_reteaching(analysis)
    # One-sided lower bounds that hold for all repairs together, by the distance that they belong to.
    bounds = {_key(one): one.value for one in analysis.repair if one.kind == JOINT_BOUND and one.value is not None}
    lowest = [bounds.get(_key(one)) if can_be_told(one) else None for one in distances]
    leaving = sum(low is not None and low > 0 and not _bent(one) for one, low in zip(distances, lowest, strict=True))
    if leaving:
        first = f"{leaving} of {len(distances)} repairs {'leaves' if leaving == 1 else 'leave'} the line upwards."
    elif any(low is not None for low in lowest):
        first = "No repair is shown to leave the line upwards: each is a trade, as far as can be seen."
    else:
        first = "Whether a repair leaves the line is not known: no distance has a bound."
    sentences = [_sentence(one, low) for one, low in zip(distances, lowest, strict=True)]
    return [first, *sentences, *_describe_reteaching(analysis)]


def _sentence(one: Estimate, low: float | None) -> str:
    if one.value is None:
        return f"{_name(one)}: not known ({'; '.join(one.caveats) or 'no line'})"
    if not can_be_told(one):
        return f"{_name(one)}: its distance from the line {cannot_be_told(one.n['cases'])}"
    words = f"{_name(one)}: {format_number(one.value)} points off the line {format_interval(one)}".rstrip()
    if low is not None:
        words += f", at least {format_number(low)} for all repairs together: "
        words += (_bent(one) or "it leaves the line") if low > 0 else "not shown to leave it"
    return words


def _bent(one: Estimate) -> str:
    """What is said where a bend of the line explains a distance, or empty."""
    return next((caveat for caveat in one.caveats if caveat.startswith(BENT)), "")


def _describe_reteaching(analysis: Analysis) -> list[str]:
    """The smallest dose of the first stage that brings its objective back, for each lineage that re-teaches."""
    words = []
    for one in main_rows(one for one in analysis.repair if one.kind == RETEACH_DOSE):
        told = "; ".join(one.caveats)
        if one.value is not None:
            kept = f"keeps {one.objective or 'the objective'} within the gate's margin"
            told = f"the smallest dose that {kept} is {one.value:g} ({one.unit or 'dose'})"
        words.append(f"{_name(one)}: {told}")
    return words


def fill_repair(section: Section, shown: Shown) -> None:
    """Each repair's distance from the line with an interval, and all else that was measured of repairs."""
    analysis = shown.analysis
    if not analysis.repair:
        return
    section.say(EXPLANATION)
    first, *rest = describe_repairs(analysis) or [""]
    rows = [replace(one, unit=None) for one in _distances(analysis)[:MOST_ROWS]]
    if rows:
        words = "Distance of each repair from the line of the others.", first, "With 95 % intervals."
        section.figure("repair", words, draw_forest(rows), draw_forest(rows, narrow=True))
    else:
        section.say(first)
    section.bullets(rest)
    section.table("repair", list_estimates(analysis.repair, "Repairs", shown.colors), fold_as="All numbers")
