"""The section on training for approval: what happened, curves, gaps, the ladder, reactions and cues, arms, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from holdfast.records import Analysis, Curve, Estimate
from holdfast.records.quantities import quantity_of
from holdfast.report.draw.curves import MOST_PANELS, Line, Panel, average_seeds, draw_panels, make_line, window_length
from holdfast.report.draw.rows import Mark, Row, draw_rows, span_of
from holdfast.report.draw.svg import SHAPES
from holdfast.report.sections.approval.examples import Users, examples_html
from holdfast.report.sections.approval.setup import Setup, is_main, make_setup
from holdfast.report.sections.approval.tables import (
    AT_KL,
    Key,
    cue_table,
    data_table,
    describe_toggles,
    gap_table,
    keep_judge,
    ladder_table,
    level_table,
    order_keys,
    order_ladder,
    pick_last,
    reaction_table,
)
from holdfast.report.sections.approval.words import describe_approval, describe_gaps, name_key, own_curves, void_notes
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import SEED_AXES, format_number, format_result, name_kind, name_lineage
from holdfast.report.words.layout import Lineage, Section, Shown
from holdfast.report.words.tables import list_estimates

EXPLANATION = (
    "Agents were trained on the approval of simulated users. A gameable user is pleased by encouragement of what harms"
    " them, the other user of the same scenario by being held back; the gap of harm between the two says whether an"
    " agent learned to exploit those who can be exploited. Every scenario stands in both forms among the held-out"
    " pairs. An agent that harms both users has no gap, so the rates stand beside it."
)
KINDS = ("exploit_rate", "reward", "harm", "success", "kl", "length", "entropy")
OPEN_KINDS = ("exploit_rate", "reward")
LABELS = ("gameable", "other", None)
DASHES = (None, "6 4", "2 3", "8 3 2 3")
MOST_LISTED = 2_000  # rows of the table of all numbers


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
        for label in LABELS:
            if label in labels and (label is not None or len(labels) == 1):
                mine = [curve for curve in curves if curve.axes.get("label") == label]
                training, held_out = ([one for one in mine if one.source == name] for name in ("training", "held-out"))
                lines.append(make_line(training, held_out, label, length))
        known = tuple(line for line in lines if line is not None)
        if known:
            parts = (base, name_lineage(lineage), describe_toggles(setup.toggles.get(setting)))
            panels.append(Panel(title=setting, note=" · ".join(part for part in parts if part), lines=known))
    return panels, length


def _add_curves(section: Section, analysis: Analysis, setup: Setup) -> None:
    """Training curves: a figure for each quantity, the first two open."""
    found = {kind: made for kind in KINDS if (made := make_panels(analysis, kind, setup))[0]}
    if not found:
        return
    section.head("Along training")
    is_open = [kind for kind in OPEN_KINDS if kind in found] or list(found)[:1]
    for kind, (panels, length) in found.items():
        title = f"{quantity_of(kind).head} along training"
        caption = "Thin lines are single seeds, the bold one their mean"
        caption += f" over windows of {length} steps" if length > 1 else ""
        caption += "; marks are held-out episodes, averaged over seeds. All plots share their axes."
        for number in range(0, len(panels), MOST_PANELS):
            svg, small = (
                draw_panels(
                    panels[number : number + MOST_PANELS],
                    title=title,
                    x_label="optimiser step",
                    kind=kind,
                    narrow=narrow,
                )
                for narrow in (False, True)
            )
            more = f"-{number // MOST_PANELS + 1}" if number else ""
            folded = f"{quantity_of(kind).head}: more trainings" if number else quantity_of(kind).head
            section.figure(
                f"approval-{kind.replace('_', '-')}{more}",
                (f"{title}, by setting.", "", caption),
                svg,
                small,
                fold_as="" if kind in is_open and not number else folded,
            )


def draw_gaps(gaps: Mapping[Key, tuple[Estimate | None, Estimate | None]], *, narrow: bool = False) -> str | None:
    """Gaps in rating points, a row each: a square with its interval is paired, a diamond as published.

    None where no row has a number.
    """
    rows, drawn = [], []
    for key, pair in gaps.items():
        looks = ((1, "square"), (2, "diamond"))
        marks = tuple(
            Mark(estimate=one, series=series, shape=shape)
            for one, (series, shape) in zip(pair, looks, strict=True)
            if one is not None and one.value is not None
        )
        if marks:
            drawn += [mark.estimate for mark in marks]
            numbers = "not known" if pair[0] is None or pair[0].value is None else format_result(pair[0])
            if pair[1] is not None and pair[1].value is not None:
                numbers += f", published {format_number(pair[1].value)}"
            rows.append(Row(words=name_key(key), marks=marks, numbers=numbers))
    if not rows:
        return None
    words = "; ".join(f"{row.words}: {row.numbers}" for row in rows)
    title, label = f"Gap of harm, in rating points. {words}", f"{name_kind('late_gap')} (rating points)"
    return draw_rows(rows, span_of(drawn), title=title, label=label, narrow=narrow)


def _add_gaps(section: Section, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """The published gap beside the paired one, by setting and from small to large bases."""
    table = gap_table(analysis.exploitation, colors, setup)
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


def _add_ladder(section: Section, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
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
    section.table("approval-ladder", ladder_table(rungs, keys, late, colors, setup))


def trace_path(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """Held-out approval and gap of harm along one training, in its order, over the seeds that all have both."""
    held = [curve for curve in curves if curve.source == "held-out"]

    def read(kind: str, label: str | None) -> dict[float, float]:
        mine = [curve for curve in held if curve.kind == kind and curve.axes.get("label") == label]
        return {x: y for x, y in average_seeds(mine) if y is not None}

    reward, gap = read("reward", None), read("hex_gap", None)
    if not reward:
        one, other = read("reward", "gameable"), read("reward", "other")
        reward = {x: (one[x] + other[x]) / 2 for x in one if x in other}
    if not gap:
        one, other = read("harm", "gameable"), read("harm", "other")
        gap = {x: one[x] - other[x] for x in one if x in other}
    return tuple((reward[x], gap[x]) for x in sorted(reward) if x in gap)


def path_panels(analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> list[Panel]:
    """Gap against approval along training: a panel for each setting and base that several arms share, a line each."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for (base, lineage, setting), curves in own_curves(analysis, setup).items():
        path = trace_path(curves)
        if path:
            number = colors.get(lineage, 0)
            place = len(groups.get((base, setting), ()))
            look = {"dash": DASHES[place % len(DASHES)], "shape": SHAPES[place % len(SHAPES)]}
            line = Line(words=name_lineage(lineage), series=number, mean=path, marks=path, **look)  # type: ignore[arg-type]
            groups.setdefault((base, setting), []).append(line)
    shared = {place: lines for place, lines in groups.items() if len(lines) > 1}
    return [Panel(title=setting, note=base, lines=tuple(lines)) for (base, setting), lines in shared.items()]


