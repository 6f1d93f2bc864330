"""Values against the dose of the last stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.records import Estimate
from holdfast.report.draw.charts import AXIS_WORDS, draw_dose, find_dose_axes
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.labels import format_result, main_rows, name_kind, name_lineage, name_value
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import list_estimates

DOSE_WORDS = (
    "The longer the second stage trains, the more of the first it may undo: a dose of 2 is twice as many steps of the"
    " last stage as the first dose, and KL says how far that training moved the agent."
)
DOSE_KINDS = ("steps", "kl_parent", "kl_base")  # what a dose was, beside its multiple


def dose_section(shown: Shown) -> Section | None:
    """Values against the dose of the last stage, in every unit of dose that the estimates have."""
    rows = shown.analysis.dose
    if not rows:
        return None
    section = Section(identity="dose", title="Dose", short="Dose")
    section.say(DOSE_WORDS)
    level = main_rows(rows)
    curves = _with_doses(level)
    for kind in sorted(dict.fromkeys(one.kind for one in level), key=lambda kind: "persistence" not in kind):
        drawn = [one for one in curves if one.kind == kind]
        for axis in find_dose_axes(curves)[: 1 + len(DOSE_KINDS)]:
            title = f"{name_kind(kind).capitalize()} against {AXIS_WORDS.get(axis, axis.replace('_', ' '))}."
            is_open = "persistence" in kind and axis in ("dose", "kl_parent")
            section.figure(
                f"dose-{kind}-{axis}",
                (title, _conclude(drawn, axis), "With 95 % intervals."),
                draw_dose(drawn, axis, shown.colors),
                fold_as="" if is_open else title,
            )
    section.say(describe_chance(shown.analysis, "dose"))
    table = list_estimates(rows, "Values by dose of the last stage", shown.colors)
    section.table("dose", table, fold_as="All numbers")
    return section


def _conclude(estimates: Sequence[Estimate], axis: str) -> str:
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
    measured = {
        (one.base, one.lineage, str(sorted(one.axes.items())), one.kind): one.value
        for one in estimates
        if one.kind in DOSE_KINDS and one.value is not None
    }
    found = []
    for one in estimates:
        if one.objective is None:
            continue
        key = (one.base, one.lineage, str(sorted(one.axes.items())))
        extra = {kind: measured[*key, kind] for kind in DOSE_KINDS if (*key, kind) in measured}
        found.append(replace(one, axes={**one.axes, **extra}))
    return found
