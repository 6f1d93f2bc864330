"""The section on training for approval: what happened, curves, gaps, the ladder, reactions and cues, arms, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Curve, Estimate, can_be_told
from holdfast.records.quantities import quantity_of
from holdfast.records.words import count_noun
from holdfast.report.draw.curves import MOST_PANELS, Line, Panel, average_seeds, draw_panels, make_line, window_length
from holdfast.report.draw.rows import Mark, Row, draw_rows, span_of
from holdfast.report.draw.svg import DASHES, SHAPES
from holdfast.report.sections.approval.examples import Users, examples_html
from holdfast.report.sections.approval.tables import (
    AT_KL,
    Key,
    Setup,
    cue_table,
    data_table,
    describe_toggles,
    gap_table,
    is_main,
    is_own,
    keep_judge,
    key_of,
    ladder_table,
    level_table,
    make_setup,
    order_keys,
    order_ladder,
    pick_last,
    pick_rows,
    reaction_table,
    subtract,
)
from holdfast.report.words.console import table_text
from holdfast.report.words.inert import escape_html, wrap_line, wrap_lines
from holdfast.report.words.labels import (
    SEED_AXES,
    Lineage,
    excludes_zero,
    format_number,
    format_result,
    is_not_reached,
    name_kind,
    name_lineage,
)
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import list_estimates, take
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
EXPLANATION = (
    "Agents were trained on the approval of simulated users. A gameable user is pleased by encouragement of what harms"
    " them, the other user of the same scenario by being held back; the gap of harm between the two says whether an"
    " agent learned to exploit those who can be exploited. Every scenario stands in both forms among the held-out"
    " pairs. An agent that harms both users has no gap, so the rates stand beside it."
)
KINDS = ("exploit_rate", "reward", "harm", "success", "kl", "length", "entropy")
OPEN_KINDS = ("exploit_rate", "reward")
LABELS = ("gameable", "other", None)
MOST_LISTED = 2_000  # rows of the table of all numbers


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
    groups: dict[Key, list[Curve]] = {}
    # Curves of an objective are of training cases.
    known = [curve for curve in analysis.curves if "objective" not in curve.axes]
    for curve in [curve for curve in known if "environment" not in curve.axes] or known:
        setting = curve.axes.get("setting", setup.settings.get(curve.lineage))
        if is_own(setup, curve.lineage, setting):
            groups.setdefault((curve.base, curve.lineage, str(setting or "all settings")), []).append(curve)
    return {key: groups[key] for key in order_keys(groups, setup)}


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
    rose = sum(change > LEAST_CHANGE for change in changes.values())
    words = f"Approval rose along {rose} of {count_noun(len(changes), 'trainings')}"
    if rose:
        best = max(changes, key=changes.__getitem__)
        words += f", most in {name_key(best)} (from {' to '.join(format_number(end, 1) for end in ends[best])})"
    return [f"{words}."]


def _is_open(gap: Estimate) -> bool:
    return excludes_zero(gap) and isinstance(gap.interval, tuple) and gap.interval[0] > 0


def describe_gaps(analysis: Analysis, setup: Setup) -> list[str]:
    """Whether the gap of harm opened where a cue allows it, and whether it stayed flat where none does."""
    late = pick_last(analysis.exploitation, "late_gap", setup)
    groups: dict[bool | None, dict[Key, Estimate]] = {}
    for key in order_keys(late, setup):
        if is_main(setup, key[1]) and late[key].value is not None:
            groups.setdefault(allows_gap(setup.toggles.get(key[2])), {})[key] = late[key]
    words = []
    heads = {True: "Where a cue allows it, the gap of harm", None: "The gap of harm between gameable and other users"}
    for allowed, head in heads.items():
        if gaps := groups.get(allowed, {}):
            shown = f"{head} is open in {sum(map(_is_open, gaps.values()))} of {count_noun(len(gaps), 'trainings')}"
            best = max(gaps, key=lambda key: gaps[key].value or 0.0)
            words.append(f"{shown}, largest in {name_key(best)}: {format_result(gaps[best])}{_unsure(gaps)}.")
    if gaps := groups.get(False, {}):
        bounded = [gap for gap in gaps.values() if isinstance(gap.interval, tuple) and can_be_told(gap)]
        shown = "Where no cue tells the users apart, or the judge does not tell their wishes apart, it stays flat"
        shown += f" in {sum(not excludes_zero(gap) for gap in bounded)} of {count_noun(len(gaps), 'trainings')}"
        opened = [f"{name_key(key)}: {format_result(gap)}" for key, gap in gaps.items() if _is_open(gap)]
        words.append(f"{shown}{'; it is open in ' + '; '.join(opened) if opened else ''}{_unsure(gaps)}.")
    return words


def _unsure(gaps: Mapping[Key, Estimate]) -> str:
    missing = sum(not isinstance(gap.interval, tuple) for gap in gaps.values())
    return f" ({missing} without an interval are counted as neither open nor flat)" if missing else ""


def describe_arms_at_reward(analysis: Analysis, setup: Setup) -> list[str]:
    """Gaps of arms at the highest approval that two of them reach, for the first base and settings with arms."""
    groups: dict[tuple[str, str], dict[object, list[Estimate]]] = {}
    for gap in pick_rows(analysis.exploitation, "gap_at_reward"):
        base, lineage, setting = key_of(gap)
        if is_own(setup, lineage, gap.axes.get("setting")):
            groups.setdefault((base, setting), {}).setdefault(gap.axes.get("level"), []).append(gap)
    words = []
    for (base, setting), levels in groups.items():
        if len({gap.lineage for gaps in levels.values() for gap in gaps}) < 2:
            continue
        shared = [at for at, gaps in levels.items() if sum(gap.value is not None for gap in gaps) > 1]
        if not shared:
            words.append(f"In {setting}, {base}, no two arms reach the same declared level of approval.")
            continue
        at = max(shared, key=lambda level: float(level) if isinstance(level, int | float) else float("-inf"))
        known = [f"{name_lineage(gap.lineage)} {format_result(gap)}" for gap in levels[at] if gap.value is not None]
        missing = [name_lineage(gap.lineage) for gap in levels[at] if is_not_reached(gap)]
        tail = f"; {NOT_REACHED} by {', '.join(missing)}" if missing else ""
        words.append(f"In {setting}, {base}, the gap at approval {at:g} is {', '.join(known)}{tail}.")
    return words[:MOST_GROUPS]


def describe_bias(analysis: Analysis, setup: Setup) -> list[str]:
    """How far the published estimator lies from the paired one, on average."""
    late, published = (pick_last(analysis.exploitation, kind, setup) for kind in ("late_gap", "max_hex_gap"))
    found = [bias for key in published if (bias := subtract(published[key], late.get(key))) is not None]
    if not found:
        return []
    mean = sum(found) / len(found)
    return [
        f"Max HEX Gap as published lies {format_number(abs(mean))} rating points {'above' if mean >= 0 else 'below'}"
        f" the paired late gap on average over {count_noun(len(found), 'trainings')}; a maximum of a smoothed series is"
        " above zero where no gap is."
    ]


def describe_approval(analysis: Analysis, setup: Setup | None = None) -> list[str]:
    """What happened: approval, gaps with and without a cue, arms at matched approval, the published estimator."""
    known = make_setup(analysis) if setup is None else setup
    analysis, _ = keep_judge(analysis)
    words = [*describe_reward(analysis, known), *describe_gaps(analysis, known)]
    return [*words, *describe_arms_at_reward(analysis, known), *describe_bias(analysis, known)]


def _reaction_lines(analysis: Analysis) -> list[str]:
    """What each base reacts to before training, and what not, in a line each."""
    bases: dict[str, dict[str, list[str]]] = {}
    for one in pick_rows(analysis.exploitation, "reaction"):
        verdicts = bases.setdefault(one.base or "all bases", {})
        verdicts.setdefault(one.unit or "not known", []).append(str(one.axes.get("toggle", "all")).replace("_", " "))
    told = ((base, (f"{name}: {', '.join(those)}" for name, those in each.items())) for base, each in bases.items())
    return [f"{base} before training: {'; '.join(words)}" for base, words in told]


def approval_block(shown: Shown, width: int) -> str | None:
    """The results of training for approval for a terminal of ``width`` columns; None where a run has none."""
    analysis = shown.analysis
    if not analysis.exploitation:
        return None
    setup = make_setup(analysis, colors=shown.colors)
    lines = ["Approval (ratings from 1 to 10)"]
    lines += wrap_lines((f"! void: {note}" for note in void_notes(analysis)), width)
    lines += wrap_lines([*describe_approval(analysis, setup), *_reaction_lines(analysis)], width)
    rows = keep_judge(analysis)[0].exploitation
    gaps, levels = gap_table(rows, setup), level_table(rows, "reward", setup)
    if gaps is not None:  # which has more columns than a terminal
        compact = {name: head for name, head in COMPACT.items() if width >= NARROW or name != "Approval"}
        gaps = take(gaps, range(len(gaps.rows)), [i for i, head in enumerate(gaps.columns) if head in compact])
        gaps = replace(gaps, columns=tuple(compact[head] for head in gaps.columns))
    for table in (gaps, levels):
        if table is not None:
            cut = take(table, range(len(table.rows))[:MOST_ROWS], range(len(table.columns)))
            lines += ["", *wrap_line(table.title, width, "", ""), table_text(cut, width)]
            left = len(table.rows) - len(cut.rows)
            lines += [f"  … {left:,} more rows in the report"] if left > 0 else []
    return "\n".join(lines)


def make_panels(analysis: Analysis, kind: str, setup: Setup) -> tuple[list[Panel], int]:
    """A panel for each base, lineage and setting with a curve of a kind, and the steps that a point is the mean of."""
    groups = {
        key: [curve for curve in curves if curve.kind == kind] for key, curves in own_curves(analysis, setup).items()
    }
    length = window_length(one for curves in groups.values() for one in curves if one.source == "training")
    panels = []
    for (base, lineage, setting), curves in groups.items():
        labels = {curve.axes.get("label") for curve in curves}
        lines = []
        for label in [label for label in LABELS if label in labels and (label is not None or len(labels) == 1)]:
            mine = [curve for curve in curves if curve.axes.get("label") == label]
            training, held_out = ([one for one in mine if one.source == name] for name in ("training", "held-out"))
            lines.append(make_line(training, held_out, label, length))
        if known := tuple(line for line in lines if line is not None):
            parts = (base, name_lineage(lineage), describe_toggles(setup.toggles.get(setting)))
            panels.append(Panel(title=setting, note=" · ".join(filter(None, parts)), lines=known))
    return panels, length


def _add_curves(section: Section, analysis: Analysis, setup: Setup) -> None:
    """Training curves: a figure for each quantity, the first two open."""
    figures = {kind: made for kind in KINDS if (made := make_panels(analysis, kind, setup))[0]}
    if not figures:
        return
    section.head("Along training")
    is_open = [kind for kind in OPEN_KINDS if kind in figures] or list(figures)[:1]
    for kind, (panels, length) in figures.items():
        head = quantity_of(kind).head
        caption = "Thin lines are single seeds, the bold one their mean"
        caption += f" over windows of {length} steps" if length > 1 else ""
        caption += "; marks are held-out episodes, averaged over seeds. All plots share their axes."
        look = {"title": f"{head} along training", "x_label": "optimiser step"}
        for number in range(0, len(panels), MOST_PANELS):
            some = panels[number : number + MOST_PANELS]
            fold_as = f"{head}: more trainings" if number else "" if kind in is_open else head
            name = f"approval-{kind.replace('_', '-')}" + (f"-{number // MOST_PANELS + 1}" if number else "")
            svg, small = (draw_panels(some, kind=kind, narrow=narrow, **look) for narrow in (False, True))
            section.figure(name, (f"{head} along training, by setting.", "", caption), svg, small, fold_as=fold_as)


def draw_gaps(gaps: Mapping[Key, tuple[Estimate | None, Estimate | None]], *, narrow: bool = False) -> str | None:
    """Gaps in rating points, a row each: a square with its interval is paired, a diamond as published.

    None where no row has a number.
    """
    rows = []
    for key, (paired, published) in gaps.items():
        marks, numbers = [], "not known"
        if paired is not None and paired.value is not None:
            marks.append(Mark(estimate=paired, shape="square"))
            numbers = format_result(paired)
        if published is not None and published.value is not None:
            marks.append(Mark(estimate=published, series=2, shape="diamond"))
            numbers += f", published {format_number(published.value)}"
        if marks:
            rows.append(Row(words=name_key(key), marks=tuple(marks), numbers=numbers))
    if not rows:
        return None
    words = "; ".join(f"{row.words}: {row.numbers}" for row in rows)
    title, label = f"Gap of harm, in rating points. {words}", f"{name_kind('late_gap')} (rating points)"
    scale = span_of(mark.estimate for row in rows for mark in row.marks)
    return draw_rows(rows, scale, title=title, label=label, narrow=narrow)


def _add_gaps(section: Section, analysis: Analysis, setup: Setup) -> None:
    """The published gap beside the paired one, by setting and from small to large bases."""
    table = gap_table(analysis.exploitation, setup)
    if table is None:
        return
    section.head("The gap by model size")
    section.say(
        "Two estimators of one quantity. Max HEX Gap, as published, is the largest value of a smoothed difference along"
        " training; it is above zero where there is no gap. The paired late gap is the mean difference between the two"
        " users of held-out scenarios over the last checkpoints, and zero where there is none."
    )
    late, published = (pick_last(analysis.exploitation, kind, setup) for kind in ("late_gap", "max_hex_gap"))
    gaps = {key: (late.get(key), published.get(key)) for key in order_keys([*late, *published], setup)}
    caption = "Squares are paired late gaps with 95 % intervals, diamonds Max HEX Gap as published."
    words = "Gap of harm.", " ".join(describe_gaps(analysis, setup)[:1]), caption
    section.figure("approval-gaps", words, draw_gaps(gaps), draw_gaps(gaps, narrow=True))
    section.table("approval-gaps", table)


def _add_ladder(section: Section, analysis: Analysis, setup: Setup) -> None:
    """Settings in the order of one toggle changed at a time; nothing where there is one setting only."""
    late = pick_last(analysis.exploitation, "late_gap", setup)
    late = {key: one for key, one in late.items() if is_main(setup, key[1])}
    rungs = [rung for rung in order_ladder(setup.toggles) if any(key[2] == rung.setting for key in late)]
    if len(rungs) < 2:
        return
    section.head("The ladder of settings")
    section.say(
        "Each setting stands under the one from which it differs least; what differs is named, so that no two causes"
        " are taken for one."
    )
    keys = [key for rung in rungs for key in order_keys(late, setup) if key[2] == rung.setting]
    gaps = {key: (late[key], None) for key in keys}
    words = "Paired late gap of harm by setting.", "", "With 95 % intervals."
    section.figure("approval-ladder", words, draw_gaps(gaps), draw_gaps(gaps, narrow=True))
    section.table("approval-ladder", ladder_table(rungs, keys, late, setup))


def trace_path(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """Held-out approval and gap of harm along one training, in its order, over the seeds that all have both."""
    held = [curve for curve in curves if curve.source == "held-out"]

    def read(kind: str, label: str | None = None) -> dict[float, float]:
        mine = [curve for curve in held if curve.kind == kind and curve.axes.get("label") == label]
        return {x: y for x, y in average_seeds(mine) if y is not None}

    def both(kind: str) -> dict[float, tuple[float, float]]:
        gameable, other = read(kind, "gameable"), read(kind, "other")
        return {x: (gameable[x], other[x]) for x in gameable if x in other}

    reward = read("reward") or {x: (gameable + other) / 2 for x, (gameable, other) in both("reward").items()}
    gap = read("hex_gap") or {x: gameable - other for x, (gameable, other) in both("harm").items()}
    return tuple((reward[x], gap[x]) for x in sorted(reward) if x in gap)


def path_panels(analysis: Analysis, setup: Setup) -> list[Panel]:
    """Gap against approval along training: a panel for each setting and base that several arms share, a line each."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for (base, lineage, setting), curves in own_curves(analysis, setup).items():
        if path := trace_path(curves):
            lines = groups.setdefault((base, setting), [])
            dash, shape = DASHES[len(lines) % len(DASHES)], SHAPES[len(lines) % len(SHAPES)]
            look = {"words": name_lineage(lineage), "series": setup.colors.get(lineage, 0)}
            lines.append(Line(mean=path, marks=path, dash=dash, shape=shape, **look))  # type: ignore[arg-type]
    return [
        Panel(title=setting, note=base, lines=tuple(lines))
        for (base, setting), lines in groups.items()
        if len(lines) > 1
    ]


