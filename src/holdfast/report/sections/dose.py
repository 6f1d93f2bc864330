"""Values against the dose of the last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Estimate
from holdfast.report.draw.charts import AXIS_WORDS, draw_dose, find_dose_axes
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.labels import (
    main_rows,
    name_kind,
)
from holdfast.report.words.layout import Section, fold, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import (
    list_estimates,
    table_html,
)

Lineage = tuple[str, ...]
DOSE_WORDS = (
    "The longer the second stage trains, the more of the first it may undo: a dose of 2 is twice as many steps of the"
    " last stage as the first dose, and KL says how far that training moved the agent."
)
DOSE_KINDS = ("steps", "kl_parent", "kl_base")  # what a dose was, beside its multiple


def dose_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Values against the dose of the last stage, in every unit of dose that the estimates have."""
    if not analysis.dose:
        return None
    parts, figures = [paragraph(DOSE_WORDS)], {}
    level = main_rows(analysis.dose)
    curves = _with_doses(level)
    for kind in sorted(dict.fromkeys(one.kind for one in level), key=lambda kind: "persistence" not in kind):
        for axis in find_dose_axes(curves)[: 1 + len(DOSE_KINDS)]:
            svg = draw_dose([one for one in curves if one.kind == kind], axis)
            if svg is not None:
                name = f"dose-{kind}-{axis}"
                caption = f"{name_kind(kind).capitalize()} against {AXIS_WORDS.get(axis, axis.replace('_', ' '))}."
                figures[name] = svg
                html = wrap_figure(svg, name, caption)
                shown = "persistence" in kind and axis in ("dose", "kl_parent")
                parts.append(html if shown else fold(caption, html))
    parts.append(chance_paragraph(analysis, "dose"))
    table = list_estimates(analysis.dose, "Values by dose of the last stage", colors)
    parts.append(fold("All numbers", table_html(table, identity="dose-table")))
    return make_section("dose", "Dose", parts, figures, {"dose": table})


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
