"""Signs of degenerate training, those that passed a threshold first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.records import Analysis
from holdfast.report.words.inert import wrap_lines
from holdfast.report.words.layout import COUNTED_ONLY, Section, list_html, make_section, paragraph
from holdfast.report.words.tables import (
    describe_flag,
    pivot,
    table_html,
)

Lineage = tuple[str, ...]
TRAINING_SIGNS = ("tokens", "kl_parent", "drift_chosen", "drift_rejected", "distinct_share")


def health_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Signs of degenerate training, with the flags first."""
    if not analysis.health:
        return None
    flagged = [one for one in analysis.health if one.caveats]
    measured = any(one.kind in TRAINING_SIGNS for one in analysis.health)
    first = list_html(map(describe_flag, flagged), "flags")
    if not measured:
        first += paragraph(
            "Training is not assessed for imported runs: neither its measures (KL, drift) nor the lengths of episodes"
            " came with them."
        )
    elif not flagged:
        first = paragraph("No sign of degenerate training is flagged.")
    hidden = () if measured else ("degenerate",)
    signs = [
        replace(one, estimator="", unit=None)
        for one in analysis.health
        if not one.kind.endswith("_vs_base") and one.kind not in hidden
    ]
    table = pivot(signs, "Health of training" if measured else "Signs in the episodes", colors)
    html = paragraph(COUNTED_ONLY) + table_html(table, identity="health-table")
    return make_section("health", "Health of training", [first, html], tables={"health": table})


def health_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    lines = wrap_lines((f"! {describe_flag(one)}" for one in analysis.health if one.caveats), width, rest="      ")
    return "\n".join(["Flags", *lines]) if lines else None
