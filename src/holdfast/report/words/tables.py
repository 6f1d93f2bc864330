"""Estimates as tables: one layout for the page, for LaTeX and, by ``console``, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.records import Estimate, can_be_told
from holdfast.records.quantities import FINDINGS, Format, quantity_of
from holdfast.report.words.inert import escape_html, escape_latex
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    ONE_JUDGE,
    OTHER_JUDGES,
    describe_basis,
    format_interval,
    format_number,
    format_percent,
    format_result,
    format_value,
    half_width,
    name_judge,
    name_kind,
    name_level,
    name_lineage,
    name_subject,
    name_value,
)

Lineage = tuple[str, ...]
FEW = 20  # scores; a mean of fewer is shown in grey
NO_INTERVAL = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: what is shown, what it sorts by, what hovering says, the colour number of a lineage."""

    text: str
    sort: float | str = ""
    hover: str | None = None
    series: int | None = None
    finding: str | None = None  # the audit's finding and the lineage that the list of cases is narrowed to by a click
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


def make_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], words: int) -> Table:
    """A table without filters."""
    body = tuple(map(tuple, rows))
    return Table(title=title, columns=tuple(heads), rows=body, tags=({},) * len(body), words=words)


def number_cell(estimate: Estimate | None, text: str | None = None) -> Cell:
    """A result with its interval, or another ``text`` in its place; what it rests on is its hover text."""
    if estimate is None:
        return Cell(text=format_result(None) if text is None else text)
    shown = format_result(estimate) if text is None else text
    return Cell(text=shown, sort="" if estimate.value is None else estimate.value, hover=describe_basis(estimate))


def is_rate(estimate: Estimate) -> bool:
    """Whether a value is a share of one, to be shown in per cent."""
    return quantity_of(estimate.kind).format is Format.SHARE


def format_estimate(estimate: Estimate) -> str:
    """``2.29 ± 0.08``, ``0.86 [0.78, 0.95]``, ``42.1 %`` or why there is no number."""
    if estimate.value is None or not can_be_told(estimate):
        return format_value(estimate)
    written, half = quantity_of(estimate.kind).format, half_width(estimate)
    if written is Format.COUNT:
        return f"{estimate.value:,.0f}"
    if written is Format.ANSWER:
        return "yes" if estimate.value else "no"
    if written is Format.SHARE:
        return format_percent(estimate.value, 1)
    if half is not None and written is not Format.RATIO:
        return f"{format_value(estimate)} ± {format_number(half)}"
    return f"{format_value(estimate)} {format_interval(estimate)}".strip()


def describe_flag(estimate: Estimate) -> str:
    """A sign that passed its gate, on one line: whose it is, what it is, why."""
    value = "" if estimate.kind == "degenerate" else f" {format_estimate(estimate)}"
    return f"{name_subject(estimate)}: {name_kind(estimate.kind)}{value}: {'; '.join(estimate.caveats)}"


