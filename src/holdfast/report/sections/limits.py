"""What an analysis does not say: its notes, and every caveat."""

from __future__ import annotations

from holdfast.records import Analysis
from holdfast.report.words.inert import escape_html
from holdfast.report.words.layout import Section, fold, list_html, make_section, paragraph

Lineage = tuple[str, ...]


def limits_section(analysis: Analysis) -> Section:
    """What these numbers do not say: the analysis' notes and every caveat, counted."""
    counts: dict[str, int] = {}
    for _, section in analysis.sections():
        for one in section:
            for caveat in one.caveats:
                counts[caveat] = counts.get(caveat, 0) + 1
    listed = sorted(counts.items(), key=lambda pair: -pair[1])
    caveats = "".join(f"<li>{escape_html(words)} ({count:,} numbers)</li>" for words, count in listed)
    parts = [
        list_html(analysis.notes, "notes"),
        paragraph(
            "Scores are a judge's reading of what an agent wrote and did. Missing scores stay missing; unfit"
            " trajectories are counted, and every mean stands beside its bounds in the audit."
        ),
    ]
    if caveats:
        parts.append(fold(f"Caveats of single numbers ({len(listed):,})", f"<ul>{caveats}</ul>"))
    return make_section("limits", "Limits", parts)
