"""What the numbers do not say: how many intervals lie away from zero by chance, notes and every caveat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast.records import Analysis, Family
from holdfast.records.quantities import CHANGE_SECTIONS
from holdfast.report.words.labels import format_number, name_kind
from holdfast.report.words.layout import Section, Shown, fold, list_html
from holdfast.report.words.tables import Cell, make_table

EXPLANATION = (
    "Every interval stands for itself: none is adjusted for how many there are, and what is picked from many is"
    " exploratory. If nothing had changed, one 95 % interval in twenty would lie away from zero all the same. Rows of a"
    " family share cases and checkpoints, so that they err together: more than the expected number may be luck too."
    " Rows of fewer than ten cases are not counted."
)
HEADS = ("Quantity", "Split by", "Claim", "Intervals", "Away from zero", "By chance")


def _chance(families: Sequence[Family]) -> str:
    """``7 of 126 (6.3 by chance)``."""
    total, away = sum(one.intervals for one in families), sum(one.away for one in families)
    return f"{away:,} of {total:,} ({format_number(sum(one.by_chance for one in families), 1)} by chance)"


def describe_chance(analysis: Analysis, section: str) -> str | None:
    """How many intervals of a section lie away from zero, by quantity; None where it has no change with an interval."""
    families = [one for one in analysis.families if one.section == section]
    if not families:
        return None
    kinds = dict.fromkeys(one.kind for one in families)
    told = "; ".join(f"{name_kind(kind)} {_chance([one for one in families if one.kind == kind])}" for kind in kinds)
    return f"Exploratory, not adjusted for looking often. Intervals away from zero: {told}."


def chance_lines(analysis: Analysis) -> list[str]:
    """A line for each section, for a terminal."""
    by_section: dict[str, list[Family]] = {}
    for one in analysis.families:
        by_section.setdefault(one.section, []).append(one)
    return [f"{CHANGE_SECTIONS[name]}: {_chance(families)}" for name, families in by_section.items()]


def fill_chance(section: Section, shown: Shown) -> None:
    """Every family with its counts; nothing where no change has an interval."""
    families = shown.analysis.families
    if not families:
        return
    rows = [
        (
            f"{CHANGE_SECTIONS[one.section]}: {name_kind(one.kind)}",
            ", ".join(one.by) or "–",
            one.claim,
            Cell(text=f"{one.intervals:,}", sort=one.intervals),
            Cell(text=f"{one.away:,}", sort=one.away),
            Cell(text=format_number(one.by_chance, 1), sort=one.by_chance),
        )
        for one in families
    ]
    section.say(EXPLANATION)
    title = "Intervals of changes by family: away from zero, and how many would be by chance"
    section.table("chance", make_table(title, HEADS, rows, 3))


def limits_section(analysis: Analysis) -> Section:
    """What these numbers do not say: the analysis' notes and every caveat, counted."""
    section = Section(identity="limits", title="Limits", short="Limits")
    section.bullets(analysis.notes, "notes")
    section.say(
        "Scores are a judge's reading of what an agent wrote and did. Missing scores stay missing; unfit trajectories"
        " are counted, and every mean stands beside its bounds in the audit."
    )
    counts = Counter(caveat for _, rows in analysis.sections() for one in rows for caveat in one.caveats)
    if counts:
        caveats = list_html((f"{words} ({count:,} numbers)" for words, count in counts.most_common()), "sentences")
        section.parts.append(fold(f"Caveats of single numbers ({len(counts):,})", caveats))
    return section
