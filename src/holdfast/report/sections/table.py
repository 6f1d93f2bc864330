"""The sections of a report, a row each: how it is drawn on the page, and how it is told in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import Analysis, Verdict
from holdfast.records.quantities import CHANGE_SECTIONS
from holdfast.report.draw.figures import order_lineages
from holdfast.report.sections.approval.section import approval_block, fill_approval
from holdfast.report.sections.audit import audit_text, fill_audit, fill_health, health_text
from holdfast.report.sections.calibration import calibration_text, fill_agreement, fill_calibration
from holdfast.report.sections.chance import chance_lines, fill_chance
from holdfast.report.sections.gate import fill_gate, gate_text
from holdfast.report.sections.persistence import fill_dose, fill_persistence, persistence_text
from holdfast.report.sections.pressure import describe_pressure, describe_shifts, fill_pressure, fill_shifts
from holdfast.report.sections.repair import describe_repairs, fill_repair
from holdfast.report.sections.results import fill_frontier, fill_results, results_text
from holdfast.report.sections.second_stage import fill_second_stage, second_stage_text
from holdfast.report.sections.summary import describe_alert, needs_alert
from holdfast.report.sections.taxonomy import Taxonomy, describe_changes, fill_taxonomy
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.layout import MOST_SENTENCES, Section, Shown, sentences_text


@dataclass(frozen=True, slots=True)
class Part:
    """One section: its title, its name in the navigation, and what tells it.

    ``fill`` adds what the page shows, and nothing where the analysis has nothing of it; ``text`` tells it in a
    terminal of so many columns, None where there is nothing to tell.
    """

    title: str
    short: str
    fill: Callable[[Section, Shown], None]
    text: Callable[[Shown, int], str | None] = lambda shown, width: None


def tell(
    head: str, describe: Callable[[Analysis], Sequence[str]], most: int = MOST_SENTENCES
) -> Callable[[Shown, int], str | None]:
    """The text of a section that is told in sentences."""
    return lambda shown, width: sentences_text(head, describe(shown.analysis), width, most)


# In the order of the page; the audit stands first where many episodes cannot be judged.
PARTS: Mapping[str, Part] = {
    "frontier": Part("The trade between objectives", "Frontier", fill_frontier),
    "gate": Part("Verdicts", "Verdicts", fill_gate, gate_text),
    "results": Part("Results", "Results", fill_results, results_text),
    "approval": Part("Approval", "Approval", fill_approval, approval_block),
    "persistence": Part("Persistence", "Persistence", fill_persistence, persistence_text),
    "dose": Part("Dose", "Dose", fill_dose),
    "second_stage": Part("The second stage", "Second stage", fill_second_stage, second_stage_text),
    "repair": Part("Repair", "Repair", fill_repair, tell("Repair", describe_repairs)),
    "taxonomy": Part(
        "Harm by dimension",
        "Harm",
        fill_taxonomy,
        tell("Harm by dimension", lambda analysis: describe_changes(Taxonomy(analysis.taxonomy))),
    ),
    "pressure": Part(
        "Under pressure",
        "Pressure",
        fill_pressure,
        tell("Under pressure and shifts", lambda analysis: [*describe_pressure(analysis), *describe_shifts(analysis)]),
    ),
    "shifts": Part("Under a shift", "Shifts", fill_shifts),
    "health": Part("Health of training", "Health", fill_health, health_text),
    "audit": Part("Audit", "Audit", fill_audit, audit_text),
    "agreement": Part("Judge agreement", "Agreement", fill_agreement),
    "calibration": Part("Judges against known truth", "Judges", fill_calibration, calibration_text),
    "chance": Part(
        "How many by chance",
        "Chance",
        fill_chance,
        tell("Intervals of changes away from zero (not adjusted)", chance_lines, len(CHANGE_SECTIONS)),
    ),
}
# A terminal goes from what was found to what it rests on.
IN_TERMINAL: tuple[str, ...] = (
    "results",
    "persistence",
    "second_stage",
    "approval",
    "audit",
    "repair",
    "taxonomy",
    "pressure",
)
IN_TERMINAL += ("chance", "gate", "calibration", "health")


def _in_order(analysis: Analysis, names: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys([*(["audit"] if needs_alert(analysis) else []), *names])


def make_section(name: str, shown: Shown) -> Section | None:
    """The section of a name; None where the analysis does not fill it."""
    part = PARTS[name]
    section = Section(identity=name, title=part.title, short=part.short)
    part.fill(section, shown)
    return section if section.parts else None


def make_sections(shown: Shown) -> list[Section]:
    """Every section that the analysis fills, in reading order; the list of cases is not among them."""
    made = (make_section(name, shown) for name in _in_order(shown.analysis, PARTS))
    return [section for section in made if section is not None]


def make_texts(analysis: Analysis, width: int, verdicts: Sequence[Verdict] = ()) -> list[str]:
    """The same for a terminal of so many columns: what a reader must know first, then the sections, then the notes."""
    shown = Shown(analysis=analysis, colors=order_lineages(analysis), verdicts=verdicts)
    alert = describe_alert(analysis)
    blocks = [None if alert is None else "\n".join(wrap_line(f"! {alert}", width, "", "  "))]
    blocks += [PARTS[name].text(shown, width) for name in _in_order(analysis, IN_TERMINAL)]
    blocks += ["\n".join(["Notes", *wrap_lines(analysis.notes, width, rest="  ")])] if analysis.notes else []
    return [block for block in blocks if block is not None]
