"""The section on training for approval: what happened, curves, gaps, the ladder, reactions and cues, arms, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast.records import Analysis, Checkpoint, Curve
from holdfast.records.quantities import quantity_of
from holdfast.report.draw.curves import (
    MOST_PANELS,
    Gap,
    Line,
    Panel,
    average_seeds,
    draw_gaps,
    draw_panels,
    make_line,
    window_length,
)
from holdfast.report.draw.svg import SERIES, SHAPES
from holdfast.report.sections.approval.examples import Users, examples_html
from holdfast.report.sections.approval.setup import Lineage, Setup, is_main, make_setup
from holdfast.report.sections.approval.tables import (
    AT_KL,
    Key,
    cue_table,
    data_table,
    describe_toggles,
    gap_table,
    index_last,
    keep_judge,
    ladder_table,
    level_table,
    order_keys,
    order_ladder,
    pick_rows,
    reaction_table,
)
from holdfast.report.sections.approval.words import describe_approval, name_key, own_curves, void_notes
from holdfast.report.words.inert import escape_html
from holdfast.report.words.labels import SEED_AXES, name_lineage
from holdfast.report.words.layout import Section, fold, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import Table, list_estimates, table_html

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


@dataclass(slots=True)
class _Parts:
    """HTML, figures and tables of a section while it is put together."""

    html: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def head(self, words: str, text: str = "") -> None:
        self.html.append(f"<h3>{escape_html(words)}</h3>{paragraph(text) if text else ''}")

    def figure(self, name: str, caption: str, broad: str, narrow: str) -> str:
        self.figures[name] = broad
        return wrap_figure(broad, name, caption, narrow=narrow)

    def table(self, name: str, table: Table) -> str:
        self.tables[name] = table
        return table_html(table, identity=f"{name}-table")


def _panel(key: Key, lines: Sequence[Line], setup: Setup) -> Panel:
    base, lineage, setting = key
    note = " · ".join(
        part for part in (base, name_lineage(lineage), describe_toggles(setup.toggles.get(setting))) if part
    )
    return Panel(title=setting, note=note, lines=tuple(lines))


def make_panels(analysis: Analysis, kind: str, setup: Setup) -> tuple[list[Panel], int]:
    """A panel for each base, lineage and setting with a curve of a kind, and the steps that a point is the mean of."""
    groups = {
        key: [curve for curve in curves if curve.kind == kind] for key, curves in own_curves(analysis, setup).items()
    }
    length = window_length(one for curves in groups.values() for one in curves if one.source == "training")
    panels = []
    for key, curves in groups.items():
        labels = {curve.axes.get("label") for curve in curves}
        wanted = [label for label in LABELS if label in labels and (label is not None or len(labels) == 1)]
        lines = [_label_line(curves, label, length) for label in wanted]
        if any(lines):
            panels.append(_panel(key, [line for line in lines if line is not None], setup))
    return panels, length


def _label_line(curves: Sequence[Curve], label: str | None, length: int) -> Line | None:
    mine = [curve for curve in curves if curve.axes.get("label") == label]
    training = [curve for curve in mine if curve.source == "training"]
    return make_line(training, [curve for curve in mine if curve.source == "held-out"], label, length)


def _add_curves(parts: _Parts, analysis: Analysis, setup: Setup) -> None:
    """Training curves: a figure for each quantity, the first two open."""
    found = {kind: made for kind in KINDS if (made := make_panels(analysis, kind, setup))[0]}
    if not found:
        return
    parts.head("Along training")
    first = [kind for kind in OPEN_KINDS if kind in found] or list(found)[:1]
    for kind, (panels, length) in found.items():
        html = _curve_figures(parts, kind, panels, length)
        parts.html.append(html[0] if kind in first else fold(quantity_of(kind).head, html[0]))
        parts.html += [fold(f"{quantity_of(kind).head}: more trainings", more) for more in html[1:]]


def _curve_figures(parts: _Parts, kind: str, panels: Sequence[Panel], length: int) -> list[str]:
    caption = f"{quantity_of(kind).head} along training, by setting. Thin lines are single seeds, the bold one"
    caption += " their mean" + (f" over windows of {length} steps" if length > 1 else "")
    caption += "; marks are held-out episodes, averaged over seeds. All plots share their axes."
    html = []
    for number in range(0, len(panels), MOST_PANELS):
        shown = panels[number : number + MOST_PANELS]
        name = f"approval-{kind.replace('_', '-')}" + (f"-{number // MOST_PANELS + 1}" if number else "")
        title = f"{quantity_of(kind).head} along training"
        svg, small = (
            draw_panels(shown, title=title, x_label="optimiser step", kind=kind, narrow=narrow)
            for narrow in (False, True)
        )
        html.append(parts.figure(name, caption, svg, small))
    return html


def _add_gaps(parts: _Parts, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """The published gap beside the paired one, by setting and from small to large bases."""
    table = gap_table(analysis.exploitation, colors, setup)
    if table is None:
        return
    words = (
        "Two estimators of one quantity. Max HEX Gap, as published, is the largest value of a smoothed difference along"
        " training; it is above zero where there is no gap. The paired late gap is the mean difference between the two"
        " users of held-out scenarios over the last checkpoints, and zero where there is none."
    )
    parts.head("The gap by model size", words)
    late, published = (
        index_last(pick_rows(analysis.exploitation, (kind,)), setup) for kind in ("late_gap", "max_hex_gap")
    )
    keys = order_keys([*late, *published], setup)
    gaps = [Gap(words=name_key(key), paired=late.get(key), published=published.get(key)) for key in keys]
    svg, small = draw_gaps(gaps), draw_gaps(gaps, narrow=True)
    if svg and small:
        caption = "Gap of harm: squares are paired late gaps with 95 % intervals, diamonds Max HEX Gap as published."
        parts.html.append(parts.figure("approval-gaps", caption, svg, small))
    parts.html.append(parts.table("approval-gaps", table))


def _add_ladder(parts: _Parts, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """Settings in the order of one toggle changed at a time; nothing where there is one setting only."""
    late = index_last(pick_rows(analysis.exploitation, ("late_gap",)), setup)
    late = {key: one for key, one in late.items() if is_main(setup, key[1])}
    rungs = [rung for rung in order_ladder(setup.toggles) if any(key[2] == rung.setting for key in late)]
    if len(rungs) < 2:
        return
    words = "Each setting stands under the one from which it differs least; what differs is named, so that no two"
    parts.head("The ladder of settings", f"{words} causes are taken for one.")
    keys = [key for rung in rungs for key in order_keys(late, setup) if key[2] == rung.setting]
    gaps = [Gap(words=name_key(key), paired=late[key]) for key in keys]
    svg, small = draw_gaps(gaps), draw_gaps(gaps, narrow=True)
    if svg and small:
        caption = "Paired late gap of harm by setting, with 95 % intervals."
        parts.html.append(parts.figure("approval-ladder", caption, svg, small))
    parts.html.append(parts.table("approval-ladder", ladder_table(rungs, keys, late, colors, setup)))


def _add_audits(parts: _Parts, reactions: Table | None, cues: Table | None) -> None:
    """What the base reacts to before training, and what tells the two users apart."""
    if reactions is None and cues is None:
        return
    words = (
        "A result says something about a toggle only where the base reacts to it before training. The cue audit says"
        " how well the words of each channel tell the two users apart; a difference in length is a cue of its own."
    )
    parts.head("What the numbers rest on", words)
    parts.html += [parts.table("approval-reactions", reactions)] if reactions else []
    parts.html += [parts.table("approval-cues", cues)] if cues else []


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
            number = colors.get(lineage, len(colors))
            look = {"dash": DASHES[number % len(DASHES)], "shape": SHAPES[number % len(SHAPES)]}
            series = 1 + (number - 1) % (len(SERIES) - 1)
            line = Line(words=name_lineage(lineage), series=series, mean=path, marks=path, **look)  # type: ignore[arg-type]
            groups.setdefault((base, setting), []).append(line)
    shared = {place: lines for place, lines in groups.items() if len(lines) > 1}
    return [Panel(title=setting, note=base, lines=tuple(lines)) for (base, setting), lines in shared.items()]


def _add_arms(parts: _Parts, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """Arms at matched approval and KL, what they learned from, and the way they took."""
    rows = analysis.exploitation
    matched = {
        "approval-at-reward": level_table(rows, "reward", colors, setup),
        "approval-at-kl": level_table(rows, "kl", colors, setup),
        "approval-data": data_table(rows, colors, setup),
    }
    panels = path_panels(analysis, colors, setup)[:MOST_PANELS]
    if not panels and not any(matched.values()):
        return
    words = (
        "Arms learn at different speeds, so they are compared where their held-out curves pass levels of approval or KL"
        " that were declared before training. An arm that does not get to a level has no number there: it is not"
        " reached, and nothing is extrapolated."
    )
    parts.head("Arms at matched levels", words)
    if panels:
        look = {"title": "Gap of harm against approval", "x_label": "held-out approval (rating)", "kind": "gap"}
        svg, small = (draw_panels(panels, x_kind="reward", narrow=narrow, **look) for narrow in (False, True))
        caption = "Held-out gap of harm against held-out approval along training, a line for each arm."
        parts.html.append(parts.figure("approval-paths", caption, svg, small))
    parts.html += [parts.table(name, table) for name, table in matched.items() if table is not None]


def _add_rewards(parts: _Parts, analysis: Analysis, colors: Mapping[Lineage, int], setup: Setup) -> None:
    """What on-policy arms with different rewards come to at matched KL."""
    arms = {lineage: arm for lineage, arm in setup.arms.items() if arm.on_policy}
    rows = [one for one in analysis.exploitation if one.kind in AT_KL and one.lineage in arms]
    if len({arms[one.lineage].reward for one in rows if one.lineage is not None}) < 2:
        return
    table = level_table(rows, "kl", colors, setup)
    if table is not None:
        parts.head("The choice of reward", "On-policy arms alone, as far from where they started as one another.")
        titled = replace(table, title="Rewards at matched KL, with 95 % intervals")
        parts.html.append(parts.table("approval-rewards", titled))


def _add_numbers(parts: _Parts, analysis: Analysis, colors: Mapping[Lineage, int]) -> None:
    """Every number over all environments and seeds, and the late ones by environment, behind lines that open them."""
    whole = [one for one in analysis.exploitation if not {"environment", *SEED_AXES} & set(one.axes)]
    split = [one for one in analysis.exploitation if "environment" in one.axes and not set(SEED_AXES) & set(one.axes)]
    split = [one for one in split if one.kind in ("late_gap", "max_hex_gap", "hex_gap")]
    for name, head, rows in (
        ("approval-environments", "By environment", split),
        ("approval-all", "All numbers", whole),
    ):
        if rows:
            left = f", the first {MOST_LISTED:,} of {len(rows):,}" if len(rows) > MOST_LISTED else ""
            table = list_estimates(rows[:MOST_LISTED], f"{head}{left}", colors)
            parts.html.append(fold(f"{head}{left}", parts.table(name, table)))


def approval_section(
    analysis: Analysis,
    colors: Mapping[Lineage, int],
    checkpoints: Sequence[Checkpoint] = (),
    users: Users | None = None,
) -> Section | None:
    """What training for approval did to agents and their users; None where a run has no such rows.

    ``users`` gives settings their toggles, without which there is no ladder, and the examples.
    """
    if not analysis.exploitation:
        return None
    known = users or Users()
    setup = make_setup(analysis, checkpoints, known.toggles)
    everything, reactions = analysis, reaction_table(analysis.exploitation)
    analysis, judge = keep_judge(analysis)
    parts = _Parts()
    notes = void_notes(analysis)
    if notes:
        words = f"Void: {'; '.join(notes)}. What depends on this says nothing about it."
        parts.html.append(f'<p class="alert" role="note">{escape_html(words)}</p>')
    items = "".join(f"<li>{escape_html(words)}</li>" for words in describe_approval(analysis, setup))
    told = f"{EXPLANATION} All ratings here are those of the judge {judge}." if judge else EXPLANATION
    parts.html += [paragraph(told), f'<ul class="sentences">{items}</ul>' if items else ""]
    _add_curves(parts, analysis, setup)
    _add_gaps(parts, analysis, colors, setup)
    _add_ladder(parts, analysis, colors, setup)
    _add_audits(parts, reactions, cue_table(analysis.exploitation))
    _add_arms(parts, analysis, colors, setup)
    _add_rewards(parts, analysis, colors, setup)
    if known.examples:
        words = (
            f"Held-out pairs at the last checkpoints, with ratings by {known.judge}. More stand among the cases below."
        )
        parts.head("Users side by side", words)
        parts.html.append(examples_html(known))
    _add_numbers(parts, everything, colors)
    return make_section("approval", "Approval", parts.html, parts.figures, parts.tables)
