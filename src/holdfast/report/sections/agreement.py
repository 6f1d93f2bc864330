"""How far judges agree."""

from __future__ import annotations

from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import pivot


def agreement_section(shown: Shown) -> Section | None:
    """How far judges agree; None where one judge has nobody to agree with."""
    agreement = shown.analysis.agreement
    if all(one.kind in ("judge_mean", "objective_correlation") for one in agreement):
        return None
    section = Section(identity="agreement", title="Judge agreement", short="Agreement")
    table = pivot(agreement, "Agreement between judges", shown.colors, objective_heads=False)
    section.table("agreement", table)
    return section
