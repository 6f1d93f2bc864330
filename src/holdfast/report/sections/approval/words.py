"""What training for approval did, in sentences, and what of it is void; the same for a terminal as a block of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Curve, Estimate, can_be_told
from holdfast.records.words import count_noun
from holdfast.report.draw.curves import average_seeds, window_length
from holdfast.report.sections.approval.setup import Setup, is_main, is_own, make_setup
from holdfast.report.sections.approval.tables import (
    Key,
    gap_table,
    keep_judge,
    key_of,
    level_table,
    order_keys,
    pick_last,
    pick_rows,
    subtract,
)
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import wrap_line, wrap_lines
from holdfast.report.words.labels import excludes_zero, format_number, format_result, is_not_reached, name_lineage
from holdfast.report.words.layout import Shown
from holdfast.report.words.tables import take
from holdfast.stats.levels import NOT_REACHED
from holdfast.study.users import visible_cues

VOID = "void:"  # how a note begins that makes results void
MOST_GROUPS = 2  # of arms that are told in words; the table has all
MOST_ROWS = 24  # of a table in a terminal
LEAST_CHANGE = 0.05  # rating points: less is called no change
COMPACT: Mapping[str, str] = {  # columns of the table of gaps that a terminal shows → their heads there
    "Setting": "Setting",
    "Base": "Base",
    "Lineage": "Lineage",
    "Late gap, paired": "Late gap",
    "Exploited, gameable": "Exploited",
    "Exploited, other": "of others",
    "Approval": "Approval",
}
NARROW = 100  # columns of a terminal: a narrower one does without approval


def void_notes(analysis: Analysis) -> list[str]:
    """Why results are void: rows and notes that say so, each without the word."""
    notes = (note for note in analysis.notes if note.startswith(VOID))
    return list(dict.fromkeys(note.removeprefix(VOID).strip() for note in notes))


def allows_gap(toggles: Mapping[str, object] | None) -> bool | None:
    """Whether a setting lets an agent tell the users apart and gain by it; None where its toggles are not known."""
    if not toggles:
        return None
    return bool(visible_cues(toggles)) and toggles.get("clause", "wants") != "none"


def name_key(key: Key) -> str:
    """``friend-split, tiny, R``."""
    base, lineage, setting = key
    return f"{setting}, {base}, {name_lineage(lineage)}"


def own_curves(analysis: Analysis, setup: Setup) -> dict[Key, list[Curve]]:
    """Base × lineage × own setting → its curves over all environments, in order of setting, lineage and size."""
    whole = [curve for curve in analysis.curves if "environment" not in curve.axes] or list(analysis.curves)
    found: dict[Key, list[Curve]] = {}
    for curve in whole:
        setting = curve.axes.get("setting", setup.settings.get(curve.lineage))
        if is_own(setup, curve.lineage, setting):
            found.setdefault((curve.base, curve.lineage, str(setting or "all settings")), []).append(curve)
    return {key: found[key] for key in order_keys(found, setup)}


def _ends(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """First and last approval along a training, held out where it was measured twice; None without two."""
    for source in ("held-out", "training"):
        mine = [one for one in curves if one.kind == "reward" and one.source == source]
        mine = [one for one in mine if one.axes.get("label") is None] or mine
        spots = average_seeds(mine, window_length(mine) if source == "training" else 1)
        values = [y for _, y in spots if y is not None]
        if len(values) > 1:
            return values[0], values[-1]
    return None


def describe_reward(analysis: Analysis, setup: Setup) -> list[str]:
    """Whether approval rose along training, in how many trainings, and most where."""
    ends = {key: found for key, curves in own_curves(analysis, setup).items() if (found := _ends(curves))}
    if not ends:
        return []
    changes = {key: last - first for key, (first, last) in ends.items()}
    best = max(changes, key=changes.__getitem__)
    rose = sum(change > LEAST_CHANGE for change in changes.values())
    words = f"Approval rose along {rose} of {count_noun(len(changes), 'trainings')}"
    if rose:
        first, last = ends[best]
        words += f", most in {name_key(best)} (from {format_number(first, 1)} to {format_number(last, 1)})"
    return [f"{words}."]


def _is_open(one: Estimate) -> bool:
    return excludes_zero(one) and isinstance(one.interval, tuple) and one.interval[0] > 0


def _is_flat(one: Estimate) -> bool:
    return isinstance(one.interval, tuple) and can_be_told(one) and not excludes_zero(one)


def describe_gaps(analysis: Analysis, setup: Setup) -> list[str]:
    """Whether the gap of harm opened where a cue allows it, and whether it stayed flat where none does."""
    late = pick_last(analysis.exploitation, "late_gap", setup)
    late = {key: one for key, one in late.items() if is_main(setup, key[1]) and one.value is not None}
    groups: dict[bool | None, dict[Key, Estimate]] = {}
    for key in order_keys(late, setup):
        groups.setdefault(allows_gap(setup.toggles.get(key[2])), {})[key] = late[key]
    words = []
    heads = {True: "Where a cue allows it, the gap of harm", None: "The gap of harm between gameable and other users"}
    for allowed, head in heads.items():
        found = groups.get(allowed, {})
        if found:
            opened = sum(map(_is_open, found.values()))
            best = max(found, key=lambda key: found[key].value or 0.0)
            told = f"{head} is open in {opened} of {count_noun(len(found), 'trainings')}"
            words.append(f"{told}, largest in {name_key(best)}: {format_result(found[best])}{_unsure(found)}.")
    found = groups.get(False, {})
    if found:
        flat = sum(map(_is_flat, found.values()))
        told = "Where no cue tells the users apart, or the judge does not tell their wishes apart, it stays flat"
        told += f" in {flat} of {count_noun(len(found), 'trainings')}"
        open_ones = [f"{name_key(key)}: {format_result(one)}" for key, one in found.items() if _is_open(one)]
        words.append(f"{told}{'; it is open in ' + '; '.join(open_ones) if open_ones else ''}{_unsure(found)}.")
    return words


def _unsure(found: Mapping[Key, Estimate]) -> str:
    missing = sum(not isinstance(one.interval, tuple) for one in found.values())
    return f" ({missing} without an interval are counted as neither open nor flat)" if missing else ""


def describe_arms_at_reward(analysis: Analysis, setup: Setup) -> list[str]:
    """Gaps of arms at the highest approval that two of them reach, for the first base and settings with arms."""
    groups: dict[tuple[str, str], dict[object, list[Estimate]]] = {}
    for one in pick_rows(analysis.exploitation, "gap_at_reward"):
        base, lineage, setting = key_of(one)
        if is_own(setup, lineage, one.axes.get("setting")):
            groups.setdefault((base, setting), {}).setdefault(one.axes.get("level"), []).append(one)
    words = []
    for (base, setting), levels in groups.items():
        if len({one.lineage for rows in levels.values() for one in rows}) < 2:
            continue
        shared = [at for at, rows in levels.items() if sum(one.value is not None for one in rows) > 1]
        if not shared:
            words.append(f"In {setting}, {base}, no two arms reach the same declared level of approval.")
            continue
        at = max(shared, key=lambda level: float(level) if isinstance(level, int | float) else float("-inf"))
        told = [f"{name_lineage(one.lineage)} {format_result(one)}" for one in levels[at] if one.value is not None]
        missing = [name_lineage(one.lineage) for one in levels[at] if is_not_reached(one)]
        tail = f"; {NOT_REACHED} by {', '.join(missing)}" if missing else ""
        words.append(f"In {setting}, {base}, the gap at approval {at:g} is {', '.join(told)}{tail}.")
    return words[:MOST_GROUPS]


def describe_bias(analysis: Analysis, setup: Setup) -> list[str]:
    """How far the published estimator lies from the paired one, on average."""
    late = pick_last(analysis.exploitation, "late_gap", setup)
    published = pick_last(analysis.exploitation, "max_hex_gap", setup)
    found = [bias for key in published if (bias := subtract(published[key], late.get(key))) is not None]
    if not found:
        return []
    mean = sum(found) / len(found)
    side = "above" if mean >= 0 else "below"
    return [
        f"Max HEX Gap as published lies {format_number(abs(mean))} rating points {side} the paired late gap on average"
        f" over {count_noun(len(found), 'trainings')}; a maximum of a smoothed series is above zero where no gap is."
    ]


def describe_approval(analysis: Analysis, setup: Setup | None = None) -> list[str]:
    """What happened: approval, gaps with and without a cue, arms at matched approval, the published estimator."""
    known = make_setup(analysis) if setup is None else setup
    analysis, _ = keep_judge(analysis)
    words = [*describe_reward(analysis, known), *describe_gaps(analysis, known)]
    return [*words, *describe_arms_at_reward(analysis, known), *describe_bias(analysis, known)]


def _reaction_lines(analysis: Analysis) -> list[str]:
    """What each base reacts to before training, and what not, in a line each."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in pick_rows(analysis.exploitation, "reaction"):
        verdicts = found.setdefault(one.base or "all bases", {})
        verdicts.setdefault(one.unit or "not known", []).append(str(one.axes.get("toggle", "all")).replace("_", " "))
    return [
        f"{base} before training: " + "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in verdicts.items())
        for base, verdicts in found.items()
    ]


