"""The sections of the report's page, each as HTML; all words from data go through ``escape_html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Checkpoint, Estimate, Frontier, Verdict
from holdfast.report.draw.charts import AXIS_WORDS, draw_audit, draw_dose, find_dose_axes
from holdfast.report.draw.figures import draw_forest, draw_frontier, pair_lines
from holdfast.report.draw.svg import SHAPES, Canvas, draw_mark
from holdfast.report.sections.approval.examples import Users
from holdfast.report.sections.approval.section import approval_section
from holdfast.report.sections.calibration import calibration_section
from holdfast.report.sections.chance import chance_paragraph, chance_section
from holdfast.report.sections.gate import gate_section
from holdfast.report.sections.pressure import pressure_section, shift_section
from holdfast.report.sections.repair import repair_section
from holdfast.report.sections.summary import needs_alert
from holdfast.report.sections.taxonomy import taxonomy_section
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    FLIPPED,
    explain_persistence,
    main_rows,
    most_pooled,
    name_kind,
    name_lineage,
    names_html,
    split_levels,
)
from holdfast.report.words.layout import Section, fold, list_html, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import describe_flag, is_rate, list_estimates, pivot, table_html

Lineage = tuple[str, ...]
DOSE_WORDS = (
    "The longer the second stage trains, the more of the first it may undo: a dose of 2 is twice as many steps of the"
    " last stage as the first dose, and KL says how far that training moved the agent."
)
DOSE_KINDS = ("steps", "kl_parent", "kl_base")  # what a dose was, beside its multiple
TRAINING_SIGNS = ("tokens", "kl_parent", "drift_chosen", "drift_rejected", "distinct_share")
BARE = "These numbers have no interval: they count the episodes at hand, and that two of them differ is no finding."
FOREST_ROWS = 60  # of one forest plot; the table beneath has every row


def results_section(
    analysis: Analysis, colors: Mapping[Lineage, int], checkpoints: Sequence[Checkpoint] = ()
) -> Section | None:
    """Means with intervals per base × lineage × axes, and the changes from the base."""
    if not analysis.scores:
        return None
    means = [one for one in analysis.scores if one.kind == "mean"]
    others = [one for one in analysis.scores if one.kind != "mean"]
    table = pivot(means, "Mean scores (0–3) with the half-width of the 95 % interval", colors)
    parts = [
        names_html(checkpoints),
        paragraph(
            "A checkpoint claim speaks of these weights: cases are random. A recipe claim speaks of this kind of"
            " training: seeds are random too. Point at a number for its interval, counts and caveats."
        ),
        table_html(table, identity="results-table"),
    ]
    tables = {"results": table}
    if others:
        tables["spread"] = pivot(others, "Spread of scores", colors)
        parts.append(fold("Spread", table_html(tables["spread"], identity="spread-table")))
    if analysis.deltas:
        tables["deltas"] = pivot(analysis.deltas, "Change from the base, in score points", colors)
        parts.append(fold("Change from the base", table_html(tables["deltas"], identity="deltas-table")))
        parts.append(chance_paragraph(analysis, "deltas"))
    return make_section("results", "Results", parts, tables=tables)


def _legend(frontier: Frontier, colors: Mapping[Lineage, int]) -> str:
    lineages = sorted({point.lineage for point in frontier.points}, key=lambda one: colors.get(one, 0))
    items = [
        f'<li><i class="dot b{colors.get(lineage, 0) % 8}"></i>{escape_html(name_lineage(lineage))}</li>'
        for lineage in lineages
    ]
    bases = list(dict.fromkeys(point.base for point in frontier.points if point.base))
    if len(frontier.points) > len(lineages):
        for number, base in enumerate(bases):
            canvas = Canvas(width=14, height=14, title=base)
            draw_mark(canvas, SHAPES[number % len(SHAPES)], (7, 7), 4.5, 0)
            items.append(f"<li>{canvas.render()}{escape_html(base)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _frontier_figure(frontier: Frontier, name: str, colors: Mapping[Lineage, int]) -> tuple[str, str]:
    svg = draw_frontier(frontier, colors)
    several = len(frontier.points) > len({point.lineage for point in frontier.points})
    marks = "Large marks are means of a lineage, small ones its points" if several else "A mark is a lineage"
    dashes = ("solid", "dashed", "dotted", "dash-dotted")
    lines = "; ".join(f"{dashes[i % 4]}: {words}" for i, (words, _, _) in enumerate(pair_lines(frontier)))
    regions = "; ellipses are 95 % regions" if any(point.covariance for point in frontier.points) else ""
    regions += f" ({' and '.join(frontier.resampled)} are random)" if regions and frontier.resampled else ""
    caption = f"Unit: {frontier.unit}. {marks}{regions}; arrows go from base through the stages."
    caption += f" Lines — {lines}." if lines else " No line is identified."
    return _legend(frontier, colors) + wrap_figure(svg, name, caption), svg


def frontier_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """The plane of two objectives: lineages, arrows, ellipses, lines, and the numbers that belong to them."""
    if not analysis.frontiers and not analysis.frontier:
        return None
    parts, figures, tables = [], {}, {}
    for number, frontier in enumerate(analysis.frontiers):
        name = "frontier" if number == 0 else f"frontier-{number + 1}"
        html, figures[name] = _frontier_figure(frontier, name, colors)
        bases = {point.base for point in frontier.points}
        base = f", {bases.pop()}" if len(bases) == 1 and None not in bases else ""
        against = f"{frontier.y_objective} against {frontier.x_objective}, {frontier.unit}{base}"
        parts.append(html if number == 0 else fold(against, html))
    if analysis.frontier:
        tables["frontier"] = list_estimates(analysis.frontier, "Lines, fits and tests of the frontier", colors)
        parts.append(fold("Lines, fits and tests", table_html(tables["frontier"], identity="frontier-table")))
        parts.append(chance_paragraph(analysis, "frontier"))
    return make_section("frontier", "Frontier", parts, figures, tables)


def persistence_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Forest plots for each quantity and level; ratios first and open, the rest to be opened."""
    if not analysis.persistence:
        return None
    first = next((one for one in analysis.persistence if one.kind == "persistence"), analysis.persistence[0])
    parts = [
        paragraph(explain_persistence(first.objective, first.lineage)),
        paragraph(
            "Circles are checkpoint claims, squares recipe claims. Where the gap's own interval holds zero"
            " the ratio is not identified and has no mark; an unbounded interval is dashed across the plot, and an"
            " arrow marks an interval that leaves it."
        ),
    ]
    parts.append(chance_paragraph(analysis, "persistence"))
    figures: dict[str, str] = {}
    main = [one for one in analysis.persistence if not _controls(one)]
    parts += _forests(main, figures, first_open=True)
    controls = _forests([one for one in analysis.persistence if _controls(one)], figures, prefix="controls-")
    if controls:
        words = (
            "Pairs with sides swapped at random have no gain to keep, and the same stage again has nothing to lose to"
            " another: their differences show what more training alone does."
        )
        parts.append(fold("Controls", paragraph(words) + "".join(controls)))
    table = list_estimates(analysis.persistence, "Persistence and differences in score points", colors)
    parts.append(fold("All numbers", table_html(table, identity="persistence-table")))
    return make_section("persistence", "Persistence", parts, figures, {"persistence": table})


