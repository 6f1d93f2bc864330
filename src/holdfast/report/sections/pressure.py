"""What pressure and shifts do to checkpoints: change of harm under attack, twins' utility, erosion under a shift."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

from holdfast.records import Analysis, Estimate, can_be_told, cannot_be_told
from holdfast.records.quantities import quantity_of
from holdfast.records.words import count_noun
from holdfast.report.draw.rows import Mark, Row, draw_rows
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.labels import (
    FIRST_OBJECTIVE,
    Lineage,
    excludes_zero,
    format_result,
    main_rows,
    name_axes,
    name_lineage,
    varying_axes,
)
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import Cell, Table, lineage_cell, list_estimates, make_table, number_cell

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
MOST_DRAWN = 30
MUCH = 0.1  # of episodes: a change as large as this matters


def _is_lost(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether an estimate speaks of a form that had no effect before any stage; what harmless twins lose stands."""
    if estimate is None or estimate.kind.startswith("twin_") or estimate.kind == "positive_control":
        return False
    form = estimate.axes.get("form")
    return bool(form) and any(f"{form} is {NOT_MEASURABLE}" in caveat for caveat in estimate.caveats)


def format_cell(estimate: Estimate | None) -> str:
    """The result, or that it is not measurable."""
    return NOT_MEASURABLE if _is_lost(estimate) else format_result(estimate)


def _rows_of(estimates: Iterable[Estimate]) -> list[Estimate]:
    """One claim for each subject at the most pooled level, without axes that are the same everywhere.

    Changes against the parent stand before those against the base.
    """
    found = main_rows(estimates)
    kept = {*varying_axes(found), *CONDITION_AXES}
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


def _pressure_table(
    groups: Mapping[Subject, Mapping[str, Estimate]],
    columns: Sequence[str],
    title: str,
    colors: Mapping[Lineage, int],
    extra: str = "",
) -> Table:
    """A row for each subject, a column for each kind that any subject has; ``extra`` names an axis as a column."""
    kinds = [kind for kind in columns if any(kind in one for one in groups.values())]
    # Columns of words that say the same of every subject are left out.
    heads = {
        extra.capitalize(): bool(extra),
        "Lineage": True,
        "Axes": any(name != extra for subject in groups for name, _ in subject[2]),
        "Base": any(subject[0] for subject in groups),
        "Judge": len({subject[3] for subject in groups}) > 1,
    }
    rows = []
    for (base, lineage, rest, judge), found in groups.items():
        axes = dict(rest)
        words: list[Cell | str] = [
            str(axes.pop(extra, "all")).replace("_", " "),
            lineage_cell(lineage, colors),
            name_axes(axes) or "–",
            base or "all bases",
            judge or "all judges",
        ]
        cells = (found.get(kind) for kind in kinds)
        numbers = [number_cell(one, NOT_MEASURABLE if _is_lost(one) else None, cases=True) for one in cells]
        rows.append([*itertools.compress(words, heads.values()), *numbers])
    names = list(itertools.compress(heads, heads.values()))
    return make_table(title, [*names, *(quantity_of(kind).head for kind in kinds)], rows, len(names))


def draw_pressure(groups: Mapping[Subject, Mapping[str, Estimate]], *, narrow: bool = False) -> str | None:
    """How often each subject is unsafe: a circle clean, a square attacked, with intervals; None where none has both."""
    rows = []
    for (base, lineage, rest, _), found in groups.items():
        pair = [found[kind] for kind in ("unsafe_clean", "unsafe_attacked") if kind in found]
        if len(pair) < 2 or any(one.value is None or not can_be_told(one) for one in pair):
            continue
        clean, attacked = pair
        words = " · ".join(filter(None, (name_lineage(lineage), name_axes(dict(rest)), base)))
        marks = (Mark(estimate=clean, lift=-4), Mark(estimate=attacked, series=2, shape="square", lift=4))
        rows.append(Row(words=words, marks=marks, numbers=f"{format_cell(clean)}, then {format_cell(attacked)}"))
    if not rows:
        return None
    title, label = "unsafe episodes, clean and attacked", "episodes with unsafe behaviour: clean, then attacked"
    return draw_rows(rows[:MOST_DRAWN], (0.0, 1.0), title=title, label=label, narrow=narrow, shares=True)


def _about(one: Estimate, own: Sequence[str]) -> str:
    base, lineage, rest, _ = _subject(one, own)
    return ", ".join(filter(None, (name_lineage(lineage), name_axes(dict(rest)), base)))


def describe_pressure(analysis: Analysis) -> list[str]:
    """The headline of each lineage in a sentence, and the forms that cannot be measured."""
    rows = [one for one in _rows_of(analysis.susceptibility) if "form" not in one.axes]
    beside: dict[tuple[Subject, str | None], dict[str, Estimate]] = {}
    for one in rows:
        beside.setdefault((_subject(one, ()), one.unit), {})[one.kind] = one
    words = [_describe_implicit(one, beside[_subject(one, ()), one.unit]) for one in _against_parent(rows, "implicit")]
    places: dict[str, dict[str, None]] = {}  # form whose positive control showed no effect → where
    for one in analysis.susceptibility:
        if one.kind == "positive_control" and one.unit == NOT_MEASURABLE and one.axes.get("form"):
            places.setdefault(str(one.axes["form"]), {})[one.base or "all bases"] = None
    return words + [
        f"{form.replace('_', ' ')} is not measurable at {', '.join(bases)}: it has no effect before any stage"
        for form, bases in places.items()
    ]


