"""The sections of a report, a row each: how it is drawn on the page, and how it is told in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import Analysis, Checkpoint, Verdict
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.agreement import agreement_section
from holdfast.report.sections.approval.examples import Users
from holdfast.report.sections.approval.section import approval_section
from holdfast.report.sections.approval.words import approval_block
from holdfast.report.sections.audit import audit_section, audit_text
from holdfast.report.sections.calibration import calibration_section, calibration_text
from holdfast.report.sections.chance import chance_section, chance_text
from holdfast.report.sections.dose import dose_section
from holdfast.report.sections.frontier import frontier_section
from holdfast.report.sections.gate import count_outcomes, describe_verdict, gate_section
from holdfast.report.sections.health import health_section, health_text
from holdfast.report.sections.persistence import persistence_section, persistence_text
from holdfast.report.sections.pressure import pressure_lines, pressure_section, shift_section
from holdfast.report.sections.repair import describe_repairs, repair_section
from holdfast.report.sections.results import results_section, results_text
from holdfast.report.sections.summary import describe_alert, needs_alert
from holdfast.report.sections.taxonomy import taxonomy_lines, taxonomy_section
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.layout import Section, sentences_text

Colors = Mapping[tuple[str, ...], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a report shows: an analysis, the colour number of every lineage, and what stands beside the numbers."""

    analysis: Analysis
    colors: Colors
    checkpoints: Sequence[Checkpoint] = ()
    verdicts: Sequence[Verdict] = ()
    users: Users | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One section: ``page`` draws it; ``text`` tells it in a terminal of so many columns. None where it has nothing."""

    page: Callable[[Shown], Section | None]
    text: Callable[[Shown, int], str | None] = lambda shown, width: None


def _plain(
    page: Callable[[Analysis, Colors], Section | None],
    text: Callable[[Analysis, Colors, int], str | None] | None = None,
) -> Part:
    """A section that is made of the analysis and its colours alone."""
    if text is None:
        return Part(lambda shown: page(shown.analysis, shown.colors))
    return Part(
        lambda shown: page(shown.analysis, shown.colors), lambda shown, width: text(shown.analysis, shown.colors, width)
    )


def _told(
    head: str, lines: Callable[[Analysis], list[str]], page: Callable[[Analysis, Colors], Section | None]
) -> Part:
    """A section whose sentences stand in a terminal under a head."""
    return _plain(page, lambda analysis, _, width: sentences_text(head, lines(analysis), width))


# In the order of the page; the audit stands first where many episodes cannot be judged.
PARTS: Mapping[str, Part] = {
    "results": Part(
        lambda shown: results_section(shown.analysis, shown.colors, shown.checkpoints),
        lambda shown, width: results_text(shown.analysis, shown.colors, width),
    ),
    "gate": Part(
        lambda shown: gate_section(shown.verdicts),
        lambda shown, width: sentences_text(
            f"Gate ({count_outcomes(shown.verdicts)})", list(map(describe_verdict, shown.verdicts)), width
        ),
    ),
    "approval": Part(
        lambda shown: approval_section(shown.analysis, shown.colors, shown.checkpoints, shown.users),
        lambda shown, width: approval_block(shown.analysis, shown.colors, width),
    ),
    "frontier": _plain(frontier_section),
    "repair": _told("Repair", describe_repairs, repair_section),
    "persistence": _plain(persistence_section, persistence_text),
    "dose": _plain(dose_section),
    "taxonomy": _told("Harm by dimension", taxonomy_lines, taxonomy_section),
    "pressure": _told("Under pressure and shifts", pressure_lines, pressure_section),
    "shifts": _plain(shift_section),
    "health": _plain(health_section, health_text),
    "audit": _plain(audit_section, audit_text),
    "agreement": _plain(agreement_section),
    "calibration": _plain(calibration_section, calibration_text),
    "chance": _plain(chance_section, chance_text),
}
# A terminal goes from what was found to what it rests on.
IN_TERMINAL: tuple[str, ...] = ("results", "persistence", "approval", "audit", "repair", "taxonomy", "pressure")
IN_TERMINAL += ("chance", "gate", "calibration", "health")


def _in_order(analysis: Analysis, names: Sequence[str]) -> list[Part]:
    first = ["audit"] if needs_alert(analysis) else []
    return [PARTS[name] for name in dict.fromkeys([*first, *names])]


def make_sections(
    analysis: Analysis,
    colors: Colors,
    checkpoints: Sequence[Checkpoint] = (),
    verdicts: Sequence[Verdict] = (),
    users: Users | None = None,
) -> list[Section]:
    """Every section that the analysis fills, in reading order; the list of cases is not among them."""
    shown = Shown(analysis=analysis, colors=colors, checkpoints=checkpoints, verdicts=verdicts, users=users)
    made = [part.page(shown) for part in _in_order(analysis, tuple(PARTS))]
    return [section for section in made if section is not None]


def make_texts(analysis: Analysis, width: int, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """The same for a terminal of so many columns: what a reader must know first, then the sections, then the notes."""
    shown = Shown(analysis=analysis, colors=order_lineages(analysis), verdicts=verdicts)
    alert = describe_alert(analysis)
    blocks = [None if alert is None else "\n".join(wrap_line(f"! {alert}", width, "", "  "))]
    blocks += [part.text(shown, width) for part in _in_order(analysis, IN_TERMINAL)]
    blocks += ["\n".join(["Notes", *wrap_lines(analysis.notes, width, rest="  ")])] if analysis.notes else []
    return [block for block in blocks if block is not None]
