"""Persistence and differences between lineages, by dose too: forest plots, curves, tables, ratios for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from holdfast.records import Estimate
from holdfast.report.draw.curves import AXIS_WORDS, draw_dose, find_dose_axes
from holdfast.report.draw.rows import draw_forest
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    FLIPPED,
    drop_judge,
    explain_persistence,
    format_result,
    main_rows,
    most_pooled,
    name_kind,
    name_lineage,
    name_subject,
    name_value,
    prefer_pooled,
    split_levels,
)
from holdfast.report.words.layout import Section, Shown, fold, paragraph
from holdfast.report.words.tables import format_estimate, list_estimates

FOREST_ROWS = 60  # of one forest plot; the table beneath has every row
MARKS = (
    "Circles are checkpoint claims, squares recipe claims. Where the gap's own interval holds zero the ratio is not"
    " identified and has no mark; an unbounded interval is dashed across the plot, and an arrow marks an interval that"
    " leaves it."
)
CONTROLS = (
    "Pairs with sides swapped at random have no gain to keep, and the same stage again has nothing to lose to another:"
    " their differences show what more training alone does."
)
DOSE_WORDS = (
    "The longer the second stage trains, the more of the first it may undo: a dose of 2 is twice as many steps of the"
    " last stage as the first dose, and KL says how far that training moved the agent."
)
DOSE_KINDS = ("steps", "kl_parent", "kl_base")  # what a dose was, beside its multiple


def fill_persistence(section: Section, shown: Shown) -> None:
    """Forest plots for each quantity and level; ratios first and open, the rest to be opened."""
    rows = shown.analysis.persistence
    if not rows:
        return
    first = next((one for one in rows if one.kind == "persistence"), rows[0])
    section.say(explain_persistence(first), MARKS)
    section.say(describe_chance(shown.analysis, "persistence"))
    parts: dict[bool, list[Estimate]] = {False: [], True: []}  # those of main lineages, those of controls
    for one in rows:
        parts[one.unit == FLIPPED or one.kind == "erosion_control"].append(one)
    _add_forests(section, parts[False])
    controls = Section(identity="controls", title="Controls", short="")
    _add_forests(controls, parts[True], prefix="controls-")
    if controls.parts:
        section.parts.append(fold("Controls", paragraph(CONTROLS) + controls.html))
        section.figures |= controls.figures
    table = list_estimates(rows, "Persistence and differences in score points", shown.colors)
    section.table("persistence", table, fold_as="All numbers")


def _order_kinds(estimates: Iterable[Estimate]) -> list[str]:
    return sorted(dict.fromkeys(one.kind for one in estimates), key=lambda kind: "persistence" not in kind)


def _add_forests(section: Section, estimates: Sequence[Estimate], prefix: str = "") -> None:
    """A forest plot for each quantity and level; the first is open, unless all are controls."""
    for kind in _order_kinds(estimates):
        for level, found in split_levels(one for one in estimates if one.kind == kind).items():
            rows = sorted(found, key=_forest_order)[:FOREST_ROWS]
            left = len(found) - len(rows)
            caption = "With 95 % intervals." + (f" {left} more rows are in the table." if left else "")
            words = f"{name_kind(kind).capitalize()}, {level}.", _conclude(rows), caption
            name, fold_as = f"{prefix}{kind}-{level}".replace(" ", "-"), words[0] if prefix or section.figures else ""
            section.figure(name, words, draw_forest(rows), draw_forest(rows, narrow=True), fold_as=fold_as)


def _conclude(rows: Sequence[Estimate]) -> str:
    """The first number of each lineage in words."""
    first: dict[tuple[object, ...], str] = {}
    for one in rows:
        words = f"{one.objective or 'all'} after {name_lineage(one.lineage)} {format_result(one)}"
        first.setdefault((one.objective, one.lineage), words)
    return f"{'; '.join(list(first.values())[:4])}."


def _forest_order(one: Estimate) -> tuple[object, ...]:
    about = len(one.axes), str(one.base), str(one.judge), str(sorted(one.axes.items()))
    return one.objective != FIRST_OBJECTIVE, str(one.objective), *about, one.estimator != "pooled", one.claim


def persistence_text(shown: Shown, width: int) -> str | None:
    """Persistence of the main lineages, why some is not identified, and all flipped controls in one line."""
    ratios = drop_judge(most_pooled(one for one in shown.analysis.persistence if "persistence" in one.kind))
    if not ratios:
        return None
    main = [one for one in ratios if one.unit != FLIPPED]
    flipped = prefer_pooled([one for one in ratios if one.unit == FLIPPED])
    lines = ["Persistence"]
    if main:
        lines += wrap_line(explain_persistence(main[0]), width, rest="  ")
        lines.append(table_text(list_estimates(main, "Persistence", shown.colors), width))
    missing = [f"{name_subject(one)}: {'; '.join(one.caveats)}" for one in main if one.value is None]
    lines += wrap_lines(missing, width)
    if flipped:
        names = ", ".join(dict.fromkeys(name_lineage(one.lineage) for one in flipped))
        found = ", ".join(dict.fromkeys(format_estimate(one) for one in flipped if one.value is not None))
        lines += wrap_line(f"flipped controls {names}: {found or 'not identified, as they should be'}", width)
    return "\n".join(lines)


def fill_dose(section: Section, shown: Shown) -> None:
    """Values against the dose of the last stage, in every unit of dose that the estimates have."""
    rows = shown.analysis.dose
    if not rows:
        return
    section.say(DOSE_WORDS)
    level = main_rows(rows)
    curves = _with_doses(level)
    for kind in _order_kinds(level):
        drawn = [one for one in curves if one.kind == kind]
        for axis in find_dose_axes(curves)[: 1 + len(DOSE_KINDS)]:
            title = f"{name_kind(kind).capitalize()} against {AXIS_WORDS.get(axis, axis.replace('_', ' '))}."
            words = title, _conclude_dose(drawn, axis), "With 95 % intervals."
            is_open = "persistence" in kind and axis in ("dose", "kl_parent")
            svg = draw_dose(drawn, axis, shown.colors)
            section.figure(f"dose-{kind}-{axis}", words, svg, fold_as="" if is_open else title)
    section.say(describe_chance(shown.analysis, "dose"))
    table = list_estimates(rows, "Values by dose of the last stage", shown.colors)
    section.table("dose", table, fold_as="All numbers")


def _conclude_dose(estimates: Sequence[Estimate], axis: str) -> str:
    """The first and the last value along an axis, for each lineage and objective."""
    ends: dict[tuple[object, ...], list[Estimate]] = {}
    for one in sorted((one for one in estimates if axis in one.axes), key=lambda one: float(one.axes[axis])):
        ends.setdefault((one.objective, one.lineage), []).append(one)
    told = [
        f"{objective} after {name_lineage(curve[0].lineage)} goes from {format_result(curve[0])} at"
        f" {name_value(curve[0].axes[axis])} to {format_result(curve[-1])} at {name_value(curve[-1].axes[axis])}"
        for (objective, _), curve in ends.items()
        if len(curve) > 1
    ]
    return f"{'; '.join(told[:2])}." if told else ""


def _with_doses(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Estimates of objectives with the steps and the measured KL of the same checkpoints beside their dose."""

    def subject(one: Estimate) -> tuple[object, ...]:
        return one.base, one.lineage, str(sorted(one.axes.items()))

    measured: dict[tuple[object, ...], dict[str, float]] = {}
    for one in sorted((one for one in estimates if one.kind in DOSE_KINDS), key=lambda one: DOSE_KINDS.index(one.kind)):
        if one.value is not None:
            measured.setdefault(subject(one), {})[one.kind] = one.value
    about = (one for one in estimates if one.objective is not None)
    return [replace(one, axes={**one.axes, **measured.get(subject(one), {})}) for one in about]
