"""How far judges agree."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records import Analysis
from holdfast.report.words.layout import Section, make_section
from holdfast.report.words.tables import (
    pivot,
    table_html,
)

Lineage = tuple[str, ...]


def agreement_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """How far judges agree."""
    if all(one.kind in ("judge_mean", "objective_correlation") for one in analysis.agreement):
        return None  # one judge has nobody to agree with
    table = pivot(analysis.agreement, "Agreement between judges", colors, objective_heads=False)
    html = table_html(table, identity="agreement-table")
    return make_section("agreement", "Judge agreement", [html], tables={"agreement": table})