def _controls(one: Estimate) -> bool:
    return one.unit == FLIPPED or one.kind == "erosion_control"


def _forests(
    estimates: Sequence[Estimate], figures: dict[str, str], *, prefix: str = "", first_open: bool = False
) -> list[str]:
    """A forest plot for each quantity and level as HTML, also put into ``figures``; all but the first folded."""
    parts: list[str] = []
    kinds = sorted(dict.fromkeys(one.kind for one in estimates), key=lambda kind: "persistence" not in kind)
    for kind in kinds:
        levels = split_levels(one for one in estimates if one.kind == kind)
        folded: list[str] = []
        for number, (level, found) in enumerate(levels.items()):
            name = f"{prefix}{kind}-{level}".replace(" ", "-")
            rows = sorted(found, key=_forest_order)[:FOREST_ROWS]
            figures[name] = draw_forest(rows)
            caption = f"{name_kind(kind).capitalize()}, {level}, with 95 % intervals."
            if len(found) > FOREST_ROWS:
                caption += f" {len(found) - FOREST_ROWS} more rows are in the table."
            html = wrap_figure(figures[name], name, caption, narrow=draw_forest(rows, width=350, narrow=True))
            (parts if first_open and kind == kinds[0] and number == 0 else folded).append(html)
        if folded:
            more = ", ".join(list(levels)[1:] if first_open and kind == kinds[0] else levels)
            parts.append(fold(f"{name_kind(kind).capitalize()} {more}", "".join(folded)))
    return parts


def _forest_order(one: Estimate) -> tuple[object, ...]:
    return (
        one.objective != FIRST_OBJECTIVE,
        str(one.objective),
        len(one.axes),
        str(one.base),
        str(one.judge),
        str(sorted(one.axes.items())),
        one.estimator != "pooled",
        one.claim,
    )