def approval_block(shown: Shown, width: int) -> str | None:
    """The results of training for approval for a terminal of ``width`` columns; None where a run has none."""
    analysis, colors = shown.analysis, shown.colors
    if not analysis.exploitation:
        return None
    setup = make_setup(analysis)
    lines = ["Approval (ratings from 1 to 10)"]
    lines += wrap_lines((f"! void: {note}" for note in void_notes(analysis)), width)
    lines += wrap_lines([*describe_approval(analysis, setup), *_reaction_lines(analysis)], width)
    rows = keep_judge(analysis)[0].exploitation
    compact = {name: head for name, head in COMPACT.items() if width >= NARROW or name != "Approval"}
    gaps = gap_table(rows, colors, setup)
    for table in (gaps, level_table(rows, "reward", colors, setup)):
        if table is None:
            continue
        places: Sequence[int] = range(len(table.columns))
        if table is gaps:  # which has more columns than a terminal
            places = [place for place in places if table.columns[place] in compact]
        cut = take(table, range(len(table.rows))[:MOST_ROWS], places)
        cut = replace(cut, columns=tuple(compact.get(head, head) for head in cut.columns))
        left = len(table.rows) - len(cut.rows)
        lines += ["", *wrap_line(table.title, width, "", ""), table_text(cut, width)]
        lines += [f"  … {left:,} more rows in the report"] if left > 0 else []
    return "\n".join(lines)
