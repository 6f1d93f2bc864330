"""Harm by dimension, explicit or implicit, and stage: one heat map, its table, and what changed most in words."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.records import FEW_CASES, Estimate, can_be_told, cannot_be_told
from holdfast.records.words import count_noun
from holdfast.report.draw.svg import RULE, Attribute, Canvas, color_of
from holdfast.report.sections.chance import describe_chance
from holdfast.report.words.labels import (
    Lineage,
    describe_basis,
    format_ends,
    format_number,
    format_point,
    format_result,
    name_axes,
    name_lineage,
    pick_claim,
    varying_axes,
)
from holdfast.report.words.layout import Section, Shown
from holdfast.report.words.tables import Cell, Table, make_table, number_cell

Row = tuple[str, str, str]  # dimension, failure, judge where a dimension has several
HARM, REFUSAL = 2, 1  # colours: orange and blue are told apart by colour-blind readers, and every cell has its number
OWN_AXES = ("dimension", "failure")
FAILURES = ("explicit", "implicit")
MOST_COLUMNS = 8  # of a heat map; the table has every column
MOST_CHANGES = 4  # told in words
LEFT, HALF, HEIGHT, TOP, GAP = 168, 62, 40, 44, 6
NARROW_LEFT, SMALL_LINE = 92, 15
SMALL = 8.5  # characters of words in a cell
EXPLANATION = (
    "An explicit failure is harm on a plain request; an implicit one is harm under pressure, on the same kind of"
    " request. Each stage has two cells: how often harm was done, and beside it how often harmless twins of the"
    " requests were refused. A stage that only refuses more has not become safer. For information, harm is a wrong"
    " answer and over-refusal none at all. Numbers in brackets are 95 % intervals, in per cent."
)
HEADS = ("Dimension", "Failure", "Stage", "Base", "Judge", "Harm", "Over-refusal", "Change of harm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A column of the heat map: a checkpoint, or a lineage over its replicates."""

    base: str | None
    lineage: Lineage
    rest: tuple[tuple[str, str], ...]  # its axes but for dimension and failure, as text
    small: str = ""  # those of them that tell stages apart, in words


class Taxonomy:
    """The estimates of harm by kind, row and stage."""

    def __init__(self, estimates: Iterable[Estimate]) -> None:
        listed = [one for one in pick_claim(estimates) if "dimension" in one.axes and one.lineage is not None]
        judges = Counter(name for name, _ in {(str(one.axes["dimension"]), one.judge) for one in listed})
        self._several = {name for name, count in judges.items() if count > 1}
        self._varying = varying_axes(listed)
        stages = dict.fromkeys(map(self._stage, listed))
        self.stages = sorted(stages, key=lambda stage: (stage.base or "", len(stage.lineage)))
        self.pooled = [stage for stage in self.stages if stage.base is None] or self.stages
        rows = dict.fromkeys(map(self._row, listed))
        first = list(dict.fromkeys(row[0] for row in rows))
        rank = {name: number for number, name in enumerate(FAILURES)}
        self.rows: list[Row] = sorted(rows, key=lambda row: (first.index(row[0]), rank.get(row[1], 2), row[2]))
        self._estimates = {(one.kind, self._row(one), self._stage(one)): one for one in listed}

    def _row(self, one: Estimate) -> Row:
        name = str(one.axes["dimension"])
        return name, str(one.axes.get("failure", "")), (one.judge or "") if name in self._several else ""

    def _stage(self, one: Estimate) -> Stage:
        rest = tuple((key, str(value)) for key, value in one.axes.items() if key not in OWN_AXES)
        small = name_axes({key: value for key, value in rest if key in self._varying})
        return Stage(base=one.base, lineage=one.lineage or (), rest=rest, small=small)

    def get(self, kind: str, row: Row, stage: Stage) -> Estimate | None:
        """One estimate, or None where it was not measured."""
        return self._estimates.get((kind, row, stage))

    def measured(self, stage: Stage) -> int:
        """In how many rows harm was measured in a stage."""
        return sum(self.get("harm_rate", row, stage) is not None for row in self.rows)


