"""The report of a study's own analysis: ellipses, controls that are not identified, doses, notes on top."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders.scored_study import checkpoint, quick_checkpoints, write_study

from holdfast.analysis import analyze
from holdfast.records import Analysis
from holdfast.report import write_report
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.summary import headline_estimates
from holdfast.runs.run import EMBEDDED_NOTES, RANDOM_NOTE, STUDY_KEY, Run
from holdfast.store import Store

BASES = ("tiny-0", "tiny-1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("runs") / "quick"
    return write_study(path, quick_checkpoints(BASES, (0, 1, 2)), tests=24, train=2, rollouts=1)


@pytest.fixture(scope="module")
def analysis(store: Store) -> Analysis:
    measures = {
        one.id: {"kl_parent": 0.3 * one.axes["dose"], "kl_base": 0.5 * one.axes["dose"]}
        for one in store.checkpoints()
        if one.stages
    }
    return analyze(store, draws=100, measures=measures, notes=EMBEDDED_NOTES)


@pytest.fixture(scope="module")
def page(store: Store, analysis: Analysis) -> Path:
    return write_report(store, analysis, title="quick")


def test_the_main_frontier_has_an_ellipse_for_every_point(page: Path, analysis: Analysis) -> None:
    text = page.read_text(encoding="utf-8").replace("\u00a0", " ")
    svg = (page.parent / "figures" / "frontier.svg").read_text(encoding="utf-8")
    assert len(re.findall(r"<path[^>]*fill-opacity", svg)) >= len(analysis.frontiers[0].points) == 10
    assert "ellipses are 95 % regions (cases are random)" in text
    assert "ellipses are 95 % regions (cases and seeds are random)" in text


def test_flipped_controls_are_shown_as_not_identified(page: Path, analysis: Analysis) -> None:
    name = "controls-persistence-pooled-over-bases-and-judges.svg"
    forest = (page.parent / "figures" / name).read_text(encoding="utf-8")
    assert len(re.findall(r"F→N[^<]*flipped control", forest)) == 3  # published, and two claims of the pooled estimator
    assert forest.count("not identified") >= 4
    assert re.search(r"flipped controls F→N, N→F: not identified", render_results(analysis, 160))
    assert {one.lineage for one in headline_estimates(analysis)} == {("S", "H"), ("H", "S")}


def test_persistence_is_drawn_against_what_the_doses_were(page: Path) -> None:
    names = {path.name for path in (page.parent / "figures").glob("dose-persistence-*.svg")}
    assert names == {f"dose-persistence-{axis}.svg" for axis in ("dose", "steps", "kl-parent", "kl-base")}
    ticks = (page.parent / "figures" / "dose-persistence-kl-parent.svg").read_text(encoding="utf-8")
    assert "nats" in ticks and "S→H" in ticks


def test_a_study_that_makes_its_bases_says_so_first(tmp_path: Path) -> None:
    made = [checkpoint("base", lineage, 1, 0) for lineage in [("S",), ("H",)]]
    store = write_study(tmp_path / "run", [checkpoint("base", (), 0, None), *made], tests=6)
    store.close()
    assert not set(EMBEDDED_NOTES) & set(Run(tmp_path / "run").analysis(draws=50).notes)
    with Store.open_or_create(tmp_path / "run") as opened, opened.transaction():
        model = {"bases": ["tiny"], "base_seeds": [0]}
        opened.set_meta(STUDY_KEY, json.dumps({"study": {"name": "q", "draws": 50}, "model": model}))
    run = Run(tmp_path / "run")
    assert run.analysis().notes[:2] == EMBEDDED_NOTES
    caution = re.search(r'class="caution"[^>]*>(.*?)</ul>', run.report().read_text(encoding="utf-8"), re.DOTALL)
    assert caution is not None and caution.group(1).startswith(f"<li>{EMBEDDED_NOTES[0]}</li>")
    with Store.open_or_create(tmp_path / "run") as opened, opened.transaction():
        settings = {"model": {"bases": ["r"]}, "models": {"r": {"kind": "random"}}}
        opened.set_meta(STUDY_KEY, json.dumps({"study": {"name": "q", "draws": 50}, **settings}))
    assert Run(tmp_path / "run").analysis().notes[0] == RANDOM_NOTE
