"""Persistence and differences between lineages: forest plots and a table, and the ratios for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.records import Analysis, Estimate
from holdfast.report.draw.figures import draw_forest
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    FLIPPED,
    drop_judge,
    explain_persistence,
    most_pooled,
    name_kind,
    name_lineage,
    name_subject,
    prefer_pooled,
    split_levels,
)
from holdfast.report.words.layout import Section, fold, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import (
    format_estimate,
    list_estimates,
    table_html,
)

Lineage = tuple[str, ...]
FOREST_ROWS = 60  # of one forest plot; the table beneath has every row


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


def persistence_text(analysis: Analysis, colors: Mapping[Lineage, int], width: int) -> str | None:
    """Persistence of the main lineages, why some is not identified, and all flipped controls in one line."""
    ratios = drop_judge(most_pooled(one for one in analysis.persistence if "persistence" in one.kind))
    if not ratios:
        return None
    main = [one for one in ratios if one.unit != FLIPPED]
    flipped = prefer_pooled([one for one in ratios if one.unit == FLIPPED])
    lines = ["Persistence"]
    if main:
        words = explain_persistence(main[0].objective, main[0].lineage)
        lines += wrap_line(words, width, rest="  ")
        lines.append(table_text(list_estimates(main, "Persistence", colors), width))
    missing = [f"{name_subject(one)}: {'; '.join(one.caveats)}" for one in main if one.value is None]
    lines += wrap_lines(missing, width)
    if flipped:
        names = ", ".join(dict.fromkeys(name_lineage(one.lineage) for one in flipped))
        found = ", ".join(dict.fromkeys(format_estimate(one) for one in flipped if one.value is not None))
        words = f"flipped controls {names}: " + (found or "not identified, as they should be")
        lines += wrap_line(words, width)
    return "\n".join(lines)
