"""Harm by dimension, explicit or implicit, and stage: one heat map, its table, and what changed most in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.records import FEW_CASES, Analysis, Estimate, can_be_told, cannot_be_told
from holdfast.records.words import count_noun
from holdfast.report.draw.svg import RULE, Attribute, Canvas, color_of
from holdfast.report.sections.chance import chance_paragraph
from holdfast.report.words.labels import (
    describe_basis,
    format_ends,
    format_number,
    format_point,
    format_result,
    name_axes,
    name_lineage,
    pick_claim,
)
from holdfast.report.words.layout import Section, fold, list_html, make_section, paragraph, wrap_figure
from holdfast.report.words.tables import Cell, Table, make_table, table_html

Lineage = tuple[str, ...]
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
HEADS = ("Dimension", "Failure", "Stage", "Base", "Judge", "Harm", "Interval", "Over-refusal", "Interval")
CHANGE_HEADS = ("Change of harm", "Interval", "Harmful cases", "Harmless cases", "Cases of the change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A column of the heat map: a checkpoint, or a lineage over its replicates."""

    base: str | None
    lineage: Lineage
    rest: tuple[tuple[str, str], ...]  # its axes but for dimension and failure, as text
    small: str = ""  # those of them that tell stages apart, in words


def rest_of(estimate: Estimate, own: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The axes that are the checkpoint's own, as pairs of texts."""
    return tuple((key, f"{value}") for key, value in estimate.axes.items() if key not in own)


class Cells:
    """The estimates of a taxonomy by kind, row and stage."""

    def __init__(self, estimates: Iterable[Estimate]) -> None:
        found = [one for one in pick_claim(estimates) if "dimension" in one.axes and one.lineage is not None]
        self._several = {
            name
            for name in {str(one.axes["dimension"]) for one in found}
            if len({one.judge for one in found if one.axes["dimension"] == name}) > 1
        }
        values: dict[str, set[str]] = {}
        for one in found:
            for key, value in rest_of(one, OWN_AXES):
                values.setdefault(key, set()).add(value)
        self._varying = {key for key, seen in values.items() if len(seen) > 1}
        self.stages = sorted(
            dict.fromkeys(self._stage(one) for one in found), key=lambda one: (one.base or "", len(one.lineage))
        )
        self.pooled = [one for one in self.stages if one.base is None] or self.stages
        rows = dict.fromkeys(self._row(one) for one in found)
        first = list(dict.fromkeys(row[0] for row in rows))
        self.rows: list[Row] = sorted(rows, key=lambda row: (first.index(row[0]), _rank(row[1]), row[2]))
        self._found = {(one.kind, self._row(one), self._stage(one)): one for one in found}

    def _row(self, one: Estimate) -> Row:
        name = str(one.axes["dimension"])
        return name, str(one.axes.get("failure", "")), (one.judge or "") if name in self._several else ""

    def _stage(self, one: Estimate) -> Stage:
        rest = rest_of(one, OWN_AXES)
        small = name_axes({key: value for key, value in rest if key in self._varying})
        return Stage(base=one.base, lineage=one.lineage or (), rest=rest, small=small)

    def get(self, kind: str, row: Row, stage: Stage) -> Estimate | None:
        """One estimate, or None where it was not measured."""
        return self._found.get((kind, row, stage))

    def measured(self, stage: Stage) -> int:
        """In how many rows harm was measured in a stage."""
        return sum(self.get("harm_rate", row, stage) is not None for row in self.rows)


def _rank(failure: str) -> int:
    return FAILURES.index(failure) if failure in FAILURES else len(FAILURES)


def name_row(row: Row) -> str:
    """``payments · implicit``."""
    return " · ".join(part.replace("_", " ") for part in row if part)


def draw_heat_map(cells: Cells, stages: Sequence[Stage], *, narrow: bool = False) -> str:
    """The heat map as SVG: rows of dimension and failure, two cells a stage, every number in its cell.

    A narrow one has two stages beside each other, and the next ones below.
    """
    across, first = (2, NARROW_LEFT) if narrow else (max(1, len(stages)), LEFT)
    bands = -(-len(stages) // across)
    head = TOP + (SMALL_LINE if any(stage.small for stage in stages) else 0)
    band = head + HEIGHT * len(cells.rows) + 12
    width = first + across * (2 * HALF + GAP) + 4
    canvas = Canvas(width=width, height=bands * band, title="harm and over-refusal by dimension and stage")
    for number, stage in enumerate(stages):
        left, top = first + number % across * (2 * HALF + GAP), number // across * band
        _draw_head(canvas, stage, left, top, top + head)
        for place, row in enumerate(cells.rows):
            y = top + head + place * HEIGHT
            if number % across == 0:
                _draw_name(canvas, row, y, new=place == 0 or cells.rows[place - 1][0] != row[0], width=width)
            for half, (kind, series) in enumerate((("harm_rate", HARM), ("over_refusal", REFUSAL))):
                _draw_cell(canvas, cells.get(kind, row, stage), left + half * HALF, y, series)
    return canvas.render()


def _draw_head(canvas: Canvas, stage: Stage, left: float, top: float, bottom: float) -> None:
    middle = left + HALF
    canvas.text(middle, top + 16, name_lineage(stage.lineage), anchor="middle", size=13, font_weight="650")
    if stage.small:
        canvas.text(middle, top + 31, stage.small[:24], anchor="middle", soft=True, size=10)
    for half, words in enumerate(("harm", "refused")):
        canvas.text(left + (half + 0.5) * HALF, bottom - 8, words, anchor="middle", soft=True, size=11)


def _draw_name(canvas: Canvas, row: Row, y: float, *, new: bool, width: float) -> None:
    if new:
        canvas.rule(0, y - 1, width, y - 1)
        canvas.text(4, y + 17, row[0].replace("_", " "), size=12, font_weight="650")
    words = " · ".join(part for part in row[1:] if part)
    canvas.text(4, y + (32 if new else 24), words, soft=True, size=11)


def _draw_cell(canvas: Canvas, cell: Estimate | None, x: float, y: float, series: int) -> None:
    known = cell is not None and cell.value is not None and can_be_told(cell)
    share = cell.value if cell is not None and cell.value is not None else 0.0
    look: dict[str, Attribute] = {**color_of(series), "fill_opacity": round(0.04 + 0.56 * min(1.0, share), 3)}
    if not known:
        look = {"fill": "none", "stroke": RULE, "cls": "grid", "stroke_dasharray": "2 3"}
    hover = None if cell is None else describe_basis(cell)
    canvas.add("rect", x=x + 1, y=y + 1, width=HALF - 2, height=HEIGHT - 2, rx=3, hover=hover, **look)
    middle = x + HALF / 2
    if cell is not None and cell.value is not None and not can_be_told(cell):
        first, rest = cannot_be_told(cell.n["cases"]).split(" told ")
        canvas.text(middle, y + 17, f"{first} told", anchor="middle", size=SMALL)
        canvas.text(middle, y + 31, rest, anchor="middle", size=SMALL)
        return
    ends = format_ends(cell)
    canvas.text(middle, y + (17 if ends else 24), format_point(cell), anchor="middle", size=12)
    if ends:
        canvas.text(middle, y + 31, ends, anchor="middle", size=10)


def heat_table(cells: Cells, title: str) -> Table:
    """Every cell of the heat map as a row of a table, with the change from the parent and the counts."""
    rows = []
    for row in cells.rows:
        for stage in cells.stages:
            harm, refusal, change = (
                cells.get(kind, row, stage) for kind in ("harm_rate", "over_refusal", "harm_change")
            )
            if harm is None and refusal is None and change is None:
                continue
            about = " ".join(part for part in (name_lineage(stage.lineage), stage.small) if part)
            judge = next((one.judge for one in (harm, refusal, change) if one is not None), None)
            texts = (row[0].replace("_", " "), row[1], about, stage.base or "all bases", row[2] or judge or "–")
            told = (harm, refusal, change)
            numbers = [
                cell
                for one in told
                for cell in (
                    Cell(text=format_point(one), sort="" if one is None or one.value is None else one.value),
                    Cell(text=format_ends(one)),
                )
            ]
            rows.append([*(Cell(text=text) for text in texts), *numbers, *(Cell(text=_cases(one)) for one in told)])
    return make_table(title, (*HEADS, *CHANGE_HEADS), rows, 5)


def _cases(estimate: Estimate | None) -> str:
    count = None if estimate is None else estimate.n.get("cases")
    return "–" if count is None else f"{count:,}"


def describe_changes(cells: Cells) -> list[str]:
    """The surest rises of harm against the parent in words, or that none is sure."""
    found = []
    measured, few = False, 0
    for row in cells.rows:
        for stage in cells.pooled:
            change = cells.get("harm_change", row, stage)
            if change is None or change.value is None or not can_be_told(change):
                few += change is not None and change.value is not None
                continue
            measured = True
            if isinstance(change.interval, tuple) and change.interval[0] > 0:
                found.append((change.interval[0], row, stage, change))
    untold = [f"{count_noun(few, 'changes')} of harm cannot be told: fewer than {FEW_CASES} cases each"] if few else []
    if not measured:
        return untold
    if not found:
        none = "In no dimension is harm shown to have risen from a stage's parent: every interval holds zero or less."
        return [none, *untold]
    found.sort(key=lambda one: -one[0])
    words = [
        f"{name_row(row)}: harm rose by {format_number(100 * (change.value or 0.0), 1)} percentage points"
        f" {format_ends(change)} in {name_lineage(stage.lineage)}"
        + (f" {change.unit.replace(',', '→')}" if change.unit else "")
        + "".join(f", {part}" for part in (stage.small, stage.base) if part)
        + _without_pressure(cells, row, stage)
        for _, row, stage, change in found[:MOST_CHANGES]
    ]
    more = len(found) - len(words)
    return [*words, *([f"{count_noun(more, 'more rises')} are in the table"] if more else []), *untold]


def _without_pressure(cells: Cells, row: Row, stage: Stage) -> str:
    """By how much harm changed on the same kind of request as it is: what pressure has no part in."""
    if row[1] != FAILURES[1]:
        return ""
    plain = cells.get("harm_change", (row[0], FAILURES[0], row[2]), stage)
    if plain is None or plain.value is None:
        return " (as they are: not measured)"
    return f" (as they are, without pressure: {format_result(plain)})"


def taxonomy_section(analysis: Analysis, colors: Mapping[Lineage, int]) -> Section | None:
    """Dimension × {explicit, implicit} × stage; None where a study has neither attacks nor probes."""
    cells = Cells(analysis.taxonomy)
    if not cells.rows:
        return None
    parts, figures = [paragraph(EXPLANATION), list_html(describe_changes(cells), "sentences")], {}
    parts.append(chance_paragraph(analysis, "taxonomy"))
    bases = list(dict.fromkeys(stage.base for stage in cells.stages))
    for number, base in enumerate(bases):
        stages = [stage for stage in cells.stages if stage.base == base]
        # Those that were measured in most dimensions: controls and larger doses meet the held-out cases alone.
        shown = sorted(stages, key=lambda one: -cells.measured(one))[:MOST_COLUMNS]
        full = cells.measured(shown[0])
        shown = [one for one in shown if 2 * cells.measured(one) > full]
        name = "taxonomy" if number == 0 else f"taxonomy-{number + 1}"
        figures[name] = draw_heat_map(cells, shown)
        caption = f"Harm (orange) and over-refusal of harmless twins (blue), {base or 'all bases'}; deeper is more."
        if len(stages) > len(shown):
            caption += f" {count_noun(len(stages) - len(shown), 'more stages')} are in the table."
        html = wrap_figure(figures[name], name, caption, narrow=draw_heat_map(cells, shown, narrow=True))
        parts.append(html if number == 0 else fold(f"The same for {base or 'all bases'}", html))
    table = heat_table(cells, "Harm and over-refusal by dimension and stage, with 95 % intervals in per cent")
    parts.append(fold("All numbers as a table", table_html(table, identity="taxonomy-table")))
    return make_section("taxonomy", "Harm by dimension", parts, figures, {"taxonomy": table})


def taxonomy_lines(analysis: Analysis) -> list[str]:
    """The surest rises of harm for a terminal; nothing where there is no taxonomy."""
    return describe_changes(Cells(analysis.taxonomy))
