"""What second stages take for what they give, on rewards against on pairs: sentences, a table, curves of training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from holdfast.records import Analysis, Curve, Estimate, can_be_told
from holdfast.records.quantities import quantity_of
from holdfast.report.draw.curves import MOST_PANELS, Panel, draw_panels, make_line, window_length
from holdfast.report.draw.rows import draw_forest
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.labels import (
    excludes_zero,
    format_result,
    main_rows,
    name_axes,
    name_kind,
    name_lineage,
)
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import list_estimates, pivot

EXPLANATION = (
    "A second stage gives of its own objective and takes of the first one's. Methods that learn differently fast are"
    " compared by what they take for each point that they give, and for each nat that they move from where they"
    " started (KL on their own held-out episodes), and where they have given as much or moved as far."
)
RATES = ("lost_per_gain", "lost_per_nat")
CHANGES = {"lost_at_gain_change": "points gained", "lost_at_kl_change": "nats from the start"}
MATCHED = ("lost_at_gain", "lost_at_kl")
TABLED = ("lost", "gained", "kl", *RATES)
KINDS = ("reward", "safety", "helpfulness", "kl", "entropy", "length")  # drawn along training
MOST_ROWS = 60  # of a forest plot; the table has every row


def describe_second_stages(analysis: Analysis) -> list[str]:
    """Whether a stage on rewards has lost less than one on pairs where both have gained as much, or gone as far."""
    words = []
    rows = main_rows(row for row in analysis.second_stage if row.kind in (*CHANGES, *MATCHED))
    for one in (row for row in rows if row.kind in CHANGES):
        axes = {name: value for name, value in one.axes.items() if name != "level"}
        subject = ", ".join(filter(None, (f"{name_lineage(one.lineage)} {one.unit}", name_axes(axes), one.base)))
        if one.value is None:
            told = "; ".join(one.caveats) or "no level"
            words.append(f"{subject}: {one.objective} {name_kind(one.kind)} is not known ({told})")
            continue
        both = [
            row for row in rows if f"{row.kind}_change" == one.kind and (row.axes, row.base) == (one.axes, one.base)
        ]
        lost = " and ".join(f"{name_lineage(row.lineage)} lost {format_result(row)}" for row in both)
        verdict = "they cannot be told apart"
        if excludes_zero(one) and can_be_told(one):
            verdict = "rewards take less" if one.value < 0 else "rewards take more"
        level = f"at {one.axes['level']:g} {CHANGES[one.kind]}"
        words.append(f"{subject}, {level}: of {one.objective} {lost}, difference {format_result(one)}: {verdict}")
    return words


def _rows(analysis: Analysis) -> list[Estimate]:
    """The rows of the table of rates, without the words that its columns say."""
    return [replace(one, unit=None) for one in main_rows(one for one in analysis.second_stage if one.kind in TABLED)]


def second_stage_text(shown: Shown, width: int) -> str | None:
    """The rates of every second stage side by side, and how those on rewards compare with those on pairs."""
    rows = _rows(shown.analysis)
    if not rows:
        return None
    lines = ["The second stage", *wrap_line(EXPLANATION, width, rest="  ")]
    lines.append(table_text(pivot(rows, "The second stage", shown.colors), width))
    lines += wrap_lines(describe_second_stages(shown.analysis), width)
    return "\n".join(lines)


def fill_second_stage(section: Section, shown: Shown) -> None:
    """Rates with their intervals, comparisons, curves along training on rewards, and all numbers."""
    analysis = shown.analysis
    if not analysis.second_stage:
        _add_curves(section, analysis.curves)
        return
    section.say(EXPLANATION)
    section.bullets(describe_second_stages(analysis))
    for kind in RATES:
        level = main_rows(one for one in analysis.second_stage if one.kind == kind)
        if rows := [replace(one, unit=None) for one in level[:MOST_ROWS]]:
            name = name_kind(kind)
            words = f"{name[:1].upper()}{name[1:]}.", "", "With 95 % intervals."
            section.figure(kind.replace("_", "-"), words, draw_forest(rows), draw_forest(rows, narrow=True))
    section.table("second-stage", pivot(_rows(analysis), "The second stage", shown.colors))
    _add_curves(section, analysis.curves)
    table = list_estimates(analysis.second_stage, "What second stages take for what they give", shown.colors)
    section.table("second-stage-all", table, fold_as="All numbers")


def _panels(curves: Iterable[Curve], length: int) -> list[Panel]:
    """A panel for each training with its curves of one kind, a line for all seeds."""
    groups: dict[tuple[str, tuple[str, ...], str], list[Curve]] = {}
    for curve in curves:
        about = name_axes({name: value for name, value in curve.axes.items() if name != "split_seed"})
        groups.setdefault((curve.base, curve.lineage, about), []).append(curve)
    panels = []
    for (base, lineage, about), same in groups.items():
        if (line := make_line(same, (), None, length)) is not None:
            line, note = replace(line, words="mean over training cases"), f"{base} · {about}"
            panels.append(Panel(title=name_lineage(lineage), note=note, lines=(line,)))
    return panels


def _add_curves(section: Section, curves: Iterable[Curve]) -> None:
    """What the logs of stages that a judge rewards say along training, a figure for each quantity."""
    mine = [curve for curve in curves if "objective" in curve.axes and curve.source == "training"]
    length = window_length(mine)
    for number, kind in enumerate(KINDS):
        panels = _panels((curve for curve in mine if curve.kind == kind), length)[:MOST_PANELS]
        if not panels:
            continue
        head = quantity_of(kind).head if kind != "reward" else "Reward (the objective's score)"
        caption = "Thin lines are single seeds, the bold one their mean"
        caption += f" over windows of {length} steps." if length > 1 else "."
        look = {"title": f"{head} along training", "x_label": "optimiser step", "kind": kind}
        svg, small = (draw_panels(panels, narrow=narrow, **look) for narrow in (False, True))
        fold_as = head if number > 1 else ""
        section.figure(
            f"rewarded-{kind}", (f"{head} along training on rewards.", "", caption), svg, small, fold_as=fold_as
        )
