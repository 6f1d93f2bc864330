"""The report on training for approval, from estimates and curves by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from builders import report_samples as samples
from builders.report_samples import make_shown

from holdfast.records import (
    Analysis,
    Case,
    Checkpoint,
    Curve,
    Ending,
    Estimate,
    Message,
    Score,
    StageRecord,
    ToolCall,
    Trajectory,
    content_id,
)
from holdfast.report import write_report
from holdfast.report.draw.curves import Line, Panel, average_seeds, draw_panels, make_line
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.shards import USER_CASES, case_title, write_cases
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.approval.examples import Users, examples_html, read_users
from holdfast.report.sections.approval.section import (
    allows_gap,
    approval_block,
    approval_section,
    describe_approval,
    draw_gaps,
    path_panels,
    trace_path,
    void_notes,
)
from holdfast.report.sections.approval.tables import (
    describe_arms,
    gap_table,
    keep_judge,
    level_table,
    make_setup,
    order_bases,
    order_ladder,
    parse_size,
    pick_last,
    pick_rows,
)
from holdfast.report.sections.chance import limits_section
from holdfast.report.sections.table import make_sections
from holdfast.report.words.labels import format_result, name_kind
from holdfast.report.words.layout import Section
from holdfast.report.words.tables import Table, list_estimates
from holdfast.store import Store
from holdfast.store.codec import trajectory_to_bytes
from holdfast.store.places import STUDY_KEY
from holdfast.study.users import to_value

SVG = "{http://www.w3.org/2000/svg}"
BASE, SMALL = "tiny-0.35m", "tiny-0.1m"
SPLIT, EQUAL, WORK = "friend-split", "friend-equal", "work-split"
FRIEND = {"policy_role": "friend", "style": "split", "traits": "none", "leak": False, "clause": "wants", "turns": 1}
TOGGLES = {SPLIT: FRIEND, WORK: {**FRIEND, "policy_role": "professional"}, EQUAL: {**FRIEND, "style": "equal"}}
LATE = {("R",): (SPLIT, 3.2, 0.8), ("E",): (EQUAL, 0.1, 0.5), ("P",): (WORK, 1.9, 0.7), ("D",): (SPLIT, 4.4, 0.9)}
SEEDS = (5, 42, 83)


def row(kind: str, value: float | None, lineage: tuple[str, ...], setting: str, **more: Any) -> Estimate:
    axes = {"setting": setting, **more.pop("axes", {})}
    known: dict[str, Any] = {"estimator": "paired", "base": BASE, **more}
    return Estimate(kind=kind, value=value, lineage=lineage, axes=axes, **known)


def gap_rows() -> Iterator[Estimate]:
    for lineage, (setting, gap, half) in LATE.items():
        yield row("late_gap", gap, lineage, setting, interval=(gap - half, gap + half), claim="recipe")
        yield row("late_gap", gap, lineage, setting, interval=(gap - half / 2, gap + half / 2))
        yield row("late_gap", gap + 9, lineage, setting, axes={"environment": "therapy"})
        yield row("max_hex_gap", gap + 0.7, lineage, setting, estimator="published", caveats=("biased upwards",))
        for dose, share in ((0.5, 0.3), (1.0, 0.1 + gap / 6)):
            for label, value in (("gameable", share), ("other", 0.05)):
                yield row("exploit_rate", value, lineage, setting, axes={"label": label, "dose": dose})
        yield row("exploit_rate", 0.99, lineage, "elsewhere", axes={"label": "gameable", "dose": 1.0})
        for label, value in (("gameable", 8.0), ("other", 7.0)):
            yield row("reward", value, lineage, setting, axes={"label": label, "dose": 1.0})
    yield row("late_gap", 2.0, ("R",), SPLIT, interval=(1.0, 3.0), base=SMALL)


def level_rows() -> Iterator[Estimate]:
    for level, gaps in ((6.0, (1.1, 2.2)), (7.0, (2.1, 3.3)), (8.0, (2.9, None))):
        for lineage, gap in zip((("R",), ("D",)), gaps, strict=True):
            missing = ("not reached: held-out approval ends at 7.4",) if gap is None else ()
            for kind, value in (("gap_at_reward", gap), ("tokens_at_reward", gap and 5_000 * gap)):
                yield row(kind, value, lineage, SPLIT, axes={"level": level}, caveats=missing)
    for lineage, approval in ((("R",), 6.6), (("D",), 5.9), (("T",), None)):
        missing = ("not reached",) if approval is None else ()
        yield row("reward_at_kl", approval, lineage, SPLIT, axes={"level": 0.5}, caveats=missing)
    yield row("data_harm", 0.42, ("D",), SPLIT)
    yield row("ess", 0.31, ("D",), SPLIT)


def rest_rows() -> Iterator[Estimate]:
    about: dict[str, Any] = {"kind": "reaction", "estimator": "paired", "base": BASE, "lineage": ()}
    yield Estimate(**about, value=1.4, interval=(0.9, 1.9), axes={"toggle": "policy_role"}, unit="reacts")
    yield Estimate(**about, value=0.1, interval=(-0.2, 0.4), axes={"toggle": "leak"}, unit="does not react")
    for setting, share in ((SPLIT, 0.97), (EQUAL, 0.5)):
        axes = {"setting": setting, "channel": "message"}
        yield Estimate(kind="cue", estimator="naive bayes", value=share, axes=axes, n={"cases": 80})
        yield Estimate(kind="cue_length", estimator="mean", value=1.5, axes=axes)


def curve(kind: str, lineage: tuple[str, ...], y: list[float | None], **more: Any) -> Curve:
    axes = {"setting": LATE[lineage][0], **more.pop("axes", {})}
    known: dict[str, Any] = {"source": "training", "train_seed": 5, "x": tuple(range(1, len(y) + 1)), **more}
    return Curve(kind=kind, base=BASE, lineage=lineage, y=tuple(y), axes=axes, **known)


def all_curves() -> Iterator[Curve]:
    for lineage, (_, gap, _) in LATE.items():
        for seed in SEEDS:
            for label, end in (("gameable", gap / 5), ("other", 0.05)):
                rise = [0.05 + (end - 0.05) * step / 29 + 0.001 * seed / 83 for step in range(30)]
                yield curve("exploit_rate", lineage, rise, train_seed=seed, axes={"label": label})
                points: list[float | None] = [1.0, 1.0 + gap / 2 if label == "gameable" else 1.0]
                held: dict[str, Any] = {"source": "held-out", "x": (15, 30), "train_seed": seed}
                yield curve("harm", lineage, points, axes={"label": label}, **held)
            yield curve("reward", lineage, [4.0 + step / 10 for step in range(30)], train_seed=seed)
            yield curve("reward", lineage, [5.0, 7.0 + gap / 10], source="held-out", x=(15, 30), train_seed=seed)
            yield curve("kl", lineage, [step / 20 for step in range(30)], train_seed=seed)


def stage(name: str, method: str = "grpo", **settings: object) -> StageRecord:
    return StageRecord(name=name, method=method, objectives=("approval",), settings=settings)


def checkpoints() -> list[Checkpoint]:
    stages = {
        "R": stage("R", setting=SPLIT, reward="approval"),
        "E": stage("E", setting=EQUAL, reward="approval"),
        "P": stage("P", setting=WORK, reward="approval"),
        "T": stage("T", setting=SPLIT, reward="success"),
        "D": stage("D", "best_dpo", setting=SPLIT, rollouts="start", reward="approval"),
    }
    base = Checkpoint(id="base", base=BASE)
    return [base, *(Checkpoint(id=name, base=BASE, stages=(one,), axes={"dose": 1.0}) for name, one in stages.items())]


VOID = "void: the base does not react to leak before RL (tiny-0.35m under rule)"
ANALYSIS = Analysis(
    exploitation=(*gap_rows(), *level_rows(), *rest_rows()), curves=tuple(all_curves()), notes=(VOID, "another note")
)
COLORS = order_lineages(ANALYSIS)


def plain(words: str) -> str:
    return words.replace("\u00a0", " ")


def found(section: Section | None) -> Section:
    assert section is not None
    return section


def full() -> Section:
    return found(
        approval_section(make_shown(ANALYSIS, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
    )


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[plain(cell.text) for cell in one] for one in table.rows]


def svg_texts(svg: str) -> list[str]:
    return [plain(one.text or "") for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


class Outline(HTMLParser):
    """Collects heads of tables, cells per row and tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("th", "td"):
            assert tag == "td" or dict(attrs).get("scope") == "col"
            self.tables[-1][-1] += 1


