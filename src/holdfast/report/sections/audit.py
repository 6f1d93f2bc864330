"""Whether training and episodes are sound: signs of degenerate training; what makes episodes unfit to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.records import Estimate
from holdfast.report.draw.rows import draw_audit, frequent_kinds
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_lines
from holdfast.report.words.labels import (
    find_controls,
    format_percent,
    most_pooled,
    name_kind,
    name_lineage,
    order_controls,
)
from holdfast.report.words.layout import COUNTED_ONLY, Section, Shown
from holdfast.report.words.tables import describe_flag, is_rate, pivot

TRAINING_SIGNS = ("tokens", "kl_parent", "drift_chosen", "drift_rejected", "distinct_share")
NOT_MEASURED = (
    "Training is not assessed for imported runs: neither its measures (KL, drift) nor the lengths of episodes came with"
    " them."
)
AUDIT_COLUMNS = 4


def fill_health(section: Section, shown: Shown) -> None:
    """Signs of degenerate training, with the flags first."""
    health = shown.analysis.health
    if not health:
        return
    flagged = [one for one in health if one.caveats]
    measured = any(one.kind in TRAINING_SIGNS for one in health)
    if measured and not flagged:
        section.say("No sign of degenerate training is flagged.")
    section.bullets(map(describe_flag, flagged), "flags")
    section.say(COUNTED_ONLY if measured else f"{NOT_MEASURED} {COUNTED_ONLY}")
    signs = [
        replace(one, estimator="", unit=None)
        for one in health
        if not one.kind.endswith("_vs_base") and (measured or one.kind != "degenerate")
    ]
    title = "Health of training" if measured else "Signs in the episodes"
    section.table("health", pivot(signs, title, shown.colors))


def health_text(shown: Shown, width: int) -> str | None:
    """The signs that passed a threshold, a line each."""
    flags = (f"! {describe_flag(one)}" for one in shown.analysis.health if one.caveats)
    lines = wrap_lines(flags, width, rest="      ")
    return "\n".join(["Flags", *lines]) if lines else None


def fill_audit(section: Section, shown: Shown) -> None:
    """Rates of what makes trajectories unfit, and every mean with and without them."""
    audit, colors = shown.analysis.audit, shown.colors
    if not audit:
        return
    section.say(COUNTED_ONLY)
    rates = [one for one in audit if one.objective is None]
    means = [one for one in audit if one.objective is not None]
    level = most_pooled(one for one in rates if is_rate(one))
    for unit in dict.fromkeys(one.unit for one in reversed(level)):
        drawn, scope = [one for one in level if one.unit == unit], unit or "all trajectories"
        title, caption = f"What the audit finds in {scope}.", "Share of trajectories with each finding, by lineage."
        name, fold_as = "audit", ""
        if section.figures:
            name, fold_as = f"audit-{len(section.figures) + 1}", f"The same over {scope}"
        unfit = [one for one in drawn if one.kind == "unfit" and one.value is not None]
        most = max(unfit, key=lambda one: one.value or 0.0, default=None)
        shows = f"Most are {name_kind('unfit')} after {name_lineage(most.lineage)}: " if most else ""
        shows += f"{format_percent(most.value, 1)}." if most else ""
        section.figure(name, (title, shows, caption), draw_audit(drawn, colors), fold_as=fold_as)
    if rates:
        section.table("audit-rates", pivot(rates, "Rates of the audit's findings", colors), identity="audit-table")
    if means:
        title = "Means with and without unfit trajectories, and bounds"
        section.table("audit-means", pivot(_with_fit_counts(means), title, colors, unit_heads=True))


def _with_fit_counts(means: Sequence[Estimate]) -> list[Estimate]:
    """The means with the number of fit scores after each mean of fit ones, which carries that number too."""

    def subject(one: Estimate) -> tuple[object, ...]:
        return one.base, one.lineage, str(one.axes), one.judge, one.labelled, one.objective, one.claim

    covered = (one for one in means if one.kind == "coverage" and one.unit == "fit")
    counts = {subject(one): one.n["count"] for one in covered if "count" in one.n}
    rows = []
    for one in means:
        rows.append(one)
        if one.kind == "mean_fit_only" and (count := counts.get(subject(one))) is not None:
            rows[-1] = replace(one, n={**one.n, "count": count})
            rows.append(replace(rows[-1], kind="fit_count", value=float(count), interval=None))
    return rows


def audit_text(shown: Shown, width: int) -> str | None:
    """The rates of the most frequent findings, over test evaluations where they are told; main lineages first."""
    rates = most_pooled(one for one in shown.analysis.audit if is_rate(one) and one.objective is None and one.value)
    if not rates:
        return None
    unit = list(dict.fromkeys(one.unit for one in rates))[-1]
    rates = [one for one in rates if one.unit == unit]
    kinds = frequent_kinds(rates, AUDIT_COLUMNS)
    rates = sorted((one for one in rates if one.kind in kinds), key=lambda one: kinds.index(one.kind))
    rates = order_controls(rates, find_controls(shown.analysis))
    table = pivot((replace(one, unit=None) for one in rates), "Audit", shown.colors)
    return f"Audit ({unit or 'all trajectories'})\n" + table_text(table, width)