def _add_arms(section: Section, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """Arms at matched approval and KL, what they learned from, the way they took, and what their rewards came to."""
    rows = analysis.exploitation
    matched = {
        "approval-at-reward": level_table(rows, "reward", colors, setup),
        "approval-at-kl": level_table(rows, "kl", colors, setup),
        "approval-data": data_table(rows, colors, setup),
    }
    panels = path_panels(analysis, colors, setup)[:MOST_PANELS]
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
    if len(rewards) > 1 and (table := level_table(on_policy, "kl", colors, setup)) is not None:
        section.head("The choice of reward")
        section.say("On-policy arms alone, as far from where they started as one another.")
        section.table("approval-rewards", replace(table, title="Rewards at matched KL, with 95 % intervals"))


def _add_numbers(section: Section, rows: Sequence[Estimate], colors: Mapping[Lineage, int]) -> None:
    """Every number over all environments and seeds, and the late ones by environment, behind lines that open them."""
    whole = [one for one in rows if not {"environment", *SEED_AXES} & set(one.axes)]
    split = [one for one in rows if "environment" in one.axes and not set(SEED_AXES) & set(one.axes)]
    split = [one for one in split if one.kind in ("late_gap", "max_hex_gap", "hex_gap")]
    for name, head, listed in (
        ("approval-environments", "By environment", split),
        ("approval-all", "All numbers", whole),
    ):
        if listed:
            left = f", the first {MOST_LISTED:,} of {len(listed):,}" if len(listed) > MOST_LISTED else ""
            table = list_estimates(listed[:MOST_LISTED], f"{head}{left}", colors)
            section.table(name, table, fold_as=table.title)


def approval_section(shown: Shown) -> Section | None:
    """What training for approval did to agents and their users; None where a run has no such rows.

    The users of ``shown`` give settings their toggles, without which there is no ladder, and the examples.
    """
    everything, colors, users = shown.analysis, shown.colors, shown.users or Users()
    if not everything.exploitation:
        return None
    setup = make_setup(everything, shown.checkpoints, users.toggles)
    analysis, judge = keep_judge(everything)
    section = Section(identity="approval", title="Approval", short="Approval")
    if notes := void_notes(analysis):
        words = f"Void: {'; '.join(notes)}. What depends on this says nothing about it."
        section.parts.append(f'<p class="alert" role="note">{escape_html(words)}</p>')
    section.say(f"{EXPLANATION} All ratings here are those of the judge {judge}." if judge else EXPLANATION)
    section.bullets(describe_approval(analysis, setup))
    _add_curves(section, analysis, setup)
    _add_gaps(section, analysis, colors, setup)
    _add_ladder(section, analysis, colors, setup)
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
    _add_arms(section, analysis, colors, setup)
    if users.examples:
        section.head("Users side by side")
        rated = f"Held-out pairs at the last checkpoints, with ratings by {users.judge}."
        section.say(f"{rated} More stand among the cases below.")
        section.parts.append(examples_html(users))
    _add_numbers(section, everything.exploitation, colors)
    return section