def _value_cell(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell(text="", sort="")
    interval = format_interval(estimate, 3)
    hover = f"{name_kind(estimate.kind)} {format_value(estimate, 3)} {interval}\n{describe_basis(estimate)}"
    finding = estimate.kind if estimate.kind in FINDINGS and estimate.value else None
    linked = finding is not None or (estimate.kind == "mean" and estimate.lineage is not None)
    return Cell(
        text=format_estimate(estimate),
        sort="" if estimate.value is None else round(estimate.value, 6),
        hover=hover,
        finding=finding,
        lineage=name_lineage(estimate.lineage) if linked and estimate.lineage is not None else None,
        faint=0 < estimate.n.get("count", FEW) < FEW and estimate.kind in ("mean_fit_only", "fit_count"),
    )


def _subject_columns(
    estimates: Sequence[Estimate], colors: Mapping[Lineage, int], *, unit: bool = True
) -> dict[str, Callable[[Estimate], Cell]]:
    """The word columns that tell rows apart: those in which any estimate says something."""

    def word(read: Callable[[Estimate], Any], pooled: str = "all") -> Callable[[Estimate], Cell]:
        def cell(one: Estimate) -> Cell:
            value = read(one)
            text = pooled if value is None else name_value(value)
            return Cell(text=text, sort=value if isinstance(value, int | float) else text)

        return cell

    def lineage(one: Estimate) -> Cell:
        number = None if one.lineage is None else colors.get(one.lineage, 0)
        return Cell(text=name_lineage(one.lineage), sort=-1 if number is None else number, series=number)

    columns: dict[str, Callable[[Estimate], Cell]] = {}
    if any(one.base is not None for one in estimates):
        columns["Base"] = word(lambda one: one.base, "all bases")
    if any(one.lineage is not None for one in estimates):
        columns["Lineage"] = lineage
    for axis in dict.fromkeys(key for one in estimates for key in one.axes):
        columns[axis.replace("_", " ").capitalize()] = word(lambda one, key=axis: one.axes.get(key), "–")  # type: ignore[misc]
    if any(one.judge is not None for one in estimates):
        columns["Judge"] = word(lambda one: name_judge(one.judge or "all judges", one.labelled, one.reads_state))
    if unit and len({one.unit for one in estimates}) > 1:
        columns["Unit"] = word(lambda one: one.unit, "–")
    for head, field in (("Estimator", "estimator"), ("Claim", "claim")):
        if len({getattr(one, field) for one in estimates}) > 1:
            columns[head] = word(lambda one, key=field: getattr(one, key))  # type: ignore[misc]
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
    found = list(estimates)
    words = _subject_columns(found, colors, unit=not unit_heads)
    if not objective_heads:
        words = {"Objective": lambda one: Cell(text=one.objective or "all"), **words}
    kinds = {one.kind for one in found}
    heads: dict[tuple[str | None, ...], str] = {}
    rows: dict[tuple[Cell, ...], dict[tuple[str | None, ...], Estimate]] = {}
    for one in found:
        unit = one.unit if unit_heads else None
        objective = one.objective if objective_heads else None
        key = (one.kind, objective, unit)
        name = " ".join(part for part in (name_kind(one.kind), unit) if part)
        plain = objective is not None and (len(kinds) == 1 or one.kind in ("mean", "score"))
        heads[key] = (objective or name) if plain else f"{name} {objective or ''}".strip()
        rows.setdefault(tuple(make(one) for make in words.values()), {})[key] = one
    kinds_in_order = list(dict.fromkeys((kind, unit) for kind, _, unit in heads))
    order = sorted(heads, key=lambda key: (kinds_in_order.index((key[0], key[2])), key[1] != FIRST_OBJECTIVE))
    tags = [_tags(next(iter(row.values()))) for row in rows.values()]
    body = [(*subject, *(_value_cell(row.get(key)) for key in order)) for subject, row in rows.items()]
    heading = (*words, *(head[:1].upper() + head[1:] for head in map(heads.__getitem__, order)))
    return Table(title=title, columns=heading, rows=tuple(body), tags=tuple(tags), words=len(words))


def list_estimates(estimates: Iterable[Estimate], title: str, colors: Mapping[Lineage, int]) -> Table:
    """Estimates with a row each: quantity, subject, value, interval ("none" where there is none), and its own cases."""
    found = list(estimates)
    words = _subject_columns(found, colors)
    objective, kinds = any(one.objective is not None for one in found), len({one.kind for one in found}) > 1
    of_cases = any("cases" in one.n for one in found)
    rows = []
    for one in found:
        subject = [Cell(text=name_kind(one.kind), sort=name_kind(one.kind))] if kinds else []
        subject += [Cell(text=one.objective or "all", sort=one.objective or "")] if objective else []
        subject += [make(one) for make in words.values()]
        value = Cell(text=format_value(one), sort="" if one.value is None else one.value, hover=describe_basis(one))
        cases = one.n.get("cases")
        counted = [Cell(text="–" if cases is None else f"{cases:,}", sort=cases or "")] if of_cases else []
        rows.append((*subject, value, Cell(text=format_interval(one) or NO_INTERVAL), *counted))
    heading = (
        *(("Quantity",) if kinds else ()),
        *(("Objective",) if objective else ()),
        *words,
        "Value",
        "95 % interval",
        *(("Cases",) if of_cases else ()),
    )
    return Table(
        title=title,
        columns=heading,
        rows=tuple(rows),
        tags=tuple(_tags(one) for one in found),
        words=len(heading) - 2 - of_cases,
    )


def narrow(table: Table) -> Table:
    """The headline's rows of the most pooled level, without the columns of words that then say the same everywhere."""
    levels = {tags.get("level", "") for tags in table.tags}
    first = next((level for level in sorted(levels) if level.startswith("pooled")), None)
    if first is None and OTHER_JUDGES in levels:
        first = ONE_JUDGE  # of several judges the headline's is named
    kept = [place for place, tags in enumerate(table.tags) if first is None or tags["level"] == first]
    rows = [table.rows[place] for place in kept]
    columns = [
        column
        for column in range(len(table.columns))
        if column >= table.words or len({row[column].text for row in rows}) > 1
    ]
    return Table(
        title=table.title,
        columns=tuple(table.columns[column] for column in columns),
        rows=tuple(tuple(row[column] for column in columns) for row in rows),
        tags=tuple(table.tags[place] for place in kept),
        words=sum(column < table.words for column in columns),
    )


def table_html(table: Table, *, identity: str) -> str:
    """The table as HTML with sort keys; every head is a button that the page's script wires."""
    heads = "".join(
        f'<th scope="col"{" class=num" if place >= table.words else ""}>'
        f'<button type="button" class="sort">{escape_html(head)}</button></th>'
        for place, head in enumerate(table.columns)
    )
    body = []
    for row, tags in zip(table.rows, table.tags, strict=True):
        cells = "".join(_cell_html(cell, place >= table.words) for place, cell in enumerate(row))
        named = "".join(f' data-{escape_html(name)}="{escape_html(value)}"' for name, value in tags.items())
        body.append(f"<tr{named}>{cells}</tr>")
    name = escape_html(table.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table id="{escape_html(identity)}" class="sortable" data-words="{table.words}"><caption>{name}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell_html(cell: Cell, number: bool) -> str:
    hover = "" if cell.hover is None else f' title="{escape_html(cell.hover)}"'
    key = "" if cell.sort in ("", cell.text) else f' data-v="{escape_html(cell.sort)}"'
    mark = "" if cell.series is None else f'<i class="dot b{cell.series % 8}"></i>'
    classes = " ".join(word for word, there in (("num", number), ("faint", cell.faint)) if there)
    name = f' class="{classes}"' if classes else ""
    text = escape_html(cell.text)
    if cell.finding or cell.lineage:
        asked = "".join(
            f' data-{what}="{escape_html(value)}"'
            for what, value in (("finding", cell.finding), ("lineage", cell.lineage))
            if value
        )
        text = f'<a href="#cases"{asked}>{text}</a>'
    return f"<td{name}{key}{hover}>{mark}{text}</td>"


def table_latex(table: Table) -> str:
    """The table as a LaTeX ``tabular`` (packages booktabs and textcomp), everything escaped."""
    layout = "l" * table.words + "r" * (len(table.columns) - table.words)
    lines = [f"% {escape_latex(table.title)}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    lines.append(" & ".join(escape_latex(head) for head in table.columns) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(escape_latex(cell.text) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