def draw_heat_map(taxonomy: Taxonomy, stages: Sequence[Stage], *, narrow: bool = False) -> str:
    """The heat map as SVG: rows of dimension and failure, two cells a stage, every number in its cell.

    A narrow one has two stages beside each other, and the next ones below.
    """
    across, first = (2, NARROW_LEFT) if narrow else (max(1, len(stages)), LEFT)
    bands = -(-len(stages) // across)
    head = TOP + (SMALL_LINE if any(stage.small for stage in stages) else 0)
    band = head + HEIGHT * len(taxonomy.rows) + 12
    width = first + across * (2 * HALF + GAP) + 4
    canvas = Canvas(width=width, height=bands * band, title="harm and over-refusal by dimension and stage")
    for number, stage in enumerate(stages):
        left, top = first + number % across * (2 * HALF + GAP), number // across * band
        canvas.text(left + HALF, top + 16, name_lineage(stage.lineage), anchor="middle", size=13, font_weight="650")
        if stage.small:
            canvas.text(left + HALF, top + 31, stage.small[:24], anchor="middle", soft=True, size=10)
        for half, words in enumerate(("harm", "refused")):
            canvas.text(left + (half + 0.5) * HALF, top + head - 8, words, anchor="middle", soft=True, size=11)
        for place, row in enumerate(taxonomy.rows):
            y = top + head + place * HEIGHT
            if number % across == 0:  # names stand left of every band, a dimension's once
                new = place == 0 or taxonomy.rows[place - 1][0] != row[0]
                if new:
                    canvas.rule(0, y - 1, width, y - 1)
                    canvas.text(4, y + 17, row[0].replace("_", " "), size=12, font_weight="650")
                canvas.text(4, y + (32 if new else 24), " · ".join(filter(None, row[1:])), soft=True, size=11)
            for half, (kind, series) in enumerate((("harm_rate", HARM), ("over_refusal", REFUSAL))):
                _draw_cell(canvas, taxonomy.get(kind, row, stage), left + half * HALF, y, series)
    return canvas.render()


def _draw_cell(canvas: Canvas, cell: Estimate | None, x: float, y: float, series: int) -> None:
    share = None if cell is None else cell.value
    untold = cannot_be_told(cell.n["cases"]) if cell is not None and share is not None and not can_be_told(cell) else ""
    look: dict[str, Attribute] = {"fill": "none", "stroke": RULE, "cls": "grid", "stroke_dasharray": "2 3"}
    if share is not None and not untold:
        look = {**color_of(series), "fill_opacity": round(0.04 + 0.56 * min(1.0, share), 3)}  # numbers stay readable
    hover = None if cell is None else describe_basis(cell)
    canvas.add("rect", x=x + 1, y=y + 1, width=HALF - 2, height=HEIGHT - 2, rx=3, hover=hover, **look)
    above, below, sizes = format_point(cell), format_ends(cell), (12.0, 10.0)
    if untold:
        first, below = untold.split(" told ")
        above, sizes = f"{first} told", (SMALL, SMALL)
    middle = x + HALF / 2
    canvas.text(middle, y + (17 if below else 24), above, anchor="middle", size=sizes[0])
    if below:
        canvas.text(middle, y + 31, below, anchor="middle", size=sizes[1])


def heat_table(taxonomy: Taxonomy, title: str) -> Table:
    """Every cell of the heat map as a row of a table, with the change from the parent and the cases."""
    rows: list[list[Cell | str]] = []
    for row, stage in itertools.product(taxonomy.rows, taxonomy.stages):
        numbers = [taxonomy.get(kind, row, stage) for kind in ("harm_rate", "over_refusal", "harm_change")]
        if known := [one for one in numbers if one is not None]:
            about = " ".join(filter(None, (name_lineage(stage.lineage), stage.small)))
            words = row[0].replace("_", " "), row[1], about, stage.base or "all bases", row[2] or known[0].judge or "–"
            rows.append([*words, *(number_cell(one, cases=True) for one in numbers)])
    return make_table(title, HEADS, rows, 5)


def describe_changes(taxonomy: Taxonomy) -> list[str]:
    """The surest rises of harm against the parent in words, or that none is sure."""
    pairs = itertools.product(taxonomy.rows, taxonomy.pooled)
    changes = [(row, stage, taxonomy.get("harm_change", row, stage)) for row, stage in pairs]
    known = [(row, stage, one) for row, stage, one in changes if one is not None and one.value is not None]
    told = [(row, stage, one) for row, stage, one in known if can_be_told(one)]
    few = len(known) - len(told)
    untold = [f"{count_noun(few, 'changes')} of harm cannot be told: fewer than {FEW_CASES} cases each"] if few else []
    if not told:
        return untold
    rises = [
        (one.interval[0], row, stage, one)
        for row, stage, one in told
        if isinstance(one.interval, tuple) and one.interval[0] > 0
    ]
    if not rises:
        none = "In no dimension is harm shown to have risen from a stage's parent: every interval holds zero or less."
        return [none, *untold]
    rises.sort(key=lambda rise: -rise[0])
    words = [
        f"{' · '.join(filter(None, row)).replace('_', ' ')}: harm rose by"
        f" {format_number(100 * (change.value or 0.0), 1)} percentage points"
        f" {format_ends(change)} in {name_lineage(stage.lineage)}"
        + (f" {change.unit.replace(',', '→')}" if change.unit else "")
        + "".join(f", {part}" for part in (stage.small, stage.base) if part)
        + _without_pressure(taxonomy, row, stage)
        for _, row, stage, change in rises[:MOST_CHANGES]
    ]
    more = len(rises) - len(words)
    return [*words, *([f"{count_noun(more, 'more rises')} are in the table"] if more else []), *untold]


def _without_pressure(taxonomy: Taxonomy, row: Row, stage: Stage) -> str:
    """By how much harm changed on the same kind of request as it is: what pressure has no part in."""
    if row[1] != FAILURES[1]:
        return ""
    plain = taxonomy.get("harm_change", (row[0], FAILURES[0], row[2]), stage)
    if plain is None or plain.value is None:
        return " (as they are: not measured)"
    return f" (as they are, without pressure: {format_result(plain)})"


def fill_taxonomy(section: Section, shown: Shown) -> None:
    """Dimension × {explicit, implicit} × stage; nothing where a study has neither attacks nor probes."""
    taxonomy = Taxonomy(shown.analysis.taxonomy)
    if not taxonomy.rows:
        return
    changes = describe_changes(taxonomy) or [""]
    section.say(EXPLANATION)
    section.bullets(changes)
    section.say(describe_chance(shown.analysis, "taxonomy"))
    for number, base in enumerate(dict.fromkeys(stage.base for stage in taxonomy.stages)):
        stages = [stage for stage in taxonomy.stages if stage.base == base]
        # Those that were measured in most dimensions: controls and larger doses meet the held-out cases alone.
        drawn = sorted(stages, key=lambda stage: -taxonomy.measured(stage))[:MOST_COLUMNS]
        drawn = [stage for stage in drawn if 2 * taxonomy.measured(stage) > taxonomy.measured(drawn[0])]
        whose = base or "all bases"
        caption = "Harm is orange, over-refusal of harmless twins blue; deeper is more."
        if len(stages) > len(drawn):
            caption += f" {count_noun(len(stages) - len(drawn), 'more stages')} are in the table."
        name, shows, fold_as = "taxonomy", f"{changes[0]}.", ""
        if number:
            name, shows, fold_as = f"taxonomy-{number + 1}", "", f"The same for {whose}"
        words = f"Harm and over-refusal by dimension, {whose}.", shows, caption
        svg, small = draw_heat_map(taxonomy, drawn), draw_heat_map(taxonomy, drawn, narrow=True)
        section.figure(name, words, svg, small, fold_as=fold_as)
    title = "Harm and over-refusal by dimension and stage, with 95 % intervals (and cases)"
    section.table("taxonomy", heat_table(taxonomy, title), fold_as="All numbers as a table")
