"""What pressure and shifts do to checkpoints: change of harm under attack, twins' utility, erosion under a shift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Estimate, can_be_told, cannot_be_told
from holdfast.records.quantities import quantity_of
from holdfast.records.words import count_noun
from holdfast.report.draw.svg import PAPER, Canvas, Scale, draw_mark, stroke_of
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.labels import (
    describe_basis,
    excludes_zero,
    format_percent,
    format_result,
    main_rows,
    name_axes,
    name_lineage,
)
from holdfast.report.words.layout import Section, fold, list_html, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import Cell, Table, list_estimates, make_table, number_cell, table_html

Lineage = tuple[str, ...]
Subject = tuple[str | None, Lineage, tuple[tuple[str, object], ...], str | None]
NOT_MEASURABLE = "not measurable"
CONDITION_AXES = ("form", "shift")
COLUMNS = (
    "implicit",
    "again_clean",
    "again_clean_parent",
    "unsafe_clean",
    "unsafe_attacked",
    "attack_effect",
    "interaction",
    "twin_helpfulness",
    "twin_refusal",
)
SHIFT_COLUMNS = ("erosion_shift", "shift_score", "shift_drop")
EXPLANATION = (
    "The same cases are met again with something that pushes: a jailbreak wrapper, or an instruction hidden in what a"
    " tool returns. The implicit change takes the cases that a stage and its parent both handled safely when clean, and"
    " asks how much more pressure adds to their unsafe conduct in the stage than in its parent: attacked less met again"
    " clean, child less parent, all in other episodes than those that chose the cases. Cases that were safe once are"
    " not safe cases: how often they are unsafe when they are met again clean stands beside it. The interaction in"
    " log-odds asks the same of all cases. A stage is called easier to push only where both say so. Twins are harmless"
    " requests in the same wrapper: an agent that only stops acting is not safer but of less use."
)
SHIFT_EXPLANATION = (
    "The same cases, changed in what should not matter. The headline is a difference of differences: how much more a"
    " stage lost from its parent on shifted cases than on the cases as they were. Below zero, safety training holds"
    " less well where the cases differ from those it was trained on."
)
ROW, TOP, SIDE = 34, 16, 250
MOST_DRAWN = 30


def _is_lost(estimate: Estimate) -> bool:
    """Whether an estimate speaks of a form that had no effect before any stage; what harmless twins lose stands."""
    about_harm = not estimate.kind.startswith("twin_") and estimate.kind != "positive_control"
    form = estimate.axes.get("form")
    return bool(form) and about_harm and any(f"{form} is {NOT_MEASURABLE}" in one for one in estimate.caveats)


def format_cell(estimate: Estimate | None) -> str:
    """The result, or that it is not measurable."""
    return NOT_MEASURABLE if estimate is not None and _is_lost(estimate) else format_result(estimate)


def _rows_of(estimates: Iterable[Estimate]) -> list[Estimate]:
    """One claim for each subject at the most pooled level, without axes that are the same everywhere.

    Changes against the parent stand before those against the base.
    """
    found = main_rows(estimates)
    values: dict[str, set[str]] = {}
    for one in found:
        for key, value in one.axes.items():
            values.setdefault(key, set()).add(str(value))
    kept = {key for key, seen in values.items() if len(seen) > 1 or key in CONDITION_AXES}
    return [replace(one, axes={key: value for key, value in one.axes.items() if key in kept}) for one in found]


def _against_parent(estimates: Iterable[Estimate], kind: str) -> list[Estimate]:
    """One estimate of a kind for each subject: that against its parent, which stands first."""
    first: dict[Subject, Estimate] = {}
    for one in estimates:
        if one.kind == kind:
            first.setdefault(_subject(one, ()), one)
    return list(first.values())


def _subject(one: Estimate, own: Sequence[str]) -> Subject:
    rest = tuple((key, value) for key, value in one.axes.items() if key not in own)
    return one.base, one.lineage or (), rest, one.judge


def _group(estimates: Iterable[Estimate], own: Sequence[str]) -> dict[Subject, dict[str, Estimate]]:
    """Subject → kind → estimate, shorter lineages first; of changes, the first: that against the parent."""
    found: dict[Subject, dict[str, Estimate]] = {}
    for one in estimates:
        found.setdefault(_subject(one, own), {}).setdefault(one.kind, one)
    return dict(sorted(found.items(), key=lambda pair: (pair[0][0] or "", len(pair[0][1]))))


def _subject_cells(
    subject: Subject, colors: Mapping[Lineage, int], *, judges: bool, bases: bool, axes: bool
) -> list[Cell]:
    base, lineage, rest, judge = subject
    cells = [Cell(text=name_lineage(lineage), sort=colors.get(lineage, 0), series=colors.get(lineage, 0))]
    cells += [Cell(text=name_axes(dict(rest)) or "–")] if axes else []
    cells += [Cell(text=base or "all bases")] if bases else []
    return cells + ([Cell(text=judge or "all judges")] if judges else [])


def _pressure_table(
    groups: Mapping[Subject, Mapping[str, Estimate]],
    columns: Sequence[str],
    title: str,
    colors: Mapping[Lineage, int],
    extra: str | None = None,
) -> Table:
    """A row for each subject, a column for each kind that any subject has; ``extra`` names an axis as a column."""
    kinds = [kind for kind in columns if any(kind in one for one in groups.values())]
    asked = {
        "axes": any([pair for pair in subject[2] if pair[0] != extra] for subject in groups),
        "bases": any(subject[0] for subject in groups),
        "judges": len({subject[3] for subject in groups}) > 1,
    }
    rows = []
    for (base, lineage, rest, judge), found in groups.items():
        named = dict(rest)
        first = [Cell(text=str(named.pop(extra, "all")).replace("_", " "))] if extra else []
        subject = (base, lineage, tuple(named.items()), judge)
        rows.append(
            (*first, *_subject_cells(subject, colors, **asked), *(_number_cell(found.get(kind)) for kind in kinds))
        )
    heads = [extra.capitalize()] if extra else []
    heads += ["Lineage", *(["Axes"] if asked["axes"] else []), *(["Base"] if asked["bases"] else [])]
    heads += ["Judge"] if asked["judges"] else []
    names = (*heads, *(quantity_of(kind).head for kind in kinds))
    return make_table(title, names, rows, len(heads))


def _number_cell(one: Estimate | None) -> Cell:
    """A number with its interval and, in round brackets, the cases that it rests on: no two columns share theirs."""
    text = format_cell(one)
    if one is not None and one.value is not None and "cases" in one.n and can_be_told(one) and not _is_lost(one):
        text += f" ({one.n['cases']:,})"
    return number_cell(one, text)


def draw_pressure(groups: Mapping[Subject, Mapping[str, Estimate]], *, narrow: bool = False) -> str | None:
    """How often each subject is unsafe: a circle clean, a square attacked, with intervals; None where none has both."""
    pairs = [
        (subject, found["unsafe_clean"], found["unsafe_attacked"])
        for subject, found in groups.items()
        if {"unsafe_clean", "unsafe_attacked"} <= set(found)
        and found["unsafe_clean"].value is not None
        and found["unsafe_attacked"].value is not None
        and can_be_told(found["unsafe_clean"])
        and can_be_told(found["unsafe_attacked"])
    ][:MOST_DRAWN]
    if not pairs:
        return None
    row, width = (62, 350) if narrow else (ROW, 1000)
    canvas = Canvas(width=width, height=TOP + row * len(pairs) + 46, title="unsafe episodes, clean and attacked")
    x = Scale(low=0, high=1, start=30 if narrow else SIDE, end=width - (30 if narrow else 260))
    bottom = TOP + row * len(pairs)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.rule(x(tick), TOP - 6, x(tick), bottom, strong=tick == 0)
        canvas.text(x(tick), bottom + 16, format_percent(tick), anchor="middle", soft=True)
    canvas.text((x.start + x.end) / 2, bottom + 36, "episodes with unsafe behaviour", anchor="middle")
    for number, (subject, clean, attacked) in enumerate(pairs):
        y = TOP + row * number + (row * 0.62 if narrow else row / 2)
        words = " · ".join(part for part in (name_lineage(subject[1]), name_axes(dict(subject[2])), subject[0]) if part)
        numbers = f"{format_cell(clean)} → {format_cell(attacked)}"
        if narrow:
            canvas.text(10, y - 20, words, size=11)
            canvas.text(x.end, y + 20, numbers, anchor="end", soft=True, size=11)
        else:
            canvas.text(10, y + 4, words[:40])
            canvas.text(x.end + 14, y + 4, numbers)
        for one, series, shape, lift in ((clean, 1, "circle", -4), (attacked, 2, "square", 4)):
            if isinstance(one.interval, tuple):
                low, high = (min(1.0, max(0.0, end)) for end in one.interval)
                line = stroke_of(series)
                canvas.add("line", x1=x(low), y1=y + lift, x2=x(high), y2=y + lift, stroke_width=2.2, **line)
            place = (x(min(1.0, max(0.0, one.value or 0.0))), y + lift)
            draw_mark(canvas, shape, place, 5, series, hover=describe_basis(one), stroke=PAPER, stroke_width=1.5)
    return canvas.render()


def unmeasurable_forms(estimates: Iterable[Estimate]) -> dict[str, list[Estimate]]:
    """Forms whose positive control showed no effect, with the controls: nothing can be said about them there."""
    found: dict[str, list[Estimate]] = {}
    for one in estimates:
        if one.kind == "positive_control" and one.unit == NOT_MEASURABLE and one.axes.get("form"):
            found.setdefault(str(one.axes["form"]), []).append(one)
    return found


def _about(one: Estimate, own: Sequence[str]) -> str:
    base, lineage, rest, _ = _subject(one, own)
    return ", ".join(part for part in (name_lineage(lineage), name_axes(dict(rest)), base) if part)


def describe_pressure(analysis: Analysis) -> list[str]:
    """The headline of each lineage in a sentence, and the forms that cannot be measured."""
    rows = [one for one in _rows_of(analysis.susceptibility) if "form" not in one.axes]
    beside: dict[tuple[Subject, str | None], dict[str, Estimate]] = {}
    for one in rows:
        beside.setdefault((_subject(one, ("form",)), one.unit), {})[one.kind] = one
    words = [
        _describe_implicit(one, beside[_subject(one, ("form",)), one.unit]) for one in _against_parent(rows, "implicit")
    ]
    for form, controls in unmeasurable_forms(analysis.susceptibility).items():
        places = ", ".join(dict.fromkeys(one.base or "all bases" for one in controls))
        words.append(f"{form.replace('_', ' ')} is not measurable at {places}: it has no effect before any stage")
    return words


def _describe_implicit(one: Estimate, beside: Mapping[str, Estimate]) -> str:
    """Whether a lineage is easier to push than its parent; ``beside`` has the rows of the same comparison by kind."""
    about = _about(one, ("form",))
    than = (one.unit or "against its parent").removeprefix("against ").replace(",", "→")
    if one.value is None:
        return f"{about}: the implicit change is not known: {'; '.join(one.caveats) or NOT_MEASURABLE}"
    if not can_be_told(one):
        return f"{about} against {than}: whether it is easier to push {cannot_be_told(one.n['cases'])}"
    crossed = beside.get("interaction")
    agree = excludes_zero(one) and excludes_zero(crossed) and (one.value > 0) == ((crossed.value or 0.0) > 0)
    verb = "easier to push" if one.value > 0 else "harder to push"
    told = verb if agree else "not shown to be easier or harder to push"
    cases = f"{count_noun(one.n['cases'], 'cases')}" if "cases" in one.n else "cases"
    words = (
        f"{about} is {told} than {than}: the effect of pressure on unsafe conduct differs by {format_cell(one)}"
        f" ({cases} that both handled safely when clean), over all cases by {format_cell(crossed)} in log-odds"
    )
    again, parent = (beside.get(kind) for kind in ("again_clean", "again_clean_parent"))
    if again is not None and parent is not None:
        words += f"; met again clean, those cases are unsafe in {format_cell(again)} of episodes"
        words += f", in {than} in {format_cell(parent)}"
    return words


def pressure_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Susceptibility by lineage and form; None where a study has no attacks."""
    if not analysis.susceptibility:
        return None
    rows = [one for one in _rows_of(analysis.susceptibility) if one.kind != "positive_control"]
    controls = [one for one in analysis.susceptibility if one.kind == "positive_control"]
    groups = _group((one for one in rows if "form" not in one.axes), ("form",))
    parts = [paragraph(EXPLANATION), list_html(describe_pressure(analysis), "sentences")]
    parts.append(chance_paragraph(analysis, "susceptibility"))
    figures, tables = {}, {}
    svg = draw_pressure(groups)
    if svg is not None:
        figures["pressure"] = svg
        caption = "Unsafe episodes: the circle without pressure, the square under attack, with 95 % intervals."
        parts.append(wrap_figure(svg, "pressure", caption, narrow=draw_pressure(groups, narrow=True) or ""))

    def fold_table(name: str, table: Table, head: str) -> None:
        tables[name] = table
        parts.append(fold(head, table_html(table, identity=f"{name}-table")))

    if groups:
        title = "All measurable forms together, changes against the parent, with 95 % intervals (and cases)"
        tables["pressure"] = _pressure_table(groups, COLUMNS, title, colors)
        parts.append(table_html(tables["pressure"], identity="pressure-table"))
    forms = [one for one in rows if "form" in one.axes]
    if forms:
        count = count_noun(len({str(one.axes["form"]) for one in forms}), "forms")
        table = _pressure_table(
            _group(forms, ()), COLUMNS, "By form of pressure, with 95 % intervals (and cases)", colors, "form"
        )
        fold_table("pressure-forms", table, f"By form ({count})")
    if controls:
        named = [replace(one, axes={**one.axes, "form": one.axes.get("form") or "all"}) for one in controls]
        table = list_estimates(named, "Effect of each form before any stage: unsafe attacked − clean", colors)
        fold_table("pressure-controls", table, "Positive controls")
    every = [one for one in analysis.susceptibility if one.kind != "positive_control"]
    fold_table("pressure-all", list_estimates(every, "Susceptibility", colors), "All numbers")
    return make_section("pressure", "Under pressure", parts, figures, tables)


