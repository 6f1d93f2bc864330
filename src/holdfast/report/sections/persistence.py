"""Persistence and differences between lineages: forest plots and a table, and the ratios for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.records import Estimate
from holdfast.report.draw.rows import draw_forest
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    FLIPPED,
    drop_judge,
    explain_persistence,
    format_result,
    most_pooled,
    name_kind,
    name_lineage,
    name_subject,
    prefer_pooled,
    split_levels,
)
from holdfast.report.words.layout import Section, Shown, fold, paragraph
from holdfast.report.words.tables import format_estimate, list_estimates

FOREST_ROWS = 60  # of one forest plot; the table beneath has every row
MARKS = (
    "Circles are checkpoint claims, squares recipe claims. Where the gap's own interval holds zero the ratio is not"
    " identified and has no mark; an unbounded interval is dashed across the plot, and an arrow marks an interval that"
    " leaves it."
)
CONTROLS = (
    "Pairs with sides swapped at random have no gain to keep, and the same stage again has nothing to lose to another:"
    " their differences show what more training alone does."
)


def persistence_section(shown: Shown) -> Section | None:
    """Forest plots for each quantity and level; ratios first and open, the rest to be opened."""
    rows = shown.analysis.persistence
    if not rows:
        return None
    section = Section(identity="persistence", title="Persistence", short="Persistence")
    first = next((one for one in rows if one.kind == "persistence"), rows[0])
    section.say(explain_persistence(first.objective, first.lineage), MARKS)
    section.say(describe_chance(shown.analysis, "persistence"))
    _add_forests(section, [one for one in rows if not _is_control(one)])
    controls = Section(identity="controls", title="Controls", short="")
    _add_forests(controls, [one for one in rows if _is_control(one)], prefix="controls-")
    if controls.parts:
        section.parts.append(fold("Controls", paragraph(CONTROLS) + controls.html))
        section.figures |= controls.figures
    table = list_estimates(rows, "Persistence and differences in score points", shown.colors)
    section.table("persistence", table, fold_as="All numbers")
    return section


def _is_control(one: Estimate) -> bool:
    return one.unit == FLIPPED or one.kind == "erosion_control"


def _add_forests(section: Section, estimates: Sequence[Estimate], prefix: str = "") -> None:
    """A forest plot for each quantity and level; the first is open, unless all are controls."""
    for kind in sorted(dict.fromkeys(one.kind for one in estimates), key=lambda kind: "persistence" not in kind):
        for level, found in split_levels(one for one in estimates if one.kind == kind).items():
            name = f"{prefix}{kind}-{level}".replace(" ", "-")
            rows = sorted(found, key=_forest_order)[:FOREST_ROWS]
            title = f"{name_kind(kind).capitalize()}, {level}."
            left = len(found) - len(rows)
            caption = "With 95 % intervals." + (f" {left} more rows are in the table." if left else "")
            section.figure(
                name,
                (title, _conclude(rows), caption),
                draw_forest(rows),
                draw_forest(rows, narrow=True),
                fold_as=title if prefix or section.figures else "",
            )


def _conclude(rows: Sequence[Estimate]) -> str:
    """The first number of each lineage in words."""
    first: dict[tuple[object, ...], Estimate] = {}
    for one in rows:
        first.setdefault((one.objective, one.lineage), one)
    told = [
        f"{one.objective or 'all'} after {name_lineage(one.lineage)} {format_result(one)}" for one in first.values()
    ]
    return f"{'; '.join(told[:4])}."


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


def persistence_text(shown: Shown, width: int) -> str | None:
    """Persistence of the main lineages, why some is not identified, and all flipped controls in one line."""
    ratios = drop_judge(most_pooled(one for one in shown.analysis.persistence if "persistence" in one.kind))
    if not ratios:
        return None
    main = [one for one in ratios if one.unit != FLIPPED]
    flipped = prefer_pooled([one for one in ratios if one.unit == FLIPPED])
    lines = ["Persistence"]
    if main:
        words = explain_persistence(main[0].objective, main[0].lineage)
        lines += wrap_line(words, width, rest="  ")
        lines.append(table_text(list_estimates(main, "Persistence", shown.colors), width))
    missing = [f"{name_subject(one)}: {'; '.join(one.caveats)}" for one in main if one.value is None]
    lines += wrap_lines(missing, width)
    if flipped:
        names = ", ".join(dict.fromkeys(name_lineage(one.lineage) for one in flipped))
        found = ", ".join(dict.fromkeys(format_estimate(one) for one in flipped if one.value is not None))
        words = f"flipped controls {names}: " + (found or "not identified, as they should be")
        lines += wrap_line(words, width)
    return "\n".join(lines)
