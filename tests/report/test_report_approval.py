"""The report on training for approval, from estimates and curves by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from builders import report_samples as samples
from builders.approval_report import (
    ANALYSIS,
    BASE,
    COLORS,
    EQUAL,
    SMALL,
    SPLIT,
    SVG,
    TOGGLES,
    VOID,
    WORK,
    Outline,
    all_curves,
    checkpoints,
    found,
    full,
    gap_rows,
    level_rows,
    plain,
    row,
    stage,
)
from builders.report_samples import make_shown

from holdfast.records import (
    Analysis,
    Checkpoint,
)
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.approval.examples import Users
from holdfast.report.sections.approval.section import (
    allows_gap,
    approval_block,
    describe_approval,
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
from holdfast.report.sections.table import make_section, make_sections
from holdfast.report.words.labels import format_result
from holdfast.report.words.tables import Table, list_estimates


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[plain(cell.text) for cell in one] for one in table.rows]


def test_nothing_of_it_appears_without_rows() -> None:
    empty = Analysis(curves=tuple(all_curves()))
    assert make_section("approval", make_shown(empty, {})) is None
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
    assert 'class="alert"' not in found(make_section("approval", make_shown(silent, COLORS))).html
    assert void_notes(ANALYSIS) == [VOID.removeprefix("void: ")] and not void_notes(silent)


def test_one_judge_is_told_and_reactions_stand_under_each() -> None:
    rule = [replace(one, judge="rule") for one in ANALYSIS.exploitation]
    model = [replace(one, judge="model", value=99.0) for one in rule if one.kind in ("late_gap", "reward", "reaction")]
    logged = [replace(one, judge=None) for one in rule if one.kind == "max_hex_gap"]
    rule = [one for one in rule if one.kind != "max_hex_gap"]
    judged = Analysis(exploitation=(*model, *rule, *logged), curves=ANALYSIS.curves)
    section = found(
        make_section("approval", make_shown(judged, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
    )
    assert "those of the judge rule." in section.html
    shown = texts(section.tables["approval-gaps"])
    assert shown == texts(full().tables["approval-gaps"])
    assert {one[2] for one in texts(section.tables["approval-reactions"])} == {"rule", "model"}
    assert "99" not in "".join(describe_approval(judged))
    # The judge that rewards stands before one with more rows.
    rewarded = replace(judged, rewarder="model")
    section = found(
        make_section("approval", make_shown(rewarded, COLORS, checkpoints=checkpoints(), users=Users(toggles=TOGGLES)))
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
        make_section(
            "approval",
            make_shown(
                bad,
                order_lineages(bad),
                checkpoints=(),
                users=Users(toggles={evil: {"policy_role": evil}}),
            ),
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
        make_section(
            "approval",
            make_shown(
                Analysis(exploitation=rows, curves=curves),
                COLORS,
                checkpoints=(),
                users=Users(toggles=TOGGLES),
            ),
        )
    )
    assert "ladder" not in section.html and "approval-ladder" not in section.tables
    root = ElementTree.fromstring(section.figures["approval-exploit-rate"])
    assert not [one for one in root.iter(f"{SVG}path") if one.get("opacity")]  # no thin lines of single seeds
    assert len(list(root.iter(f"{SVG}path"))) == 2


def test_numbers_that_are_missing_are_dashes() -> None:
    rows = tuple(replace(one, value=None, interval=None, caveats=("too few",)) for one in gap_rows())
    section = found(make_section("approval", make_shown(Analysis(exploitation=rows), COLORS)))
    assert "approval-gaps" not in section.figures
    assert all(cell == "–" for one in texts(section.tables["approval-gaps"]) for cell in one[3:])
    assert "NaN" not in section.html and "None" not in section.html


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
        not in found(make_section("approval", make_shown(ANALYSIS, COLORS, checkpoints=checkpoints()[:4]))).html
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
