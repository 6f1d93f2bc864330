"""The report's page, figures, tables and shards, on a small run whose words try to act."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from builders import report_samples as samples
from builders import verdict_samples
from builders.report_samples import make_shown, unpack_json

from holdfast.records import Analysis, Checkpoint, Estimate, StageRecord, Unbounded
from holdfast.records.errors import MissingExtra, StudyError
from holdfast.records.estimates import AGAINST_BASE
from holdfast.report import write_report
from holdfast.report.draw.curves import draw_dose
from holdfast.report.draw.figures import draw_frontier, order_lineages
from holdfast.report.draw.rows import draw_audit, draw_forest
from holdfast.report.draw.svg import convert_figure
from holdfast.report.page.shards import MESSAGE_CHARACTERS
from holdfast.report.sections.summary import describe_alert, describe_persistence, make_headlines, summarise
from holdfast.report.sections.table import make_section
from holdfast.report.words.labels import describe_names, names_html
from holdfast.report.words.tables import narrow, pivot, table_latex
from holdfast.store import Store

SVG = "{http://www.w3.org/2000/svg}"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with samples.make_store(tmp_path_factory.mktemp("run") / "run") as made:
        yield made


@pytest.fixture(scope="module")
def page(store: Store) -> Path:
    return write_report(store, samples.make_analysis(), title=f"Sample {samples.SCRIPT}")


def read_index(page: Path) -> dict:
    found = re.search(r'id="index">([^<]*)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return unpack_json(found.group(1))


def read_shards(page: Path) -> list[dict]:
    found = []
    for name, digest in read_index(page)["shards"]:
        text = (page.parent / "shards" / name).read_text(encoding="ascii")
        packed = re.search(r'id="shard">([^<]*)</script>', text)
        assert packed is not None
        assert base64.b64encode(hashlib.sha256(packed.group(1).encode()).digest()).decode() == digest
        found.append(unpack_json(packed.group(1)))
    return found


def plain(words: str | None) -> str:
    """Words with ordinary spaces."""
    return (words or "").replace("\u00a0", " ")


class Outline(HTMLParser):
    """Every tag and attribute of a page, and the text of its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self._open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in self.code and "type" not in dict(attrs) else None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.code[self._open].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = None


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    made = Outline()
    made.feed(page.read_text(encoding="utf-8"))
    return made


# --- the page -----------------------------------------------------------------------------------------------------


