"""Estimates as tables: one layout for the page, for LaTeX and, by ``console``, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.records import Estimate, can_be_told
from holdfast.records.quantities import FINDINGS, Format, quantity_of
from holdfast.report.words.inert import escape_html, escape_latex
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    ONE_JUDGE,
    OTHER_JUDGES,
    Lineage,
    format_interval,
    format_number,
    format_percent,
    format_result,
    format_value,
    name_judge,
    name_kind,
    name_level,
    name_lineage,
    name_subject,
    name_value,
    split_basis,
)

FEW = 20  # scores; a mean of fewer is shown in grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: what is shown, what it sorts by, what it rests on, the colour number of a lineage.

    ``basis`` is told where a reader opens the cell: interval and counts, then all the rest. ``finding`` and ``lineage``
    are what the list of cases is narrowed to from there.
    """

    text: str
    sort: float | str = ""
    basis: tuple[str, str] | None = None
    series: int | None = None
    finding: str | None = None
    lineage: str | None = None
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column heads, rows of cells, and for each row what it can be filtered by: level, estimator, claim."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    tags: tuple[Mapping[str, str], ...]
    words: int  # how many leading columns hold words; the rest hold numbers


def make_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    words: int,
    tags: Iterable[Mapping[str, str]] | None = None,
) -> Table:
    """A table, without filters unless rows have ``tags``; a cell may be its text alone."""
    body = tuple(tuple(Cell(text=cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    filters = ({},) * len(body) if tags is None else tuple(tags)
    return Table(title=title, columns=tuple(heads), rows=body, tags=filters, words=words)


def lineage_cell(lineage: Lineage | None, colors: Mapping[Lineage, int]) -> Cell:
    """A lineage in its colour; rows sort by its number, which is its place in every list."""
    number = None if lineage is None else colors.get(lineage, 0)
    return Cell(text=name_lineage(lineage), sort=-1 if number is None else number, series=number)


def number_cell(estimate: Estimate | None, text: str | None = None, *, cases: bool = False) -> Cell:
    """A result with its interval, or another ``text`` in its place, and what it rests on.

    ``cases`` adds their number in brackets, for tables in which no two columns share theirs.
    """
    shown = format_result(estimate) if text is None else text
    if estimate is None:
        return Cell(text=shown)
    if cases and text is None and estimate.value is not None and "cases" in estimate.n and can_be_told(estimate):
        shown += f" ({estimate.n['cases']:,})"
    return Cell(text=shown, sort="" if estimate.value is None else estimate.value, basis=split_basis(estimate))


def is_rate(estimate: Estimate) -> bool:
    """Whether a value is a share of one, to be shown in per cent."""
    return quantity_of(estimate.kind).format is Format.SHARE


def format_estimate(estimate: Estimate) -> str:
    """``2.29 ± 0.08``, ``0.86 [0.78, 0.95]``, ``42.1 %`` or why there is no number."""
    if estimate.value is None or not can_be_told(estimate):
        return format_value(estimate)
    written = quantity_of(estimate.kind).format
    if written is Format.COUNT:
        return f"{estimate.value:,.0f}"
    if written is Format.ANSWER:
        return "yes" if estimate.value else "no"
    if written is Format.SHARE:
        return format_percent(estimate.value, 1)
    low, high = estimate.interval if isinstance(estimate.interval, tuple) else (-math.inf, math.inf)
    if math.isfinite(high - low) and written is not Format.RATIO:
        return f"{format_value(estimate)} ± {format_number((high - low) / 2)}"
    return f"{format_value(estimate)} {format_interval(estimate)}".strip()


def describe_flag(estimate: Estimate) -> str:
    """A sign that passed its gate, on one line: whose it is, what it is, why."""
    value = "" if estimate.kind == "degenerate" else f" {format_estimate(estimate)}"
    return f"{name_subject(estimate)}: {name_kind(estimate.kind)}{value}: {'; '.join(estimate.caveats)}"


def _value_cell(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell(text="")
    finding = estimate.kind if estimate.kind in FINDINGS and estimate.value else None
    linked = estimate.lineage is not None and (finding is not None or estimate.kind == "mean")
    counts, rest = split_basis(estimate)
    exact = f"{name_kind(estimate.kind)} {format_value(estimate, 3)} {format_interval(estimate, 3)}".strip()
    return Cell(
        text=format_estimate(estimate),
        sort="" if estimate.value is None else round(estimate.value, 6),
        basis=(f"{exact}; {counts}" if counts else exact, rest),
        finding=finding,
        lineage=name_lineage(estimate.lineage) if linked else None,
        faint=0 < estimate.n.get("count", FEW) < FEW and estimate.kind in ("mean_fit_only", "fit_count"),
    )


def _word_columns(
    estimates: Sequence[Estimate], colors: Mapping[Lineage, int], *, unit: bool = True
) -> dict[str, list[Cell]]:
    """The columns of words that tell rows apart, head → a cell for each estimate: those in which any says something."""
    columns: dict[str, list[Cell]] = {}

    def add(head: str, values: Sequence[Any], absent: str = "–") -> None:
        texts = [absent if value is None else name_value(value) for value in values]
        keys = (value if isinstance(value, int | float) else name_value(value or absent) for value in values)
        columns[head] = [Cell(text=text, sort=key) for text, key in zip(texts, keys, strict=True)]

    if any(one.base is not None for one in estimates):
        add("Base", [one.base for one in estimates], "all bases")
    if any(one.lineage is not None for one in estimates):
        columns["Lineage"] = [lineage_cell(one.lineage, colors) for one in estimates]
    for axis in dict.fromkeys(key for one in estimates for key in one.axes):
        add(axis.replace("_", " ").capitalize(), [one.axes.get(axis) for one in estimates])
    if any(one.judge is not None for one in estimates):
        add("Judge", [name_judge(one.judge or "all judges", one.labelled, one.reads_state) for one in estimates])
    for field in ("unit", "estimator", "claim") if unit else ("estimator", "claim"):
        values = [getattr(one, field) for one in estimates]
        if len(set(values)) > 1:
            add(field.capitalize(), values)
    return columns


def _tags(one: Estimate) -> dict[str, str]:
    # A base has no training to make a recipe claim of: its one claim stands beside either.
    claim = "" if one.lineage == () else one.claim
    return {"level": name_level(one), "estimator": one.estimator, "claim": claim, "unit": one.unit or ""}


def pivot(
    estimates: Iterable[Estimate],
    title: str,
    colors: Mapping[Lineage, int],
    *,
    unit_heads: bool = False,
    objective_heads: bool = True,
) -> Table:
    """Estimates with a row for each subject and a column for each quantity and objective.

    ``unit_heads`` puts units into the heads of columns instead of a column of their own; objectives stand in the
    heads unless ``objective_heads`` is false.
    """
    listed = list(estimates)
    words = _word_columns(listed, colors, unit=not unit_heads)
    if not objective_heads:
        words = {"Objective": [Cell(text=one.objective or "all") for one in listed], **words}
    alone = len({one.kind for one in listed}) == 1
    heads: dict[tuple[str | None, ...], str] = {}
    rows: dict[tuple[Cell, ...], dict[tuple[str | None, ...], Estimate]] = {}
    for one, subject in zip(listed, zip(*words.values(), strict=True) if words else [()] * len(listed), strict=True):
        unit, objective = one.unit if unit_heads else None, one.objective if objective_heads else None
        key = (one.kind, unit, objective)
        name = " ".join(filter(None, (name_kind(one.kind), unit)))
        plain = objective is not None and (alone or one.kind in ("mean", "score"))
        heads[key] = (objective or name) if plain else f"{name} {objective or ''}".strip()
        rows.setdefault(subject, {})[key] = one
    quantities = list(dict.fromkeys(key[:2] for key in heads))
    order = sorted(heads, key=lambda key: (quantities.index(key[:2]), key[2] != FIRST_OBJECTIVE))
    tags = [_tags(next(iter(row.values()))) for row in rows.values()]
    body = [(*subject, *(_value_cell(row.get(key)) for key in order)) for subject, row in rows.items()]
    return make_table(
        title, (*words, *(heads[key][:1].upper() + heads[key][1:] for key in order)), body, len(words), tags
    )


def list_estimates(estimates: Iterable[Estimate], title: str, colors: Mapping[Lineage, int]) -> Table:
    """Estimates with a row each: quantity, subject, value, interval ("none" where there is none), and its own cases."""
    listed = list(estimates)
    columns: dict[str, Sequence[Cell | str]] = {}
    if len({one.kind for one in listed}) > 1:
        columns["Quantity"] = [name_kind(one.kind) for one in listed]
    if any(one.objective is not None for one in listed):
        columns["Objective"] = [one.objective or "all" for one in listed]
    columns |= _word_columns(listed, colors)
    words = len(columns)
    columns["Value"] = [
        Cell(text=format_value(one), sort="" if one.value is None else one.value, basis=split_basis(one))
        for one in listed
    ]
    columns["95 % interval"] = [format_interval(one) or "none" for one in listed]
    if any("cases" in one.n for one in listed):
        counts = [one.n.get("cases") for one in listed]
        columns["Cases"] = [Cell(text="–" if count is None else f"{count:,}", sort=count or "") for count in counts]
    return make_table(title, tuple(columns), zip(*columns.values(), strict=True), words, map(_tags, listed))


def narrow(table: Table) -> Table:
    """The headline's rows of the most pooled level, without the columns of words that then say the same everywhere."""
    levels = sorted({tags.get("level", "") for tags in table.tags})
    first = next((level for level in levels if level.startswith("pooled")), None)
    if first is None and OTHER_JUDGES in levels:
        first = ONE_JUDGE  # of several judges the headline's is named
    kept = [number for number, tags in enumerate(table.tags) if first is None or tags["level"] == first]
    saying = [place for place in range(table.words) if len({table.rows[row][place].text for row in kept}) > 1]
    return take(table, kept, [*saying, *range(table.words, len(table.columns))])


def take(table: Table, rows: Sequence[int], columns: Sequence[int]) -> Table:
    """The table with some of its rows and columns, by their places."""
    return Table(
        title=table.title,
        columns=tuple(table.columns[place] for place in columns),
        rows=tuple(tuple(table.rows[row][place] for place in columns) for row in rows),
        tags=tuple(table.tags[row] for row in rows),
        words=sum(place < table.words for place in columns),
    )


def table_html(table: Table, *, identity: str, sorts: bool = True) -> str:
    """The table as HTML with sort keys; where it ``sorts``, every head is a button that the page's script wires."""

    def write_head(head: str) -> str:
        return f'<button type="button" class="sort">{escape_html(head)}</button>' if sorts else escape_html(head)

    heads = "".join(
        f'<th scope="col"{" class=num" if place >= table.words else ""}>{write_head(head)}</th>'
        for place, head in enumerate(table.columns)
    )
    body = ""
    for row, tags in zip(table.rows, table.tags, strict=True):
        cells = "".join(_cell_html(cell, place >= table.words) for place, cell in enumerate(row))
        body += f"<tr{_data(tags)}>{cells}</tr>"
    name = escape_html(table.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table id="{escape_html(identity)}" class="sortable" data-words="{table.words}"><caption>{name}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _data(values: Mapping[str, str | None]) -> str:
    return "".join(
        f' data-{escape_html(name)}="{escape_html(value)}"' for name, value in values.items() if value is not None
    )


def _cell_html(cell: Cell, number: bool) -> str:
    """A cell; where it rests on something, its text opens that, for keyboard, touch and print as for a mouse."""
    text = escape_html(cell.text)
    if cell.basis is not None:
        asked = _data({"finding": cell.finding, "lineage": cell.lineage})
        link = f' <a href="#cases"{asked}>its cases</a>' if asked else ""
        counts, rest = map(escape_html, cell.basis)
        text = f"<details class=basis><summary>{text}</summary><p>{counts} <span>{rest}</span>{link}</p></details>"
    key = "" if cell.sort in ("", cell.text) and cell.basis is None else f' data-v="{escape_html(cell.sort)}"'
    mark = "" if cell.series is None else f'<i class="dot b{cell.series % 8}"></i>'
    classes = ["num"] * number + ["faint"] * cell.faint
    name = f' class="{" ".join(classes)}"' if classes else ""
    return f"<td{name}{key}>{mark}{text}</td>"


def table_latex(table: Table) -> str:
    """The table as a LaTeX ``tabular`` (packages booktabs and textcomp), everything escaped."""
    layout = "l" * table.words + "r" * (len(table.columns) - table.words)
    texts = (table.columns, *([cell.text for cell in row] for row in table.rows))
    heads, *rows = (" & ".join(map(escape_latex, row)) + r" \\" for row in texts)
    lines = [f"% {escape_latex(table.title)}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule", heads, r"\midrule"]
    return "\n".join([*lines, *rows, r"\bottomrule", r"\end{tabular}", ""])