def dose_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Values against the dose of the last stage, in every unit of dose that the estimates have."""
    if not analysis.dose:
        return None
    parts, figures = [paragraph(DOSE_WORDS)], {}
    level = main_rows(analysis.dose)
    curves = _with_doses(level)
    for kind in sorted(dict.fromkeys(one.kind for one in level), key=lambda kind: "persistence" not in kind):
        for axis in find_dose_axes(curves)[: 1 + len(DOSE_KINDS)]:
            svg = draw_dose([one for one in curves if one.kind == kind], axis)
            if svg is not None:
                name = f"dose-{kind}-{axis}"
                caption = f"{name_kind(kind).capitalize()} against {AXIS_WORDS.get(axis, axis.replace('_', ' '))}."
                figures[name] = svg
                html = wrap_figure(svg, name, caption)
                shown = "persistence" in kind and axis in ("dose", "kl_parent")
                parts.append(html if shown else fold(caption, html))
    parts.append(chance_paragraph(analysis, "dose"))
    table = list_estimates(analysis.dose, "Values by dose of the last stage", colors)
    parts.append(fold("All numbers", table_html(table, identity="dose-table")))
    return make_section("dose", "Dose", parts, figures, {"dose": table})


def _with_doses(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Estimates of objectives with the steps and the measured KL of the same checkpoints beside their dose."""
    measured = {
        (one.base, one.lineage, str(sorted(one.axes.items())), one.kind): one.value
        for one in estimates
        if one.kind in DOSE_KINDS and one.value is not None
    }
    found = []
    for one in estimates:
        if one.objective is None:
            continue
        key = (one.base, one.lineage, str(sorted(one.axes.items())))
        extra = {kind: measured[*key, kind] for kind in DOSE_KINDS if (*key, kind) in measured}
        found.append(replace(one, axes={**one.axes, **extra}))
    return found


def health_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Signs of degenerate training, with the flags first."""
    if not analysis.health:
        return None
    flagged = [one for one in analysis.health if one.caveats]
    measured = any(one.kind in TRAINING_SIGNS for one in analysis.health)
    first = list_html(map(describe_flag, flagged), "flags")
    if not measured:
        first += paragraph(
            "Training is not assessed for imported runs: neither its measures (KL, drift) nor the lengths of episodes"
            " came with them."
        )
    elif not flagged:
        first = paragraph("No sign of degenerate training is flagged.")
    hidden = () if measured else ("degenerate",)
    signs = [
        replace(one, estimator="", unit=None)
        for one in analysis.health
        if not one.kind.endswith("_vs_base") and one.kind not in hidden
    ]
    table = pivot(signs, "Health of training" if measured else "Signs in the episodes", colors)
    html = paragraph(BARE) + table_html(table, identity="health-table")
    return make_section("health", "Health of training", [first, html], tables={"health": table})


def audit_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Rates of what makes trajectories unfit, and every mean with and without them."""
    if not analysis.audit:
        return None
    rates = [one for one in analysis.audit if one.objective is None]
    means = [one for one in analysis.audit if one.objective is not None]
    parts, figures, tables = [paragraph(BARE)], {}, {}
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


def agreement_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """How far judges agree."""
    if all(one.kind in ("judge_mean", "objective_correlation") for one in analysis.agreement):
        return None  # one judge has nobody to agree with
    table = pivot(analysis.agreement, "Agreement between judges", colors, objective_heads=False)
    html = table_html(table, identity="agreement-table")
    return make_section("agreement", "Judge agreement", [html], tables={"agreement": table})


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


def make_sections(
    analysis: Analysis,
    colors: Mapping[Lineage, int],
    checkpoints: Sequence[Checkpoint] = (),
    verdicts: Sequence[Verdict] = (),
    users: Users | None = None,
) -> list[Section]:
    """Every section that the analysis fills, in reading order; the list of cases is not among them."""
    audit = audit_section(analysis, colors)
    first = needs_alert(analysis)
    made = [
        audit if first else None,
        results_section(analysis, colors, checkpoints),
        gate_section(verdicts),
        approval_section(analysis, colors, checkpoints, users),
        frontier_section(analysis, colors),
        repair_section(analysis, colors),
        persistence_section(analysis, colors),
        dose_section(analysis, colors),
        taxonomy_section(analysis),
        pressure_section(analysis, colors),
        shift_section(analysis, colors),
        health_section(analysis, colors),
        None if first else audit,
        agreement_section(analysis, colors),
        calibration_section(analysis, colors),
        chance_section(analysis),
    ]
    return [section for section in made if section is not None]