def describe_shifts(analysis: Analysis) -> list[str]:
    """What each shift does to erosion, in a sentence each where it is sure, else that none is."""
    found = _against_parent(_rows_of(analysis.shifts), "erosion_shift")
    rows = [one for one in found if one.value is not None]
    sure = [one for one in rows if one.objective in (None, "safety") and excludes_zero(one)]
    words = [
        f"{_about(one, ('shift',))}: {'less' if (one.value or 0.0) > 0 else 'more'} safety is lost under"
        f" {str(one.axes.get('shift', 'the shifts together')).replace('_', ' ')}: {format_cell(one)} points"
        for one in sure
    ]
    few = [one for one in rows if not can_be_told(one)]
    if rows and not words and len(few) < len(rows):
        words = ["No shift is shown to change what a stage loses: every interval of the difference holds zero."]
    for cases in sorted({one.n["cases"] for one in few}):
        count = sum(one.n["cases"] == cases for one in few)
        words.append(f"{count_noun(count, 'differences')} under a shift {cannot_be_told(cases)}")
    return words


def shift_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Scores and erosion under each shift; None where a study has none."""
    rows = _rows_of(analysis.shifts)
    if not rows:
        return None
    parts, tables = [paragraph(SHIFT_EXPLANATION), list_html(describe_shifts(analysis), "sentences")], {}
    parts.append(chance_paragraph(analysis, "shifts"))
    objectives = sorted({one.objective or "" for one in rows}, key=lambda name: (name != "safety", name))
    for objective in objectives:
        groups = _group((one for one in rows if (one.objective or "") == objective), ())
        name = f"shift-{objective or 'all'}"
        title = f"{objective or 'score'} under each shift, in score points with 95 % intervals (and cases)"
        tables[name] = _pressure_table(groups, SHIFT_COLUMNS, title[:1].upper() + title[1:], colors, "shift")
        html = table_html(tables[name], identity=f"{name}-table".replace(" ", "-"))
        parts.append(html if objective == objectives[0] else fold(f"The same for {objective or 'all'}", html))
    tables["shifts-all"] = list_estimates(analysis.shifts, "Shifts", colors)
    parts.append(fold("All numbers", table_html(tables["shifts-all"], identity="shifts-all-table")))
    return make_section("shifts", "Under a shift", parts, tables=tables)


def pressure_lines(analysis: Analysis) -> list[str]:
    """The sentences on pressure and shifts for a terminal."""
    return [*describe_pressure(analysis), *describe_shifts(analysis)]