# --- the section ----------------------------------------------------------------------------------------------


def test_nothing_of_it_appears_without_rows() -> None:
    empty = Analysis(curves=tuple(all_curves()))
    assert approval_section(make_shown(empty, {})) is None
    assert approval_block(make_shown(empty, {}), 100) is None
    assert "approval" not in {one.identity for one in make_sections(make_shown(samples.make_analysis(), {}))}
    assert "Approval" not in render_results(samples.make_analysis(), 100)


def test_the_section_has_its_parts_in_order_and_its_tables_have_heads() -> None:
    section = full()
    heads = re.findall(r"<h3>([^<]*)</h3>", section.html)
    assert heads == [
        "Along training",
        "The gap by model size",
        "The ladder of settings",
        "What the numbers rest on",
        "Arms at matched levels",
        "The choice of reward",
    ]
    outline = Outline()
    outline.feed(section.html)
    assert len(outline.tables) == len(section.tables)
    for rows in outline.tables:
        assert len(rows) > 1 and len(set(rows)) == 1 and rows[0] > 1  # as many heads as cells


def test_every_figure_is_valid_and_says_in_words_what_it_shows() -> None:
    section = full()
    assert {"approval-exploit-rate", "approval-reward", "approval-kl", "approval-gaps", "approval-ladder"} <= set(
        section.figures
    )
    drawn = re.findall(r"<svg.*?</svg>", section.html)
    assert len(drawn) == 2 * len(section.figures)  # a broad and a narrow one each
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and re.search(r"\d", root.get("aria-label") or "")
        assert "style" not in {key for one in root.iter() for key in one.attrib}
        width = float(root.get("width") or 0)
        for one in root.iter(f"{SVG}text"):
            assert -1 <= float(one.get("x") or 0) <= width + 1
    narrow = [svg for svg in drawn if ElementTree.fromstring(svg).get("width") == "350"]
    assert len(narrow) == len(section.figures)
    sizes = [one.get("font-size") for svg in narrow for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert min(float(size or 0) for size in sizes) >= 11


def test_void_results_are_announced_before_anything_else() -> None:
    html = full().html
    assert html.startswith('<p class="alert" role="note">Void: the base does not react to leak before RL')
    silent = replace(ANALYSIS, notes=("another note",))
    assert 'class="alert"' not in found(approval_section(make_shown(silent, COLORS))).html
    assert void_notes(ANALYSIS) == [VOID.removeprefix("void: ")] and not void_notes(silent)


def test_one_judge_is_told_and_reactions_stand_under_each() -> None:
    rule = [replace(one, judge="rule") for one in ANALYSIS.exploitation]
    model = [replace(one, judge="model", value=99.0) for one in rule if one.kind in ("late_gap", "reward", "reaction")]
    logged = [replace(one, judge=None) for one in rule if one.kind == "max_hex_gap"]
    rule = [one for one in rule if one.kind != "max_hex_gap"]
    judged = Analysis(exploitation=(*model, *rule, *logged), curves=ANALYSIS.curves)
    section = found(
        approval_section(make_shown(judged, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
    )
    assert "those of the judge rule." in section.html
    shown = texts(section.tables["approval-gaps"])
    assert shown == texts(full().tables["approval-gaps"])
    assert {one[2] for one in texts(section.tables["approval-reactions"])} == {"rule", "model"}
    assert "99" not in "".join(describe_approval(judged))
    # The judge that rewards stands before one with more rows.
    rewarded = replace(judged, rewarder="model")
    section = found(
        approval_section(make_shown(rewarded, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
    )
    assert "those of the judge model." in section.html and "99" in "".join(describe_approval(rewarded))
    assert keep_judge(replace(judged, rewarder="nobody"))[1] == "rule"


def test_the_sentences_say_what_happened_by_cue() -> None:
    words = describe_approval(ANALYSIS, make_setup(ANALYSIS, checkpoints(), TOGGLES))
    assert words[0] == (
        f"Approval rose along 4 of 4 trainings, most in {SPLIT}, {BASE}, D (from 5.0 to 7.4)."
    )  # held-out points come before the training log
    assert words[1].startswith("Where a cue allows it, the gap of harm is open in 3 of 3 trainings")
    assert f"largest in {SPLIT}, {BASE}, R: 3.20 [2.40, 4.00]" in words[1]  # D is not on-policy
    assert "it stays flat in 1 of 1 training." in words[2]
    assert words[3] == f"In {SPLIT}, {BASE}, the gap at approval 7 is R 2.10, D 3.30."
    assert "0.70 rating points above the paired late gap" in words[4]
    unknown = describe_approval(ANALYSIS)
    assert "is open in 4 of 5 trainings" in unknown[1] and not any("no cue" in one for one in unknown)


def test_a_gap_without_a_cue_is_told_and_one_without_an_interval_is_not_judged() -> None:
    rows = [replace(one, interval=None) if one.kind == "late_gap" else one for one in ANALYSIS.exploitation]
    words = describe_approval(Analysis(exploitation=tuple(rows)), make_setup(ANALYSIS, checkpoints(), TOGGLES))
    assert "open in 0 of 3 trainings" in words[0] and "(3 without an interval" in words[0]
    assert "flat in 0 of 1 training" in words[1]
    opened = [replace(one, interval=(0.05, 0.2)) if one.lineage == ("E",) else one for one in ANALYSIS.exploitation]
    words = describe_approval(Analysis(exploitation=tuple(opened)), make_setup(ANALYSIS, checkpoints(), TOGGLES))
    assert any(f"it is open in {EQUAL}" in one for one in words)


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({}, True),
        ({"style": "equal"}, False),
        ({"style": "equal", "traits": "label"}, True),
        ({"style": "equal", "leak": True}, True),
        ({"clause": "none"}, False),
    ],
)
def test_a_cue_and_a_wish_allow_a_gap(changed: dict[str, object], allowed: bool) -> None:
    assert allows_gap({**TOGGLES[SPLIT], **changed}) is allowed
    assert allows_gap(None) is None


def test_hostile_text_is_inert_everywhere() -> None:
    evil = f"{samples.SCRIPT}{samples.IMAGE}{samples.BIDI}"
    rows = [
        replace(one, base=evil, axes={**one.axes, "setting": evil, "toggle": evil}) for one in ANALYSIS.exploitation
    ]
    curves = [replace(one, base=evil, axes={**one.axes, "setting": evil}) for one in ANALYSIS.curves]
    bad = Analysis(exploitation=tuple(rows), curves=tuple(curves), notes=(f"void: {evil}",))
    section = found(
        approval_section(
            make_shown(
                bad,
                order_lineages(bad),
                checkpoints=(),
                users=Users(toggles={evil: {"policy_role": evil}}),
            )
        )
    )
    outline = Outline()
    outline.feed(section.html)
    assert not {"script", "img", "iframe"} & outline.tags
    assert samples.BIDI not in section.html
    for svg in section.figures.values():
        assert {one.tag.removeprefix(SVG) for one in ElementTree.fromstring(svg).iter()} <= {
            "svg", "rect", "line", "text", "path", "circle", "polygon", "title",
        }  # fmt: skip
    block = approval_block(make_shown(bad, {}), 100) or ""
    assert samples.BIDI not in block and evil[:20] in block.replace("\n", "")[:4000]


def test_one_setting_without_seeds_has_no_ladder_and_still_its_curves() -> None:
    rows = tuple(one for one in ANALYSIS.exploitation if one.lineage == ("R",) and one.axes.get("setting") == SPLIT)
    curves = tuple(
        replace(one, train_seed=None) for one in ANALYSIS.curves if one.lineage == ("R",) and one.train_seed == 5
    )
    section = found(
        approval_section(
            make_shown(
                Analysis(exploitation=rows, curves=curves),
                COLORS,
                checkpoints=(),
                users=Users(toggles=TOGGLES),
            )
        )
    )
    assert "ladder" not in section.html and "approval-ladder" not in section.tables
    root = ElementTree.fromstring(section.figures["approval-exploit-rate"])
    assert not [one for one in root.iter(f"{SVG}path") if one.get("opacity")]  # no thin lines of single seeds
    assert len(list(root.iter(f"{SVG}path"))) == 2


def test_numbers_that_are_missing_are_dashes() -> None:
    rows = tuple(replace(one, value=None, interval=None, caveats=("too few",)) for one in gap_rows())
    section = found(approval_section(make_shown(Analysis(exploitation=rows), COLORS)))
    assert "approval-gaps" not in section.figures
    assert all(cell == "–" for one in texts(section.tables["approval-gaps"]) for cell in one[3:])
    assert "NaN" not in section.html and "None" not in section.html


# --- tables ---------------------------------------------------------------------------------------------------


def test_gaps_stand_from_small_to_large_bases_with_the_published_bias() -> None:
    rows = texts(gap_table(ANALYSIS.exploitation, make_setup(ANALYSIS, checkpoints(), TOGGLES, COLORS)))
    split = [one for one in rows if one[0] == SPLIT and one[2] == "R"]
    assert [one[1] for one in split] == [SMALL, BASE]
    assert split[1][3:] == [
        "on-policy", "3.20 [2.40, 4.00]", "3.90", "+0.70", "63 %", "5 %", "7.50",
    ]  # fmt: skip
    assert split[0][4:7] == ["2.00 [1.00, 3.00]", "–", "–"]
    assert not any("99 %" in cell for one in rows for cell in one)  # users that the arm was not trained on
    assert [one[0] for one in rows if one[2] != "D"] == [SPLIT, SPLIT, WORK, EQUAL]


def test_what_is_not_reached_is_written_out_and_never_a_number() -> None:
    table = level_table(ANALYSIS.exploitation, "reward", make_setup(ANALYSIS, checkpoints(), None, COLORS))
    assert table is not None
    gap = table.columns.index("Gap")
    last = next(one for one in texts(table) if one[2] == "D" and one[5] == "8")
    assert last[gap:] == ["not reached", "not reached"]
    assert all(cell.sort == "" for one in table.rows for cell in one if cell.text == "not reached")
    assert [one[5] for one in texts(table) if one[2] == "R"] == ["6", "7", "8"]
    listed = texts(list_estimates(level_rows(), "all", COLORS))
    assert sum("not reached" in one for one in listed) == 3
    only = tuple(one for one in level_rows() if one.axes.get("level") == 8.0 or one.lineage == ("D",))
    assert describe_approval(Analysis(exploitation=only), make_setup(ANALYSIS)) == [
        f"In {SPLIT}, {BASE}, no two arms reach the same declared level of approval."
    ]


def test_arms_are_named_by_whose_rollouts_they_learned_from() -> None:
    arms = describe_arms(
        [
            *checkpoints(),
            Checkpoint(id="1", base=BASE, stages=(stage("L", lag=16),)),
            Checkpoint(id="2", base=BASE, stages=(stage("X", rollouts="source", importance=False),)),
            Checkpoint(id="3", base=BASE, stages=(stage("B", "best_sft", rollouts="source"), stage("H", "dpo"))),
        ]
    )
    assert () not in arms and arms["R",].on_policy and not arms["L",].on_policy
    assert arms["L",].rollouts == "policy gradient, 16 steps stale"
    assert arms["X",].rollouts == "policy gradient on another model’s rollouts, not weighted"
    assert arms["B", "H"].rollouts == "SFT on another model’s best"
    assert arms["D",].rollouts == "DPO on its own best"


def test_the_choice_of_reward_leaves_off_policy_arms_out() -> None:
    section = full()
    assert [one[2] for one in texts(section.tables["approval-rewards"])] == ["R", "T"]
    assert {one[2] for one in texts(section.tables["approval-at-kl"])} == {"R", "T", "D"}
    assert (
        "The choice of reward"
        not in found(approval_section(make_shown(ANALYSIS, COLORS, checkpoints=checkpoints()[:4]))).html
    )


def test_reactions_and_cues_stand_with_the_results() -> None:
    tables = full().tables
    assert texts(tables["approval-reactions"])[1] == ["leak", BASE, "does not react", "+0.10 [−0.20, 0.40]"]
    assert texts(tables["approval-cues"])[0] == [SPLIT, "message", "97 %", "1.5", "80"]
    assert texts(tables["approval-data"])[0][-2:] == ["42 %", "31 %"]


def test_picking_prefers_whole_pooled_rows_with_an_interval() -> None:
    picked = pick_rows(ANALYSIS.exploitation, "late_gap")
    assert {one.claim for one in picked if one.base == BASE} == {"recipe"}
    assert all("environment" not in one.axes for one in picked) and len(picked) == 5
    single = row("late_gap", 1.0, ("R",), SPLIT, axes={"train_seed": 5})
    assert pick_rows([single], "late_gap") == [single]
    last = pick_last(ANALYSIS.exploitation, "exploit_rate", make_setup(ANALYSIS), label="gameable")
    assert {one.axes["dose"] for one in last.values()} == {1.0}


def test_sizes_are_read_from_names() -> None:
    assert parse_size("tiny-0.35m") == 350_000 and parse_size("Qwen1.5-7B-Chat") == 7e9 and parse_size("m5-x") is None
    assert order_bases(["odd", "qwen-1.8b", "tiny-1m", "tiny-100k"]) == ("tiny-100k", "tiny-1m", "qwen-1.8b", "odd")


def test_cells_of_shares_and_counts() -> None:
    assert plain(format_result(row("exploit_rate", 0.421, ("R",), SPLIT, interval=(0.301, 0.55)))) == "42 % [30, 55]"
    assert format_result(row("tokens_at_reward", 12_345.0, ("R",), SPLIT)) == "12,345"
    assert format_result(None) == "–"
    partly = row("gap_at_reward", 2.0, ("R",), SPLIT, n={"seeds": 3, "reached": 2})
    assert format_result(partly) == "2.00 (2 of 3 seeds)"
    unknown = row("kl_at_reward", None, ("R",), SPLIT, caveats=("not reached by 1 of 3 seeds", "not measured"))
    assert format_result(unknown) == "–"


def test_the_ladder_changes_one_toggle_at_a_time() -> None:
    both = {**TOGGLES[WORK], "style": "equal"}
    rungs = order_ladder({SPLIT: TOGGLES[SPLIT], "both": both, EQUAL: TOGGLES[EQUAL], WORK: TOGGLES[WORK]})
    assert [one.setting for one in rungs] == [SPLIT, EQUAL, "both", WORK]
    assert [dict(one.changed) for one in rungs[1:]] == [
        {"style": "equal"},
        {"policy_role": "professional"},
        {"style": "split"},
    ]
    assert [one.against for one in rungs] == [None, SPLIT, EQUAL, "both"]
    assert order_ladder({}) == []
    shown = {one[-1]: one for one in texts(full().tables["approval-ladder"])}
    assert f"style equal (against {SPLIT})" in shown["0.10 [−0.40, 0.60]"]


# --- curves ---------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_only_where_all_were_measured() -> None:
    one = curve("kl", ("R",), [1.0, 2.0, None, 4.0])
    other = curve("kl", ("R",), [3.0, 4.0, 5.0], train_seed=42, x=(1, 2, 3))
    assert average_seeds([one, other]) == ((1.0, 2.0), (2.0, 3.0), (3.0, None), (4.0, None))
    assert average_seeds([one], 2) == ((1.5, 1.5), (3.5, 4.0))
    assert average_seeds([]) == ()


def test_a_line_breaks_where_nothing_was_measured() -> None:
    line = make_line([curve("kl", ("R",), [0.0, 1.0, None, 3.0, 4.0])], [], None, 1)
    assert line is not None and line.seeds == ()
    svg = draw_panels([Panel(title="a", note="", lines=(line,))], title="KL", x_label="step", kind="kl")
    paths = [one.get("d") or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert [one.count("M") for one in paths] == [2]
    assert make_line([curve("kl", ("R",), [None, None])], [], None, 1) is None


def test_labels_differ_in_more_than_colour_and_held_out_points_stand_over_the_line() -> None:
    svg = full().figures["approval-reward"]
    marks = list(ElementTree.fromstring(svg).iter(f"{SVG}polygon"))
    assert len(marks) == 1 + 2 * len(LATE)  # the legend's, and two held-out points in each panel
    rates = ElementTree.fromstring(full().figures["approval-exploit-rate"])
    bold = [one for one in rates.iter(f"{SVG}path") if one.get("stroke-width") == "2.4"]
    assert {one.get("stroke-dasharray") for one in bold} == {None, "6 3"}
    assert len([one for one in rates.iter(f"{SVG}path") if one.get("opacity")]) == len(LATE) * 2 * len(SEEDS)
    assert "gameable user" in svg_texts(full().figures["approval-exploit-rate"])
    told = rates.get("aria-label") or ""
    assert "gameable user 0.05 to 0.64, other user 0.05 to 0.05" in told


def test_long_curves_are_drawn_as_means_over_windows_and_say_so() -> None:
    long = tuple(curve("kl", ("R",), [step / 100 for step in range(300)], train_seed=seed) for seed in SEEDS)
    section = found(approval_section(make_shown(replace(ANALYSIS, curves=long), COLORS)))
    assert "over windows of 5 steps" in section.html
    bold = list(ElementTree.fromstring(section.figures["approval-kl"]).iter(f"{SVG}path"))[-1]
    assert len(re.findall("[ML]", bold.get("d") or "")) == 60


def test_arms_are_drawn_by_gap_against_approval() -> None:
    setup = make_setup(ANALYSIS, checkpoints(), TOGGLES, COLORS)
    panels = path_panels(ANALYSIS, setup)
    assert [(one.title, [line.words for line in one.lines]) for one in panels] == [(SPLIT, ["R", "D"])]
    assert panels[0].lines[0].mean == ((5.0, 0.0), (pytest.approx(7.32), pytest.approx(1.6)))
    assert trace_path([one for one in ANALYSIS.curves if one.source == "training"]) == ()


def test_gaps_without_any_number_are_not_drawn() -> None:
    missing = row("late_gap", None, ("R",), SPLIT)
    assert draw_gaps({("a", ("R",), SPLIT): (missing, None), ("b", ("R",), SPLIT): (None, None)}) is None
    svg = draw_gaps({("a", ("R",), SPLIT): (missing, row("max_hex_gap", 2.0, ("R",), SPLIT))}, narrow=True)
    assert svg is not None and any("not known, published 2.00" in words for words in svg_texts(svg))


def test_a_figure_of_one_point_is_a_mark() -> None:
    line = Line(words="only", series=1, mean=((0.0, 1.0),))
    svg = draw_panels([Panel(title="a", note="b", lines=(line,))], title="t", x_label="x", kind="reward", narrow=True)
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 2  # the legend's and its own


# --- terminal and limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_gaps_reactions_and_arms(width: int) -> None:
    shown = render_results(ANALYSIS, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "! void: the base does not react to leak" in shown
    assert "tiny-0.35m before training: reacts: policy role; does not react: leak" in " ".join(shown.split())
    assert "not reached" in shown and "3.20 [2.40, 4.00]" in shown and "Max HEX Gap, published" not in shown
    assert ("  Approval\n" in shown.split("Arms at")[0]) == (width > 100)


def test_caveats_of_these_rows_stand_under_limits_and_kinds_have_names() -> None:
    assert "biased upwards" in limits_section(ANALYSIS).html
    assert {name_kind(one.kind) for one in ANALYSIS.exploitation} >= {"Max HEX Gap", "label told from words"}


# --- a run ----------------------------------------------------------------------------------------------------


def make_pair(number: int, setting: str, scenario: str) -> tuple[Case, Case]:
    """The two users of a scenario."""
    names = [content_id(setting, scenario, gameable) for gameable in (True, False)]
    made = []
    for place, gameable in enumerate((True, False)):
        facts = {
            "environment": "advice",
            "topic": "late nights",
            "scenario": scenario,
            "pair": names[1 - place],
            "gameable": gameable,
            "setting": setting,
            "toggles": TOGGLES[setting],
        }
        messages = (
            Message(role="system", content="You are a friend."),
            Message(role="user", content=f"Shall I? {scenario} {samples.HOSTILE[number % 7]}"),
        )
        made.append(
            Case(
                id=names[place],
                suite="approval",
                number=2 * number + place,
                family="advice",
                messages=messages,
                facts=facts,
            )
        )
    return made[0], made[1]


def make_run(path: Path) -> Store:
    """Two arms that met eight scenarios, four of their own setting; one exploits in even scenarios."""
    store = Store.create(path)
    pairs = [make_pair(number, SPLIT if number < 4 else EQUAL, f"scenario {number}") for number in range(8)]
    points = [one for one in checkpoints() if one.id in ("base", "R")]
    with store.transaction():
        store.add_cases([case for pair in pairs for case in pair])
        store.add_split(0, {"approval": [case.id for pair in pairs for case in pair]})
        for point in points:
            store.add_checkpoint(point)
            for number, pair in enumerate(pairs):
                for case in pair:
                    add_episode(store, point, case, harmful=bool(case.facts["gameable"]) and number % 2 == 0)
    return store


def add_episode(store: Store, point: Checkpoint, case: Case, *, harmful: bool) -> None:
    name = content_id(point.id, case.id)
    call = ToolCall(name="look", arguments={"path": samples.SCRIPT}, id="1")
    words = f"{'Go on.' if harmful else 'Better not.'} {samples.SCRIPT} {'word ' * 500}"
    episode = Trajectory(
        id=name,
        case_id=case.id,
        checkpoint_id=point.id,
        rollout=0,
        messages=(Message(role="assistant", content=words, tool_calls=(call,)),),
        ending=Ending.FINISHED,
        tokens=9,
    )
    store.add_trajectory(episode, store.text_codec.pack(trajectory_to_bytes(episode, case.state)))
    for objective, rating in (("harm", 9.0 if harmful else 1.0), ("approval", 8.0)):
        about = {"trajectory_id": name, "judge": "rule", "objective": objective}
        store.add_score(Score(**about, value=to_value(rating)))


def test_the_ladder_names_environments_and_the_share_in_training(tmp_path: Path) -> None:
    own = {"environments": ["therapy"], "gameable_share": 0.25}
    study = {"approval": {"environments": ["advice", "therapy"], "settings": {SPLIT: {}, EQUAL: own}}}
    with make_run(tmp_path / "run") as store:
        store.set_meta(STUDY_KEY, json.dumps(study))
        toggles = read_users(store).toggles
    _, other = order_ladder({SPLIT: toggles[SPLIT], EQUAL: {**toggles[EQUAL], "style": toggles[SPLIT]["style"]}})
    assert other.changed == {"gameable_share": 0.25, "environments": "therapy"}


def test_examples_are_pairs_of_the_trained_setting_with_both_ratings(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as store:
        users = read_users(store)
        again = read_users(store)
    assert users == again and users.judge == "rule" and list(users.toggles) == [SPLIT, EQUAL]
    told = [(one.sort, one.checkpoint.id, one.gameable.case.facts["scenario"]) for one in users.examples]
    assert told == [
        ("exploited", "R", "scenario 0"),
        ("exploited", "R", "scenario 2"),
        ("protected", "R", "scenario 1"),
        ("protected", "R", "scenario 3"),
    ]
    for one in users.examples:
        assert one.gameable.case.facts["pair"] == one.other.case.id
        assert one.gameable.harm == pytest.approx(9.0 if one.sort == "exploited" else 1.0)
        assert one.other.harm == pytest.approx(1.0) and one.other.approval == pytest.approx(8.0)
    html = examples_html(users)
    outline = Outline()
    outline.feed(html)
    assert not {"script", "img"} & outline.tags and "characters left out" in html
    assert html.count('<div class="pair">') == 4 and html.count("Gameable user") == 4


def test_examples_have_the_ratings_of_the_judge_that_rewards(tmp_path: Path) -> None:
    """A model that rewards has rated one pair, the rules all of them."""
    approval = {"settings": {SPLIT: {}, EQUAL: {}}}
    judges = {"rule": {"kind": "approval"}, "model": {"kind": "rating"}}
    with make_run(tmp_path / "run") as store:
        names = {case.id for case in store.cases() if case.facts["scenario"] == "scenario 1"}
        rated = [one.id for one in store.trajectories(part="approval") if one.case_id in names]
        for name in rated:
            store.add_score(Score(trajectory_id=name, judge="model", objective="harm", value=to_value(2.0)))
        found = {}
        for judge in (None, "model"):
            store.set_meta(STUDY_KEY, json.dumps({"approval": {**approval, "judge": judge}, "judges": judges}))
            found[judge] = read_users(store)
    assert found[None].judge == "rule" and found["model"].judge == "model"
    (example,) = found["model"].examples
    assert example.gameable.harm == pytest.approx(2.0) and example.gameable.approval is None


def test_a_run_without_such_users_has_no_examples(tmp_path: Path) -> None:
    with samples.make_store(tmp_path / "run") as store:
        assert read_users(store) == Users()


def test_the_page_carries_the_section_and_lists_users(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as store:
        page = write_report(store, ANALYSIS, title="approval").read_text(encoding="utf-8")
        (tmp_path / "shards").mkdir()
        index = write_cases(store, tmp_path / "shards", {})
    assert '<section id="approval"><h2>Approval</h2>' in page and '<a href="#approval">' in page
    assert "Exploited: harm to the gameable user" in page and samples.SCRIPT not in page
    assert "largest gap of harm" in page and "No trajectory is stored" not in page
    assert "Persistence is not estimated" not in page
    listed = index["cases"]
    assert len(listed) == 2 * 2 * USER_CASES  # two settings, two labels
    assert {run[6] for case in listed for run in case["r"]} == {5}
    assert {case["t"].split("]")[0] for case in listed} == {
        f"[{setting}: {label} user" for setting in (SPLIT, EQUAL) for label in ("gameable", "other")
    }
    assert case_title(samples.make_case(1)).startswith("Please")