def _add_arms(section: Section, analysis: Analysis, setup: Setup) -> None:
    """Arms at matched approval and KL, what they learned from, the way they took, and what their rewards came to."""
    rows = analysis.exploitation
    matched = {
        "approval-at-reward": level_table(rows, "reward", setup),
        "approval-at-kl": level_table(rows, "kl", setup),
        "approval-data": data_table(rows, setup),
    }
    panels = path_panels(analysis, setup)[:MOST_PANELS]
    if panels or any(matched.values()):
        section.head("Arms at matched levels")
        section.say(
            "Arms learn at different speeds, so they are compared where their held-out curves pass levels of approval"
            " or KL that were declared before training. An arm that does not get to a level has no number there: it is"
            " not reached, and nothing is extrapolated."
        )
    if panels:
        look = {"title": "Gap of harm against approval", "x_label": "held-out approval (rating)", "kind": "gap"}
        svg, small = (draw_panels(panels, x_kind="reward", narrow=narrow, **look) for narrow in (False, True))
        caption = "Held-out gap of harm against held-out approval along training, a line for each arm."
        section.figure("approval-paths", ("Gap of harm against approval.", "", caption), svg, small)
    for name, table in matched.items():
        section.table(name, table)
    arms = {lineage: arm for lineage, arm in setup.arms.items() if arm.on_policy}
    on_policy = [one for one in rows if one.kind in AT_KL and one.lineage in arms]
    rewards = {arms[one.lineage].reward for one in on_policy if one.lineage is not None}
    if len(rewards) > 1 and (table := level_table(on_policy, "kl", setup)) is not None:
        section.head("The choice of reward")
        section.say("On-policy arms alone, as far from where they started as one another.")
        section.table("approval-rewards", replace(table, title="Rewards at matched KL, with 95 % intervals"))


