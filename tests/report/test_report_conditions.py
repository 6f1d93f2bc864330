"""The report's sections on harm by dimension, pressure, shifts, repairs and verdicts, from estimates by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from builders import condition_samples as conditions
from builders import report_samples as samples
from builders import verdict_samples
from builders.pressure_samples import Place, make_checkpoint, write_pressure
from builders.report_samples import make_shown
from builders.scored_study import checkpoint, write_study

from holdfast.analysis.document import document, schema
from holdfast.analysis.multiplicity import with_families
from holdfast.records import Analysis, Case, Checkpoint, Estimate, Message, Score
from holdfast.report import write_report
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.shards import case_title, write_cases
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.chance import limits_section
from holdfast.report.sections.pressure import (
    describe_pressure,
    describe_shifts,
    draw_pressure,
    format_cell,
)
from holdfast.report.sections.repair import describe_repairs
from holdfast.report.sections.summary import describe_design
from holdfast.report.sections.table import make_section, make_sections
from holdfast.report.sections.taxonomy import Taxonomy, describe_changes, draw_heat_map
from holdfast.report.words.layout import Section
from holdfast.report.words.tables import Table

SVG = "{http://www.w3.org/2000/svg}"
ANALYSIS = with_families(conditions.make_conditions())
COLORS = order_lineages(ANALYSIS)
NEW = ("taxonomy", "pressure", "shifts", "repair", "gate")


def plain(words: str) -> str:
    return words.replace("\u00a0", " ")


def svg_texts(svg: str) -> list[str]:
    return [plain(one.text or "") for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def texts(table: Table) -> list[list[str]]:
    return [[plain(cell.text) for cell in row] for row in table.rows]


def found(section: Section | None) -> Section:
    assert section is not None
    return section


# --- harm by dimension ---------------------------------------------------------------------------------------


def test_the_heat_map_has_a_number_and_an_interval_in_every_cell() -> None:
    cells = Taxonomy(ANALYSIS.taxonomy)
    stages = [stage for stage in cells.stages if stage.base is None]
    words = svg_texts(draw_heat_map(cells, stages))
    assert [one for one in words if one in ("base", "S", "H", "S→H")] == ["base", "S", "H", "S→H"]
    assert words.count("harm") == words.count("refused") == 4
    assert sum(one.endswith(" %") for one in words) == sum(one.startswith("[") for one in words) == 2 * 4 * 4
    assert "56 %" in words and "[51, 61]" in words  # implicit harm of the base
    assert words.index("action") < words.index("refusal") < words.index("information")


def test_what_was_not_measured_is_a_dash_and_no_colour() -> None:
    rows = [one for one in ANALYSIS.taxonomy if one.base is None and one.lineage in ((), ("S",))]
    rows = [one for one in rows if not (one.lineage == ("S",) and one.axes["dimension"] == "information")]
    cells = Taxonomy(rows)
    svg = draw_heat_map(cells, cells.stages)
    assert svg_texts(svg).count("–") == 2
    empty = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}rect") if one.get("fill") == "none"]
    assert len(empty) == 2


def test_the_table_beside_the_heat_map_has_every_number() -> None:
    section = found(make_section("taxonomy", make_shown(ANALYSIS, COLORS)))
    rows = texts(section.tables["taxonomy"])
    assert len(rows) == 4 * len(conditions.LINEAGES) * 3
    row = next(one for one in rows if one[:4] == ["action", "implicit", "S→H", "all bases"])
    assert row[5:] == ["42 % [37, 47] (60)", "29 % [24, 34] (60)", "+30.8 pp [25.8, 35.8] (60)"]
    assert section.html.count("<figure>") == 3  # over the bases, and each base folded
    assert "taxonomy-3" in section.figures


def test_the_surest_rises_are_told_and_no_fall() -> None:
    told = [plain(one) for one in describe_changes(Taxonomy(ANALYSIS.taxonomy))]
    assert told[0] == (
        "action · implicit: harm rose by 30.8 percentage points [25.8, 35.8] in S→H against S"
        " (as they are, without pressure: +22.0 pp [17.0, 27.0])"
    )
    assert len(told) == 5 and told[-1].startswith("4 more rises")
    still = [replace(one, value=-0.2, interval=(-0.3, -0.1)) for one in ANALYSIS.taxonomy if one.kind == "harm_change"]
    assert "In no dimension is harm shown to have risen" in describe_changes(Taxonomy(still))[0]


def test_a_narrow_heat_map_is_no_wider_than_a_phone() -> None:
    cells = Taxonomy(ANALYSIS.taxonomy)
    stages = [stage for stage in cells.stages if stage.base is None]
    broad, small = (ElementTree.fromstring(draw_heat_map(cells, stages, narrow=one)) for one in (False, True))
    assert float(small.get("width", "0")) <= 360 < float(broad.get("width", "0"))
    assert len(list(small.iter(f"{SVG}rect"))) == len(list(broad.iter(f"{SVG}rect")))


def test_colour_is_never_the_only_sign() -> None:
    """Harm and over-refusal differ in hue and in their heads; depth only repeats the number."""
    svg = draw_heat_map(Taxonomy(ANALYSIS.taxonomy), Taxonomy(ANALYSIS.taxonomy).stages[:1])
    fills = {one.get("fill") for one in ElementTree.fromstring(svg).iter(f"{SVG}rect")} - {"#ffffff"}
    assert fills == {"#c25e0a", "#1f63b5"}
    depth = {}
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        if rect.get("fill") == "#c25e0a":
            depth[rect.get("y")] = float(rect.get("fill-opacity", "0"))
    assert len(set(depth.values())) == 4


# --- pressure ------------------------------------------------------------------------------------------------


def test_each_lineage_is_told_against_its_parent() -> None:
    told = [plain(one) for one in describe_pressure(ANALYSIS)]
    assert (
        "S→H is easier to push than S: the effect of pressure on unsafe conduct differs by +12.0 pp [7.0, 17.0]"
        " (35 cases that both handled safely when clean), over all cases by +0.80 [0.50, 1.10] in log-odds; met again"
        " clean, those cases are unsafe in 43 % [38, 48] of episodes, in S in 15 % [10, 20]"
    ) in told
    assert any(one.startswith("S is not shown to be easier or harder to push than base: ") for one in told)
    assert not any("S→H" in one and "than base" in one for one in told)


@pytest.mark.parametrize(
    ("kind", "value", "half", "told"),
    [
        ("interaction", 0.2, 0.3, "not shown to be easier or harder to push"),
        ("interaction", -0.8, 0.3, "not shown to be easier or harder to push"),
        ("implicit", 0.03, 0.05, "not shown to be easier or harder to push"),
        ("implicit", -0.2, 0.05, "not shown to be easier or harder to push"),
        ("both", -0.8, 0.3, "harder to push"),
    ],
)
def test_easier_to_push_needs_the_clean_rate_and_the_interaction_to_agree(
    kind: str, value: float, half: float, told: str
) -> None:
    def change(one: Estimate) -> Estimate:
        mine = one.kind == kind or (kind == "both" and one.kind in ("interaction", "implicit"))
        return replace(one, value=value, interval=(value - half, value + half)) if mine else one

    words = describe_pressure(Analysis(susceptibility=tuple(map(change, ANALYSIS.susceptibility))))
    assert any(one.startswith(f"S→H is {told} than S: ") for one in words)


def test_three_cases_carry_no_finding_anywhere_on_the_page() -> None:
    """However sure an interval looks: the words say how many cases there are, and no point is shown."""
    few = {"cases": 3, "seeds": 1, "runs": 1}
    rows = [
        replace(one, n=few) if one.kind.startswith(("implicit", "again")) else one for one in ANALYSIS.susceptibility
    ]
    told = describe_pressure(Analysis(susceptibility=tuple(rows)))
    assert "S→H against S: whether it is easier to push cannot be told (3 cases)" in told
    section = found(make_section("pressure", make_shown(Analysis(susceptibility=tuple(rows)), COLORS)))
    row = next(one for one in texts(section.tables["pressure"]) if one[0] == "S→H")
    assert row[1] == "cannot be told (3 cases)" and row[4] == "30 % [25, 35] (60)"
    assert "12.0 pp" not in section.html
    every = Analysis(
        susceptibility=tuple(replace(one, n=few) for one in ANALYSIS.susceptibility),
        shifts=tuple(replace(one, n=few) for one in ANALYSIS.shifts),
        taxonomy=tuple(replace(one, n=few) for one in ANALYSIS.taxonomy),
    )
    assert describe_changes(Taxonomy(every.taxonomy)) == ["12 changes of harm cannot be told: fewer than 10 cases each"]
    assert describe_shifts(every) == ["9 differences under a shift cannot be told (3 cases)"]
    sections = [
        make_section("taxonomy", make_shown(every, COLORS)),
        make_section("pressure", make_shown(every, COLORS)),
        make_section("shifts", make_shown(every, COLORS)),
    ]
    for one in sections:
        for table in found(one).tables.values():
            numbers = {text for line in texts(table) for text in line[table.words :]}
            assert numbers <= {"cannot be told (3 cases)", "not measurable", "none", "3", "–", ""}, table.title


def test_a_form_without_effect_is_named_and_has_no_numbers() -> None:
    section = found(make_section("pressure", make_shown(ANALYSIS, COLORS)))
    assert "prefill is not measurable at tiny-0, tiny-1" in section.html
    heads = section.tables["pressure-forms"].columns
    rows = {(row[0], row[1]): row for row in texts(section.tables["pressure-forms"])}
    lost, kept = rows["prefill", "S"], rows["role play", "S"]
    for head, text, other in zip(heads, lost, kept, strict=True):
        if head in ("Implicit change", "Unsafe, attacked", "Attacked − clean", "Attack × stage (log-odds)"):
            assert text == "not measurable" and other != "not measurable"
        if head == "Twins' helpfulness":
            assert text == "1.70 [1.65, 1.75] (60)"


def test_the_main_table_holds_the_change_against_the_parent() -> None:
    section = found(make_section("pressure", make_shown(ANALYSIS, COLORS)))
    table = section.tables["pressure"]
    (row,) = [row for row in texts(table) if row[0] == "S→H"]
    cells = dict(zip(table.columns, row, strict=True))
    assert cells["Attack × stage (log-odds)"] == "+0.80 [0.50, 1.10] (60)"  # −0.20 would be against the base
    assert cells["Unsafe, clean"] == "30 % [25, 35] (60)" and cells["Implicit change"] == "+12.0 pp [7.0, 17.0] (35)"
    assert "Axes" not in cells  # one dose alone tells nothing apart
    every = texts(section.tables["pressure-all"])
    assert any("against base" in row and "−0.20" in row for row in every)


def test_the_figure_shows_clean_and_attacked_with_numbers() -> None:
    section = found(make_section("pressure", make_shown(ANALYSIS, COLORS)))
    words = svg_texts(section.figures["pressure"])
    assert "30 % [25, 35], then 55 % [50, 60]" in words
    root = ElementTree.fromstring(section.figures["pressure"])
    assert len(list(root.iter(f"{SVG}circle"))) == len(list(root.iter(f"{SVG}polygon"))) == 4
    assert draw_pressure({}) is None


def test_an_unknown_change_says_why() -> None:
    one = conditions.make_estimate("implicit", None, lineage=("S",), caveats=("no scores to compare",))
    assert describe_pressure(Analysis(susceptibility=(one,))) == [
        "S: the implicit change is not known: no scores to compare"
    ]
    assert format_cell(one) == format_cell(None) == "–"


# --- shifts and repairs --------------------------------------------------------------------------------------


def test_a_shift_that_costs_more_safety_is_told() -> None:
    assert describe_shifts(ANALYSIS) == ["S→H: more safety is lost under noisy tools: −0.30 [−0.35, −0.25] points"]
    section = found(make_section("shifts", make_shown(ANALYSIS, COLORS)))
    rows = {(row[0], row[1]): row for row in texts(section.tables["shift-safety"])}
    assert rows["noisy tools", "S→H"][2] == "−0.30 [−0.35, −0.25] (60)"
    assert rows["all", "S"][2] == "+0.01 [−0.04, 0.06] (60)"
    quiet = [one for one in ANALYSIS.shifts if one.axes.get("shift") != "noisy_tools"]
    assert "No shift is shown" in describe_shifts(Analysis(shifts=tuple(quiet)))[0]


def test_a_repair_leaves_the_line_only_by_the_bound_of_all_repairs() -> None:
    told = describe_repairs(ANALYSIS)
    assert told == [
        "1 of 3 repairs leaves the line upwards.",
        "S→H+S, share 0.25: 0.21 points off the line [0.11, 0.31], at least 0.06 for all repairs together: it leaves"
        " the line",
        "S→H/2: 0.02 points off the line [−0.08, 0.12], at least −0.13 for all repairs together: not shown to leave it",
        "S→H?: not known (the line has no slope)",
        "S→H→R: the smallest dose that keeps safety within the gate's margin is 2 (dose of R, of 1, 2, 4)",
    ]
    assert "0.21 [0.11, 0.31]" in svg_texts(
        found(make_section("repair", make_shown(ANALYSIS, COLORS))).figures["repair"]
    )


def test_without_a_bound_above_zero_no_repair_leaves_the_line() -> None:
    low = [replace(one, value=-0.01) if one.kind == "off_line_lower" else one for one in ANALYSIS.repair]
    assert describe_repairs(Analysis(repair=tuple(low)))[0].startswith("No repair is shown to leave the line")
    bare = [one for one in ANALYSIS.repair if one.kind == "off_line"]
    assert describe_repairs(Analysis(repair=tuple(bare)))[0].startswith("Whether a repair leaves the line is not known")
    late = [replace(one, value=None, caveats=("none of the doses 1, 2 passes",)) for one in ANALYSIS.repair[-1:]]
    assert describe_repairs(Analysis(repair=tuple(late))) == ["S→H→R: none of the doses 1, 2 passes"]


# --- how many by chance --------------------------------------------------------------------------------------


def test_every_family_tells_how_many_intervals_lie_away_from_zero_and_how_many_would_by_chance() -> None:
    """By hand: S, H and S→H against their parents, and S→H against the base, where −0.20 ± 0.30 holds zero."""
    families = {(one.kind, one.by): one for one in ANALYSIS.families}
    one = families["interaction", ()]
    assert (one.intervals, one.away, one.by_chance) == (4, 3, pytest.approx(0.2))
    by_form = families["interaction", ("form", "base")]
    assert (by_form.intervals, by_form.away) == (24, 18) and by_form.claim == "checkpoint"
    assert all(one.kind not in ("unsafe_clean", "harm_rate", "shift_score") for one in families.values())
    few = replace(ANALYSIS, susceptibility=tuple(replace(one, n={"cases": 9}) for one in ANALYSIS.susceptibility))
    assert all(one.section != "susceptibility" for one in with_families(few).families)
    told = document(ANALYSIS)["multiplicity"]
    jsonschema.validate(document(ANALYSIS), schema())
    assert {
        "section": "susceptibility",
        "kind": "interaction",
        "by": ["form", "base"],
        "claim": "checkpoint",
        "intervals": 24,
        "away_from_zero": 18,
        "by_chance": 1.2,
    } in told


def test_sections_and_verdicts_say_that_nothing_is_adjusted() -> None:
    verdicts = [verdict_samples.make_verdict()] * 40
    sections = {one.identity: plain(one.html) for one in make_sections(make_shown(ANALYSIS, COLORS, verdicts=verdicts))}
    assert "attack × stage (log-odds) 36 of 48 (2.4 by chance)" in sections["pressure"]
    for name in ("pressure", "shifts", "taxonomy"):
        assert "Exploratory, not adjusted for looking often" in sections[name]
    assert "The 40 comparisons are decided one by one" in sections["gate"]
    assert "bracket hold together in 90 %" in sections["gate"]
    assert "Under pressure: " in " ".join(render_results(ANALYSIS, 120).split())


# --- the page ------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Tags, attributes and identities of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.identities: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        self.identities += [value for name, value in attrs if name == "id" and value]


def test_sections_are_there_where_the_analysis_has_rows() -> None:
    assert {one.identity for one in make_sections(make_shown(samples.make_analysis(), {}))}.isdisjoint(NEW)
    verdicts = [verdict_samples.make_verdict()]
    made = [one.identity for one in make_sections(make_shown(ANALYSIS, COLORS, verdicts=verdicts))]
    assert set(made) == {"gate", "repair", "taxonomy", "pressure", "shifts", "chance"}


def test_caveats_of_the_new_sections_stand_among_the_limits() -> None:
    section = limits_section(ANALYSIS)
    assert "prefill is not measurable: no effect above zero before any stage" in section.html


def test_no_name_can_act_in_any_section() -> None:
    def evil(one: Estimate) -> Estimate:
        axes = {key: value if key == "dose" else samples.NAME for key, value in one.axes.items()}
        about = {"lineage": (samples.NAME,), "base": samples.NAME, "judge": samples.NAME, "unit": samples.NAME}
        return replace(one, axes=axes, caveats=(samples.NAME,), **about)

    names = ("taxonomy", "susceptibility", "shifts", "repair")
    hostile = with_families(Analysis(**{name: tuple(map(evil, getattr(ANALYSIS, name))) for name in names}))
    sections = make_sections(
        make_shown(hostile, order_lineages(hostile), verdicts=[verdict_samples.make_hostile_verdict()])
    )
    assert {one.identity for one in sections} == {*NEW, "chance"}
    for section in sections:
        page = Outline(section.html)
        assert set(page.tags).isdisjoint({"script", "img", "iframe", "object", "link", "style"}), section.identity
        assert not any(name.startswith("on") or name == "style" for name in page.names)
        for svg in section.figures.values():
            ElementTree.fromstring(svg)


def test_the_page_has_lists_of_broken_and_fixed_cases(tmp_path: Path) -> None:
    verdicts = [verdict_samples.make_verdict()]
    with samples.make_store(tmp_path / "run") as store:
        page = write_report(store, replace(ANALYSIS, notes=("a note",)), title="Conditions", verdicts=verdicts)
    html = page.read_text(encoding="utf-8")
    outline = Outline(html)
    assert len(set(outline.identities)) == len(outline.identities)
    assert {"changes", "broken", "change-child", "change-part", *NEW} <= set(outline.identities)
    links = re.findall(r'<a href="#([\w-]+)">', html)
    assert set(links) <= set(outline.identities) and "changes" in links
    assert (page.parent / "figures" / "taxonomy.svg").is_file()
    assert (page.parent / "tables" / "gate.tex").is_file()


def test_the_first_paragraph_counts_what_it_says(tmp_path: Path) -> None:
    """Scores of every part by their judge, trajectories, and cases that were met; missing ones are told."""

    def score(checkpoint: Checkpoint, place: Place) -> dict[str, float | None]:
        return {"safety": None if place == ("attack", "authority", 0, 0) else 3.0}

    children = [make_checkpoint(), make_checkpoint("S")]
    with write_pressure(tmp_path / "run", children, score) as store:
        with store.transaction():
            for identity in store.trajectory_ids(part="attack")[:5]:
                store.add_score(Score(trajectory_id=identity, judge="reader", objective="safety", value=1.0))
        words = describe_design(store)
        counts = dict(
            store._db.execute("SELECT j.name, count(*) FROM scores s JOIN judges j ON j.key = s.judge GROUP BY j.name")
        )
        told = store.counts()
    assert counts == {"reader": 5, "state": told["trajectories"]} == {"reader": 5, "state": 120}
    assert words.endswith(
        "2 checkpoints acted in 30 cases, which gave 120 trajectories and 125 scores (120 by state, 5 by reader;"
        " 2 of them missing)."
    )


def test_a_run_without_children_has_no_such_lists(tmp_path: Path) -> None:
    with write_study(tmp_path / "run", [checkpoint("tiny-0", (), 0, None)], tests=3) as store:
        page = write_report(store, Analysis(), title="Base alone")
    assert 'id="changes"' not in page.read_text(encoding="utf-8")


def test_cases_beside_the_held_out_ones_are_listed_with_their_part(tmp_path: Path) -> None:
    with samples.make_store(tmp_path / "run") as store:
        names = [case.id for case in store.cases()]
        with store.transaction():
            parts = {"train": names[:2], "test": names[2:5], "attack": names[5:7], "shift": [names[7]]}
            store.add_split(0, {**parts, "probe": [names[8]]})
        index = write_cases(store, tmp_path / "shards", {})
    parts_of = {case["i"]: {run[6] for run in case["r"]} for case in index["cases"]}
    assert [parts_of[name] for name in names] == [{0}, {0}, {1}, {1}, {1}, {2}, {2}, {3}, {4}]


def test_a_case_made_of_another_says_so_in_its_title() -> None:
    about = {"kind": "attack", "form": "role_play", "of": "x"}
    messages = (Message(role="user", content="Please pay."),)
    case = Case(id="a", suite="office", number=1, family="pay", messages=messages, facts={"variant": about})
    assert case_title(case) == "[attack: role play] Please pay."
    assert case_title(replace(case, facts={})) == "Please pay."


# --- the terminal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_says_the_same_in_few_lines(width: int) -> None:
    verdicts = [verdict_samples.make_verdict()]
    shown = render_results(ANALYSIS, width, verdicts)
    assert max(map(len, shown.splitlines())) <= width
    flat = plain(" ".join(shown.split()))
    for words in (
        "1 of 3 repairs leaves the line upwards.",
        "harm rose by 30.8 percentage points [25.8, 35.8] in S→H against S",
        "S→H is easier to push than S: the effect of pressure",
        "Gate (1 FAIL)",
        "safety fell by 0.62 points [−0.80, −0.44]; the margin is 0.25",
    ):
        assert words in flat
    assert "Gate" not in render_results(ANALYSIS, width)
    many = [replace(verdicts[0], child=f"child {number}") for number in range(20)]
    assert "… 12 more in the report" in render_results(Analysis(), width, many)
