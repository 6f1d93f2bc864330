"""What makes episodes unfit to be judged: its rates, and every mean with and without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Estimate
from holdfast.report.draw.charts import draw_audit
from holdfast.report.words.console import table_text
from holdfast.report.words.labels import (
    find_controls,
    most_pooled,
    order_controls,
)
from holdfast.report.words.layout import COUNTED_ONLY, Section, fold, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import (
    is_rate,
    pivot,
    table_html,
)

Lineage = tuple[str, ...]
AUDIT_COLUMNS = 4


def audit_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Rates of what makes trajectories unfit, and every mean with and without them."""
    if not analysis.audit:
        return None
    rates = [one for one in analysis.audit if one.objective is None]
    means = [one for one in analysis.audit if one.objective is not None]
    parts, figures, tables = [paragraph(COUNTED_ONLY)], {}, {}
    shares = [one for one in rates if is_rate(one)]
    level = most_pooled(shares)
    for number, unit in enumerate(dict.fromkeys(one.unit for one in reversed(level))):
        svg = draw_audit([one for one in level if one.unit == unit], colors)
        if svg is not None:
            name = "audit" if number == 0 else f"audit-{number + 1}"
            figures[name] = svg
            scope = unit or "all trajectories"
            html = wrap_figure(svg, name, f"Share of trajectories with each finding, {scope}.")
            parts.append(html if number == 0 else fold(f"The same over {scope}", html))
    if rates:
        tables["audit-rates"] = pivot(rates, "Rates of the audit's findings", colors)
        parts.append(table_html(tables["audit-rates"], identity="audit-table"))
    if means:
        tables["audit-means"] = pivot(
            _with_fit_counts(means), "Means with and without unfit trajectories, and bounds", colors, unit_heads=True
        )
        parts.append(table_html(tables["audit-means"], identity="audit-means-table"))
    return make_section("audit", "Audit", parts, figures, tables)


def _with_fit_counts(means: Sequence[Estimate]) -> list[Estimate]:
    """The means with the number of fit scores after each mean of fit ones, which carries that number too."""

    def subject(one: Estimate) -> tuple[object, ...]:
        return one.base, one.lineage, str(one.axes), one.judge, one.labelled, one.objective, one.claim

    counts = {
        subject(one): one.n["count"]
        for one in means
        if one.kind == "coverage" and one.unit == "fit" and "count" in one.n
    }
    found = []
    for one in means:
        if one.kind != "mean_fit_only" or subject(one) not in counts:
            found.append(one)
            continue
        count = counts[subject(one)]
        known = replace(one, n={**one.n, "count": count})
        found += [known, replace(known, kind="fit_count", value=float(count), interval=None)]
    return found


def _audit_rates(analysis: Analysis) -> list[Estimate]:
    """The rates of the most frequent findings at the most pooled level, over test evaluations where they are told."""
    rates = most_pooled(one for one in analysis.audit if is_rate(one) and one.objective is None and one.value)
    units = list(dict.fromkeys(one.unit for one in rates))
    rates = [one for one in rates if one.unit == units[-1]]
    peaks: dict[str, float] = {}
    for one in rates:
        peaks[one.kind] = max(peaks.get(one.kind, 0.0), one.value or 0.0)
    first = ("unfit", "no_call_and_invented")
    kinds = sorted(peaks, key=lambda kind: (first.index(kind) if kind in first else 2, -peaks[kind]))[:AUDIT_COLUMNS]
    return sorted((one for one in rates if one.kind in kinds), key=lambda one: kinds.index(one.kind))


def audit_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """The rates of the most frequent findings, main lineages first."""
    rates = order_controls(_audit_rates(analysis), find_controls(analysis))
    if not rates:
        return None
    table = pivot((replace(one, unit=None) for one in rates), "Audit", colors)
    return f"Audit ({rates[0].unit or 'all trajectories'})\n" + table_text(table, width)