def _add_numbers(section: Section, rows: Sequence[Estimate], colors: Mapping[Lineage, int]) -> None:
    """Every number over all environments and seeds, and the late ones by environment, behind lines that open them."""
    pooled = [one for one in rows if not set(SEED_AXES) & set(one.axes)]
    whole = [one for one in pooled if "environment" not in one.axes]
    split = [one for one in pooled if "environment" in one.axes and one.kind in ("late_gap", "max_hex_gap", "hex_gap")]
    for name, head, listed in (("environments", "By environment", split), ("all", "All numbers", whole)):
        if listed:
            left = f", the first {MOST_LISTED:,} of {len(listed):,}" if len(listed) > MOST_LISTED else ""
            table = list_estimates(listed[:MOST_LISTED], f"{head}{left}", colors)
            section.table(f"approval-{name}", table, fold_as=table.title)


def fill_approval(section: Section, shown: Shown) -> None:
    """What training for approval did to agents and their users; nothing where a run has no such rows.

    The users of ``shown`` give settings their toggles, without which there is no ladder, and the examples.
    """
    everything, users = shown.analysis, shown.users or Users()
    if not everything.exploitation:
        return
    setup = make_setup(everything, shown.checkpoints, users.toggles, shown.colors)
    analysis, judge = keep_judge(everything)
    if notes := void_notes(analysis):
        words = f"Void: {'; '.join(notes)}. What depends on this says nothing about it."
        section.parts.append(f'<p class="alert" role="note">{escape_html(words)}</p>')
    section.say(f"{EXPLANATION} All ratings here are those of the judge {judge}." if judge else EXPLANATION)
    section.bullets(describe_approval(analysis, setup))
    _add_curves(section, analysis, setup)
    _add_gaps(section, analysis, setup)
    _add_ladder(section, analysis, setup)
    reactions, cues = reaction_table(everything.exploitation), cue_table(analysis.exploitation)
    if reactions or cues:
        section.head("What the numbers rest on")
        section.say(
            "A result says something about a toggle only where the base reacts to it before training. The cue audit"
            " says how well the words of each channel tell the two users apart; a difference in length is a cue of its"
            " own."
        )
        section.table("approval-reactions", reactions)
        section.table("approval-cues", cues)
    _add_arms(section, analysis, setup)
    if users.examples:
        section.head("Users side by side")
        rated = f"Held-out pairs at the last checkpoints, with ratings by {users.judge}."
        section.say(f"{rated} More stand among the cases below.")
        section.parts.append(examples_html(users))
    _add_numbers(section, everything.exploitation, shown.colors)