def _describe_implicit(change: Estimate, beside: Mapping[str, Estimate]) -> str:
    """Whether a lineage is easier to push than its parent; ``beside`` has the rows of the same comparison by kind."""
    about = _about(change, ("form",))
    than = (change.unit or "against its parent").removeprefix("against ").replace(",", "→")
    if change.value is None:
        return f"{about}: the implicit change is not known: {'; '.join(change.caveats) or NOT_MEASURABLE}"
    if not can_be_told(change):
        return f"{about} against {than}: whether it is easier to push {cannot_be_told(change.n['cases'])}"
    # Nothing is known where the interval holds a large change either way.
    wide = not isinstance(change.interval, tuple) or (change.interval[0] < -MUCH and change.interval[1] > MUCH)
    crossed = beside.get("interaction")
    told = f"not {'known' if wide else 'shown'} to be easier or harder to push"
    if excludes_zero(change) and excludes_zero(crossed) and (change.value > 0) == ((crossed.value or 0.0) > 0):
        told = f"{'easier' if change.value > 0 else 'harder'} to push"
    cases = count_noun(change.n["cases"], "cases") if "cases" in change.n else "cases"
    words = (
        f"{about} is {told} than {than}: the effect of pressure on unsafe conduct differs by {format_cell(change)}"
        f" ({cases} that both handled safely when clean), over all cases by {format_cell(crossed)} in log-odds"
    )
    words += "; the interval is so wide that nothing is known" if wide else ""
    again, parent = (beside.get(kind) for kind in ("again_clean", "again_clean_parent"))
    if again is not None and parent is not None:
        words += f"; met again clean, those cases are unsafe in {format_cell(again)} of episodes"
        words += f", in {than} in {format_cell(parent)}"
    return words


def fill_pressure(section: Section, shown: Shown) -> None:
    """Susceptibility by lineage and form; nothing where a study has no attacks."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.susceptibility:
        return
    controls = [one for one in analysis.susceptibility if one.kind == "positive_control"]
    every = [one for one in analysis.susceptibility if one.kind != "positive_control"]
    rows = [one for one in _rows_of(analysis.susceptibility) if one.kind != "positive_control"]
    groups = _group((one for one in rows if "form" not in one.axes), ("form",))
    told = describe_pressure(analysis)
    section.say(EXPLANATION)
    section.bullets(told)
    section.say(describe_chance(analysis, "susceptibility"))
    # Of how many comparisons a change is shown.
    compared = [words for words in told if " to push" in words]
    sure = sum(f" is {way} to push than" in words for words in compared for way in ("easier", "harder"))
    shows = f"{sure} of {count_noun(len(compared), 'comparisons')} with a parent show a change." if compared else ""
    caption = "The circle is without pressure, the square under attack, with 95 % intervals."
    words = "Unsafe episodes, clean and attacked.", shows, caption
    section.figure("pressure", words, draw_pressure(groups), draw_pressure(groups, narrow=True))
    if groups:
        title = "All measurable forms together, changes against the parent, with 95 % intervals (and cases)"
        section.table("pressure", _pressure_table(groups, COLUMNS, title, colors))
    if forms := [one for one in rows if "form" in one.axes]:
        count = count_noun(len({str(one.axes["form"]) for one in forms}), "forms")
        title = "By form of pressure, with 95 % intervals (and cases)"
        table = _pressure_table(_group(forms, ()), COLUMNS, title, colors, "form")
        section.table("pressure-forms", table, fold_as=f"By form ({count})")
    if controls:
        named = [replace(one, axes={**one.axes, "form": one.axes.get("form") or "all"}) for one in controls]
        table = list_estimates(named, "Effect of each form before any stage: unsafe attacked − clean", colors)
        section.table("pressure-controls", table, fold_as="Positive controls")
    section.table("pressure-all", list_estimates(every, "Susceptibility", colors), fold_as="All numbers")


def describe_shifts(analysis: Analysis) -> list[str]:
    """What each shift does to erosion, in a sentence each where it is sure, else that none is."""
    rows = [one for one in _against_parent(_rows_of(analysis.shifts), "erosion_shift") if one.value is not None]
    words = [
        f"{_about(one, ('shift',))}: {'less' if (one.value or 0.0) > 0 else 'more'} safety is lost under"
        f" {str(one.axes.get('shift', 'the shifts together')).replace('_', ' ')}: {format_cell(one)} points"
        for one in rows
        if one.objective in (None, "safety") and excludes_zero(one)
    ]
    few = Counter(one.n["cases"] for one in rows if not can_be_told(one))
    if rows and not words and few.total() < len(rows):
        words = ["No shift is shown to change what a stage loses: every interval of the difference holds zero."]
    told = (
        f"{count_noun(count, 'differences')} under a shift {cannot_be_told(cases)}"
        for cases, count in sorted(few.items())
    )
    return [*words, *told]


def fill_shifts(section: Section, shown: Shown) -> None:
    """Scores and erosion under each shift; nothing where a study has none."""
    analysis, colors = shown.analysis, shown.colors
    rows = _rows_of(analysis.shifts)
    if not rows:
        return
    section.say(SHIFT_EXPLANATION)
    section.bullets(describe_shifts(analysis))
    section.say(describe_chance(analysis, "shifts"))
    objectives = sorted({one.objective or "" for one in rows}, key=lambda name: (name != FIRST_OBJECTIVE, name))
    for number, objective in enumerate(objectives):
        groups = _group((one for one in rows if (one.objective or "") == objective), ())
        title = f"{objective or 'score'} under each shift, in score points with 95 % intervals (and cases)"
        table = _pressure_table(groups, SHIFT_COLUMNS, title[:1].upper() + title[1:], colors, "shift")
        name = objective or "all"
        section.table(f"shift-{name}", table, fold_as=f"The same for {name}" if number else "")
    section.table("shifts-all", list_estimates(analysis.shifts, "Shifts", colors), fold_as="All numbers")