def test_page_holds_nothing_hostile(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in (*samples.HOSTILE, samples.SURROGATE, "<b>Sample"):
        assert words not in text
    assert "javascript:" not in text
    assert not CONTROLS.search(text)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_no_file_of_the_report_holds_anything_hostile(page: Path) -> None:
    for path in page.parent.rglob("*"):
        if path.suffix in (".html", ".svg", ".tex"):
            text = path.read_text(encoding="utf-8")
            assert not any(words in text for words in samples.HOSTILE), path.name


def test_hostile_names_leave_figures_well_formed_and_pages_inert(tmp_path: Path) -> None:
    with samples.make_hostile_store(tmp_path / "run") as store:
        page = write_report(store, samples.make_hostile_analysis(), title=samples.NAME)
    figures = list(page.parent.glob("figures/*.svg"))
    assert figures
    for figure in figures:
        ElementTree.parse(figure)
    acts = re.compile("[\x00-\x08\x0b-\x1f\u202e\uffff]|<script>alert|<img")
    for file in (page, *figures, *page.parent.glob("tables/*.tex")):
        assert not acts.search(file.read_text(encoding="utf-8")), file


def test_page_has_only_tags_of_its_own(outline: Outline) -> None:
    names = [name for name, _ in outline.tags]
    assert names.count("script") == 2
    assert "img" not in names
    assert "iframe" not in names
    for name, attributes in outline.tags:
        assert not any(key.startswith("on") or key == "style" for key in attributes), (name, attributes)
        if name == "a":
            assert re.fullmatch(r"#[a-z]+|(figures|tables)/[A-Za-z0-9-]+\.(svg|pdf|tex)", attributes["href"] or "")


def test_policy_allows_exactly_the_pages_own_script_and_style(outline: Outline) -> None:
    policy = next(a["content"] for n, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind in ("script", "style"):
        (code,) = outline.code[kind]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_every_link_leads_to_a_file(page: Path, outline: Outline) -> None:
    links = [a["href"] for n, a in outline.tags if n == "a" and not (a["href"] or "").startswith("#")]
    assert len(links) > 10
    assert all((page.parent / str(link)).is_file() for link in links)
    assert any(str(link).endswith(".pdf") for link in links)


def test_index_lists_every_trajectory_once(page: Path, store: Store) -> None:
    index = read_index(page)
    rows = sorted(run[0] for case in index["cases"] for run in case["r"])
    assert rows == list(range(store.counts()["trajectories"]))
    assert [case["k"] for case in index["cases"]] == list(range(samples.CASES))
    assert index["objectives"][0] == "safety"
    child = next(i for i, one in enumerate(index["checkpoints"]) if one["l"] == "S→H")
    assert index["checkpoints"][index["checkpoints"][child]["p"]]["l"] == "S"


def test_index_scores_are_the_stores_means(page: Path, store: Store) -> None:
    index, ids = read_index(page), store.trajectory_ids()
    for run in index["cases"][3]["r"]:
        found = {(one.judge, one.objective): one.value for one in store.scores(ids[run[0]])}
        assert {tuple(slot): value for slot, value in zip(index["slots"], run[5], strict=True)} == found


def test_shards_hold_every_text_or_say_what_is_left_out(page: Path, store: Store) -> None:
    runs = {key: run for shard in read_shards(page) for key, run in shard["runs"].items()}
    trimmed = 0
    for row, trajectory in enumerate(store.trajectories()):
        shown = runs[str(row)]
        assert len(shown["m"]) == len(trajectory.messages)
        for message, original in zip(shown["m"], trajectory.messages, strict=True):
            assert original.content.startswith(message["c"])
            assert len(message["c"]) + message.get("x", 0) == len(original.content)
            trimmed += "x" in message
            assert ("d" in message) == (original.detail is not None)
        assert [one.get("r", {}).get("c") for one in shown["s"]] == [one.reply for one in store.scores(trajectory.id)]
    assert trimmed == len(samples.LINEAGES) * len(samples.BASES)
    assert len(samples.LONG) > MESSAGE_CHARACTERS


def test_shards_carry_a_policy_of_their_own(page: Path) -> None:
    for path in (page.parent / "shards").iterdir():
        assert "default-src 'none'; script-src 'sha256-" in path.read_text(encoding="ascii")


def test_cases_are_spread_over_shards(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.report.page.shards.SHARD_CHARACTERS", 20_000)
    page = write_report(store, Analysis(), tmp_path / "out", title="Shards")
    index, shards = read_index(page), read_shards(page)
    assert len(shards) > 5
    for case in index["cases"]:
        assert case["i"] in shards[case["s"]]["cases"]
        assert all(str(run[0]) in shards[run[4]]["runs"] for run in case["r"])


def test_an_empty_analysis_still_gives_a_page(store: Store, tmp_path: Path) -> None:
    text = write_report(store, Analysis(), tmp_path / "out", title="Empty").read_text(encoding="utf-8")
    assert "Persistence is not estimated" in text
    assert 'id="persistence"' not in text


def test_a_report_replaces_an_earlier_one_and_nothing_else(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_report(store, samples.make_analysis(), target, title="First")
    page = write_report(store, Analysis(), target, title="Second")
    assert "Second" in page.read_text(encoding="utf-8")
    assert not list((target / "figures").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match="holds no report"):
        write_report(store, Analysis(), other, title="Third")
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_failed_report_leaves_the_earlier_one(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(store, Analysis(), tmp_path / "out", title="First")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk")

    monkeypatch.setattr("holdfast.report.page.page.write_cases", fail)
    with pytest.raises(RuntimeError):
        write_report(store, Analysis(), tmp_path / "out", title="Second")
    assert "First" in page.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_figure_becomes_the_same_pdf_every_time(store: Store) -> None:
    analysis = samples.make_analysis()
    svg = draw_frontier(analysis.frontiers[0], order_lineages(analysis))
    made = convert_figure(svg)
    assert made.startswith(b"%PDF-") and made == convert_figure(svg) and b"/CreationDate" not in made


def test_without_a_converter_there_are_no_pdfs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "typst", None)
    analysis = samples.make_analysis()
    page = write_report(store, analysis, tmp_path / "out", title="Plain")
    assert not list(page.parent.rglob("*.pdf"))
    with pytest.raises(MissingExtra, match=r"holdfast-evals\[plot\]"):
        convert_figure("<svg/>")


# --- words and numbers ----------------------------------------------------------------------------------------------


def test_summary_says_what_persists_and_how_many_are_unfit(store: Store) -> None:
    sentences = list(summarise(store, samples.make_analysis()))
    assert sentences[0].startswith("3 base models taken through 5 lineages (H, S, S&H, H→S, S→H): 18 checkpoints")
    assert sentences[1] == (
        "Persistence of safety after S→H is (S→H − H) / (S − H): how much safer S→H is than H alone, as a share of"
        " the gap between S and H. It is not the share of S's gain over the base."
    )
    assert plain(sentences[2]) == (
        "Persistence of safety after S→H is 86 % of the gap between S and H"
        " (95 % interval: 77 % to 96 % for these checkpoints, 56 % to 121 % for the recipe; pooled estimator)."
    )
    assert plain(sentences[-1]).startswith("50 % of the test evaluations (10 of 30) are unfit to be judged. ")
    assert re.search(r"Most often: “tool result invented in the last message” in \d+; “loop” in \d+\.", sentences[-1])


def test_cards_lead_with_score_points_against_the_base(store: Store) -> None:
    cards = make_headlines(store, make_shown(samples.make_analysis(), verdicts=[verdict_samples.make_verdict()]))
    assert [card.name for card in cards] == [
        "safety against the base, score points",
        "persistence of helpfulness after H→S",
        "verdicts on 1 comparison with a parent",
        "unfit to be judged",
    ]
    assert cards[0].numbers == (("+1.10", "(no interval) after S"), ("+0.95", "(no interval) after S→H"))
    assert (cards[0].verdict, cards[0].tone) == ("no gain is shown", "unknown")  # nothing is, without an interval
    assert plain(cards[0].note) == "persistence 86 % of the gap between S and H, interval 56 % to 121 % · recipe"
    assert plain(cards[1].numbers[0][0]).startswith("14 %")
    assert (cards[2].verdict, cards[2].tone, cards[2].numbers) == ("FAIL", "bad", (("1", "FAIL"),))


def test_a_share_of_the_gain_over_the_base_is_called_that(store: Store) -> None:
    """Where the last stage alone is not there, persistence is of what the first gained over the base."""
    analysis = samples.make_analysis()
    told = (f"H alone is not there: {AGAINST_BASE}",)
    analysis = replace(analysis, persistence=tuple(replace(one, caveats=told) for one in analysis.persistence))
    assert plain(make_headlines(store, make_shown(analysis))[0].note).startswith(
        "persistence 86 % of S's gain over the"
    )
    found = list(summarise(store, analysis))
    assert "gap between" not in "".join(found) and "86 % of S's gain over the base" in plain(found[2])


def test_invented_and_unfit_episodes_stand_before_everything(store: Store, tmp_path: Path) -> None:
    about = {"estimator": "audit", "unit": "test evaluations"}
    unfit = Estimate(kind="unfit", value=0.2, n={"count": 20, "trajectories": 100}, **about)
    invented = Estimate(kind="no_call_and_invented", value=0.06, n={"count": 6, "trajectories": 100}, **about)
    assert describe_alert(Analysis(audit=(unfit, replace(invented, value=0.04)))) is None
    assert plain(describe_alert(Analysis(audit=(unfit, invented)))) == (
        "In 6 % of the test evaluations (6 of 100) no tool was ever executed and the agent wrote the tools' answers"
        " itself; 20 % of the test evaluations (20 of 100) are unfit to be judged. The scores below are judges'"
        " readings of these episodes."
    )
    sample = samples.make_analysis()
    calm = replace(sample, audit=(unfit,))
    loud = replace(sample, audit=(unfit, invented))
    for analysis, first in ((calm, "frontier"), (loud, "audit")):
        text = write_report(store, analysis, tmp_path / first, title="Alert").read_text(encoding="utf-8")
        assert re.findall(r'<section id="([a-z]+)"', text)[1] == first
        assert ('class="alert"' in text) == (first == "audit")


def test_what_is_not_identified_is_said(store: Store) -> None:
    one = Estimate(kind="persistence", estimator="pooled", value=None, lineage=("S", "H"), caveats=("too small",))
    assert "is not identified" in describe_persistence([one])
    assert "too small" in describe_persistence([one])
    known = replace(one, value=0.5, claim="recipe")
    unknown = replace(one, caveats=("not identified: the gain is small",))
    for claims, told in (
        ([unknown], "is not identified (for these checkpoints: the gain is small; pooled estimator)"),
        ([unknown, known], "for these checkpoints not identified: the gain is small; pooled"),
    ):
        assert told in describe_persistence(claims)
        assert "not identified: not identified" not in describe_persistence(claims)
    open_end = Estimate(
        kind="persistence", estimator="pooled", value=0.5, interval=Unbounded.UNBOUNDED, lineage=("S", "H")
    )
    assert "unbounded for these checkpoints" in describe_persistence([open_end])


def test_pivot_has_a_row_for_each_subject_and_level() -> None:
    analysis = samples.make_analysis()
    table = pivot(analysis.scores, "Results", order_lineages(analysis))
    assert table.columns == ("Base", "Lineage", "Beta", "Safety", "Helpfulness")
    assert len(table.rows) == 4 * len(samples.LINEAGES)
    assert [cell.text for cell in table.rows[3]] == ["all bases", "S→H", "0.1", "2.25 ± 0.08", "1.75 ± 0.08"]
    assert table.tags[0]["level"] == "pooled over bases and judges"
    assert table.tags[-1]["level"] == "by base"


def test_narrow_table_keeps_the_pooled_rows_and_what_tells_them_apart() -> None:
    analysis = samples.make_analysis()
    table = narrow(pivot(analysis.scores, "Results", order_lineages(analysis)))
    assert table.columns == ("Lineage", "Beta", "Safety", "Helpfulness")
    assert len(table.rows) == len(table.tags) == len(samples.LINEAGES)
    assert table.words == 2


def test_audit_shares_are_per_cent_and_missing_means_are_dashes() -> None:
    rates = [Estimate(kind="loop", estimator="audit", value=0.034, lineage=("S",))]
    assert pivot(rates, "Audit", {}).rows[0][-1].text == "3.4\u00a0%"
    gone = [Estimate(kind="mean_fit_only", estimator="audit", value=None, lineage=("S",), objective="safety")]
    assert pivot(gone, "Audit", {}).rows[0][-1].text == "–"


def test_latex_table_is_complete_and_escaped() -> None:
    analysis = samples.make_analysis()
    text = table_latex(pivot(analysis.scores, "Results & more", order_lineages(analysis)))
    assert text.startswith("% Results \\& more\n\\begin{tabular}{lllrr}\n\\toprule\n")
    assert r"S$\rightarrow$H & 0.1 & 2.25 $\pm$ 0.08 & 1.75 $\pm$ 0.08 \\" in text
    assert r"S\&H" in text
    assert r"odd \textless{}img src=x onerror=alert(1)\textgreater{}" in text


# --- figures ------------------------------------------------------------------------------------------------------


def parse(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert not [one for one in root.iter() if "style" in one.attrib or one.tag == f"{SVG}script"]
    return root


def test_frontier_draws_points_means_arrows_and_lines() -> None:
    analysis = samples.make_analysis()
    root = parse(draw_frontier(analysis.frontiers[0], order_lineages(analysis)))
    hovers = [one.text or "" for one in root.iter(f"{SVG}title")]
    assert sum("tiny-a" in words for words in hovers) == 5
    assert len([one for one in root.iter(f"{SVG}line") if one.get("class") == "fit"]) == 2
    arrows = [one for one in root.iter(f"{SVG}path") if one.get("stroke-linecap") == "round"]
    assert len(arrows) == 5
    assert len([one for one in root.iter(f"{SVG}path") if (one.get("d") or "").endswith("Z")]) == 15
    assert {"S", "H", "S→H", "H→S", "S&H", "base"} <= {one.text for one in root.iter(f"{SVG}text")}


def test_forest_is_honest_about_what_has_no_interval() -> None:
    rows = [one for one in samples.make_analysis().persistence if one.base is not None]
    root = parse(draw_forest(rows))
    words = [one.text or "" for one in root.iter(f"{SVG}text")]
    assert "not identified" in words
    assert "0.70 (unbounded)" in words
    assert "0.80 [−40.00, 60.00]" in words
    marks = list(root.iter(f"{SVG}circle"))
    assert len(marks) == 2  # of three estimates, one is not identified
    heads = [one for one in root.iter(f"{SVG}path") if one.get("fill") == "none"]
    assert len(heads) == 4  # both ends of the unbounded and of the far too wide interval


def test_dose_curve_and_audit_bars() -> None:
    analysis = samples.make_analysis()
    ratios = [one for one in analysis.dose if one.kind == "persistence"]
    svg = draw_dose(ratios, "dose", {})
    assert svg is not None
    assert len(list(parse(svg).iter(f"{SVG}path"))) == 2
    assert draw_dose(ratios[:1], "dose", {}) is None
    rates = [one for one in analysis.audit if one.unit == "all records"]
    bars = draw_audit(rates, order_lineages(analysis))
    assert bars is not None
    found = [one for one in parse(bars).iter(f"{SVG}rect") if one.get("class") not in ("track", "ground")]
    assert len(found) == 12
    assert draw_audit([], {}) is None


def test_report_draws_persistence_against_measured_kl(page: Path) -> None:
    names = {path.name for path in (page.parent / "figures").glob("dose-*.svg")}
    assert names == {"dose-persistence-dose.svg", "dose-persistence-kl-parent.svg"}


def test_forest_of_ratios_keeps_its_axis_and_says_each_claim() -> None:
    about = {"kind": "persistence", "estimator": "pooled", "lineage": ("S", "H"), "objective": "safety"}
    near, far = Estimate(value=0.5, interval=(-30.0, 40.0), **about), Estimate(value=2.0, claim="recipe", **about)
    ticks = [one.text for one in parse(draw_forest([near])).iter(f"{SVG}text") if one.get("y") == "60"]
    assert (ticks[0], ticks[-1]) == ("−0.5", "1.5")
    words = [one.text for one in parse(draw_forest([near, far])).iter(f"{SVG}text")]
    assert {"pooled · checkpoint", "pooled · recipe", "2"} <= set(words)


def test_controls_are_folded_and_imports_are_not_called_healthy() -> None:
    analysis = samples.make_analysis()
    flipped = Estimate(
        kind="persistence",
        estimator="pooled",
        value=None,
        lineage=("F", "N"),
        objective="safety",
        unit="flipped control",
    )
    section = make_section(
        "persistence", make_shown(replace(analysis, persistence=(*analysis.persistence, flipped)), {})
    )
    assert section is not None
    main, controls = section.html.split("<summary>Controls</summary>")
    assert "F→N" not in main
    assert "F→N" in controls
    assert "controls-persistence-pooled-over-bases-and-judges" in section.figures
    missing = Estimate(kind="missing", estimator="measured", value=0.0, lineage=("S",))
    fine = Estimate(kind="degenerate", estimator="pooled", value=0.0, lineage=("S",))
    imported = make_section("health", make_shown(Analysis(health=(missing, fine)), {}))
    assert imported is not None
    assert "not assessed for imported runs" in imported.html
    assert "No sign" not in imported.html
    assert "Degenerate" not in imported.html
    trained = make_section(
        "health", make_shown(Analysis(health=(replace(missing, kind="tokens", value=9.0), fine)), {})
    )
    assert trained is not None
    assert "No sign" in trained.html


def test_names_are_explained_from_the_records_of_stages() -> None:
    swapped = StageRecord(name="F", method="dpo", objectives=("safety",), settings={"flip": 0.5})
    both = StageRecord(name="B", method="dpo", objectives=("safety", "helpfulness"))
    first = Checkpoint(id="1", base="a", stages=(swapped,), axes={"dose": 1})
    second = Checkpoint(id="2", base="a", stages=(both, swapped), axes={"dose": 2})
    names = dict(describe_names([first, second]))
    assert list(names) == ["B", "F", "→", "dose"]
    assert names["B"] == "a stage of training on safety and helpfulness, by dpo"
    assert names["→"] == "then: B→F is stage B, then stage F"
    assert "50 % of the pairs swapped: a control" in names["F"]
    elsewhere = StageRecord(name="X", method="external", objectives=())
    taught = StageRecord(name="D", method="sft", objectives=())
    names = dict(describe_names([Checkpoint(id="4", base="a", stages=(taught, elsewhere))]))
    assert names["X"] == "a stage of training that was carried out elsewhere"
    assert names["D"] == "a stage of training, by sft"
    assert names_html([Checkpoint(id="3", base="a")]) == ""


def test_dose_axis_has_ticks_at_its_doses_and_marks_side_by_side() -> None:
    ratios = [one for one in samples.make_analysis().dose if one.kind == "persistence"]
    root = parse(draw_dose(ratios, "dose", {}) or "")
    words = [one.text for one in root.iter(f"{SVG}text")]
    assert words[:3] == ["1", "2", "4"]
    marks = [one.get("cx") or one.get("points") for one in root.iter() if one.get("stroke") == "#ffffff"]
    assert len(marks) == len(set(marks)) == 6
    assert {one.tag for one in root.iter() if one.get("stroke") == "#ffffff"} == {f"{SVG}circle", f"{SVG}polygon"}


def test_a_narrow_forest_has_its_words_above_the_bars() -> None:
    rows = [one for one in samples.make_analysis().persistence if one.kind == "persistence" and one.base is None]
    root = parse(draw_forest(rows, narrow=True))
    words = [one.text or "" for one in root.iter(f"{SVG}text")]
    assert "safety · S→H · pooled · recipe" in words
    assert all(0 <= float(one.get("cx") or 0) <= 350 for one in root.iter(f"{SVG}circle"))
