"""The sections of a report, a row each: how it is drawn on the page, and how it is told in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import Analysis, Verdict
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.approval.section import approval_block, approval_section
from holdfast.report.sections.audit import audit_section, audit_text, health_section, health_text
from holdfast.report.sections.calibration import agreement_section, calibration_section, calibration_text
from holdfast.report.sections.chance import chance_section, chance_text
from holdfast.report.sections.gate import gate_section, gate_text
from holdfast.report.sections.persistence import dose_section, persistence_section, persistence_text
from holdfast.report.sections.pressure import pressure_section, pressure_text, shift_section
from holdfast.report.sections.repair import repair_section, repair_text
from holdfast.report.sections.results import frontier_section, results_section, results_text
from holdfast.report.sections.summary import describe_alert, needs_alert
from holdfast.report.sections.taxonomy import taxonomy_section, taxonomy_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.layout import Section, Shown


@dataclass(frozen=True, slots=True)
class Part:
    """One section: ``page`` draws it; ``text`` tells it in a terminal of so many columns. None where it has nothing."""

    page: Callable[[Shown], Section | None]
    text: Callable[[Shown, int], str | None] = lambda shown, width: None


# In the order of the page; the audit stands first where many episodes cannot be judged.
PARTS: Mapping[str, Part] = {
    "frontier": Part(frontier_section),
    "gate": Part(gate_section, gate_text),
    "results": Part(results_section, results_text),
    "approval": Part(approval_section, approval_block),
    "persistence": Part(persistence_section, persistence_text),
    "dose": Part(dose_section),
    "repair": Part(repair_section, repair_text),
    "taxonomy": Part(taxonomy_section, taxonomy_text),
    "pressure": Part(pressure_section, pressure_text),
    "shifts": Part(shift_section),
    "health": Part(health_section, health_text),
    "audit": Part(audit_section, audit_text),
    "agreement": Part(agreement_section),
    "calibration": Part(calibration_section, calibration_text),
    "chance": Part(chance_section, chance_text),
}
# A terminal goes from what was found to what it rests on.
IN_TERMINAL: tuple[str, ...] = ("results", "persistence", "approval", "audit", "repair", "taxonomy", "pressure")
IN_TERMINAL += ("chance", "gate", "calibration", "health")


def _in_order(analysis: Analysis, names: Sequence[str]) -> list[Part]:
    first = ["audit"] if needs_alert(analysis) else []
    return [PARTS[name] for name in dict.fromkeys([*first, *names])]


def make_sections(shown: Shown) -> list[Section]:
    """Every section that the analysis fills, in reading order; the list of cases is not among them."""
    made = [part.page(shown) for part in _in_order(shown.analysis, tuple(PARTS))]
    return [section for section in made if section is not None]


def make_texts(analysis: Analysis, width: int, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """The same for a terminal of so many columns: what a reader must know first, then the sections, then the notes."""
    shown = Shown(analysis=analysis, colors=order_lineages(analysis), verdicts=verdicts)
    alert = describe_alert(analysis)
    blocks = [None if alert is None else "\n".join(wrap_line(f"! {alert}", width, "", "  "))]
    blocks += [part.text(shown, width) for part in _in_order(analysis, IN_TERMINAL)]
    blocks += ["\n".join(["Notes", *wrap_lines(analysis.notes, width, rest="  ")])] if analysis.notes else []
    return [block for block in blocks if block is not None]
