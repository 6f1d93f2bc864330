"""What an analysis does not say: its notes, and every caveat."""

from __future__ import annotations

from collections import Counter

from holdfast.records import Analysis
from holdfast.report.words.layout import Section, fold, list_html


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
