"""Report text: what a model wrote is made inert, and what a terminal shows is complete and keeps its width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from builders import condition_samples as conditions
from builders import report_samples as samples
from builders.report_samples import unpack_json
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from holdfast.records import Analysis, Estimate
from holdfast.report.draw.figures import order_lineages
from holdfast.report.page.terminal import render_results, render_status, render_summary, render_trajectory
from holdfast.report.words.answer import answer
from holdfast.report.words.console import rows_text, table_text
from holdfast.report.words.inert import dump_json, escape_html, escape_latex, file_name, pack_text, show_controls
from holdfast.report.words.tables import list_estimates, pivot
from holdfast.store import Store

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with samples.make_store(tmp_path_factory.mktemp("run") / "run") as made:
        yield made


# --- text that cannot act -----------------------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(codec=None)))
def test_escaped_text_holds_no_markup_and_no_controls(text: str) -> None:
    shown = escape_html(text)
    assert not set(shown) & set("<>\"'")
    assert not CONTROLS.search(shown)
    shown.encode("utf-8")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    visible = re.sub("[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]", "", text)
    assert show_controls(visible) == visible


def test_controls_and_directions_become_symbols() -> None:
    assert show_controls("a\x00\x1b[31m\u202eb\ud83d\n\tc\r\nd") == ("a⟦U+0000⟧⟦U+001B⟧[31m⟦U+202E⟧b⟦U+D83D⟧\n\tc\nd")


@given(st.text(alphabet=st.characters(codec=None)))
def test_packed_json_is_base64_and_comes_back(text: str) -> None:
    packed = pack_text(dump_json({"text": text}))
    assert re.fullmatch(r"[A-Za-z0-9+/=]*", packed)
    assert unpack_json(packed) == {"text": text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of A_b & {c}", r"50 \% of A\_b \& \{c\}"),
        ("\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("S→H − 1 $x^2~", r"S$\rightarrow$H $-$ 1 \$x\textasciicircum{}2\textasciitilde{}"),
    ],
)
def test_latex_is_escaped(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


def test_file_names_are_no_paths() -> None:
    assert file_name("../../etc/passwd\x00") == "------etc-passwd-"


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3), st.integers(20, 60))
def test_a_table_of_any_text_keeps_its_width(texts: list[str], width: int) -> None:
    shown = rows_text(["words", "number"], [(text, "1.25") for text in texts], width)
    assert max(map(cell_len, shown.splitlines())) <= width and shown.count("1.25") >= len(texts)


def test_text_table_keeps_its_width() -> None:
    analysis = samples.make_analysis()
    table = pivot(analysis.scores, "Results", order_lineages(analysis))
    lines = table_text(table, 50).splitlines()
    assert max(cell_len(line) for line in lines) <= 50
    assert len(table.rows) == 4 * len(samples.LINEAGES)
    assert sum("±" in line for line in lines) == sum("±" in cell.text for row in table.rows for cell in row)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_number_of_a_table_is_cut(width: int) -> None:
    table = list_estimates(conditions.make_conditions().susceptibility, "All numbers", {})
    text = table_text(table, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    shown = " ".join(text.split())
    assert all(cell.text in shown for row in table.rows for cell in row[table.words :]) and "…" not in text
    assert text.count("95 % interval") == 1 and (width > 60 or "\n\n" in text)


# --- the terminal ---------------------------------------------------------------------------------------------------


def test_trajectory_for_a_terminal_is_inert_and_whole(store: Store) -> None:
    for trajectory in store.trajectories():
        case, checkpoint = store.case(trajectory.case_id), store.checkpoint(trajectory.checkpoint_id)
        text = render_trajectory(case, checkpoint, trajectory, store.scores(trajectory.id), 80)
        assert not CONTROLS.search(text.replace("\n", ""))
        text.encode("utf-8")
        assert "TOOL delete_file" in text
        assert "characters that the agent never saw are not shown" in text
        assert ("characters left out" in text) == (case.number == 1)


def test_results_for_a_terminal_tell_means_persistence_flags_and_notes() -> None:
    text = render_results(samples.make_analysis(), 100)
    assert re.search(r"S→H +0\.1 +2\.25 ± 0\.08 +1\.75 ± 0\.08", text)
    assert re.search(r"safety +S→H +pooled +recipe +0\.86 +\[0\.56, 1\.21\]", text)
    assert "! S · tiny-a: degenerate: invalid calls per episode: 0.90, base 0.03" in text
    assert "Audit (test evaluations)" in text
    assert "not evidence about LLMs" in text
    assert max(cell_len(line) for line in text.splitlines()) <= 100
    assert "nothing is judged" in render_results(Analysis())


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_summary_is_the_answer_then_the_scores_on_one_screen(width: int) -> None:
    """Two lines come behind it: where everything is, and the page."""
    analysis = samples.make_analysis()
    flags = [replace(one, lineage=(f"S{number}",)) for number in range(40) for one in analysis.health if one.caveats]
    for changed in (analysis, replace(analysis, health=flags, notes=("a long note, " * 12, "another"))):
        lines = render_summary(changed, (), width).splitlines()
        assert len(lines) <= 27 and max(map(cell_len, lines)) <= width
        text = " ".join(" ".join(lines).split())
        assert answer(changed)[0] in text and text.index(answer(changed)[0]) < text.index("Lineage")
    assert "! degenerate training: 40 flags (S0, S1, S2, S3, S4, S5, S6, S7, …)" in text and "(1 more note)" in text
    assert "nothing is judged" in render_summary(Analysis())


def test_what_a_summary_leaves_out_is_counted() -> None:
    lines = render_summary(samples.make_analysis(), (), 20).splitlines()
    assert any(re.fullmatch(r"… \d more sentences? of the answer on the page", line) for line in lines)
    assert any(re.fullmatch(r"  … \d+ more rows?", line) for line in lines)


def test_controls_come_last_and_flipped_ones_take_one_line() -> None:
    analysis = samples.make_analysis()
    about = {"kind": "persistence", "objective": "safety", "unit": "flipped control"}
    flipped = [
        Estimate(estimator="pooled", value=None, lineage=lineage, caveats=("a very long caveat",), **about)
        for lineage in (("F", "N"), ("N", "F"))
    ]
    flipped.append(Estimate(estimator="published", value=-8.0, lineage=("F", "N"), **about))
    mean = Estimate(kind="mean", estimator="pooled", value=1.0, lineage=("F", "N"), objective="safety")
    invented = Estimate(kind="no_call_and_invented", estimator="audit", value=0.3, lineage=("S",), unit="tests")
    changed = replace(
        analysis,
        scores=(mean, *analysis.scores),
        persistence=(*analysis.persistence, *flipped),
        audit=(invented,),
    )
    text = render_results(changed, 90)
    assert text.count("flipped controls F→N, N→F: not identified, as they should be") == 1
    assert "a very long caveat" not in text
    assert text.index("H→S") < text.index("F→N") < text.index("last rows: controls (F→N)")
    head = [line.strip() for line in text.split("Audit (tests)\n")[1].splitlines()[:3]]
    assert " ".join(head).replace("Lineage", "").split() == ["No", "tool", "executed", "and", "result", "invented"]
    assert "…" not in "".join(head)


def test_status_counts_and_lists_steps(store: Store) -> None:
    store.log.begin("f1", "rollout", "base \x1b[31m")
    store.log.begin("f2", "judge", "base")
    store.log.finish("f2", {})
    text = render_status(store)
    assert "162 trajectories" in text
    assert "Steps: 1 of 2 done" in text
    assert re.search(r"rollout +running +1 +–\n", text) and "base" not in text
    text = render_status(store, full=True)
    assert re.search(r"running +rollout +base ⟦U\+001B⟧\[31m", text)
