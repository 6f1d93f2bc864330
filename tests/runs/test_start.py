"""A base that is taught before the study begins: once, in no lineage, with what it was in a row of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.models.entries import ModelEntry
from holdfast.records.checkpoints import START
from holdfast.records.errors import StudyError
from holdfast.report.page.terminal import render_results, render_status
from holdfast.runs.build import build
from holdfast.runs.plan.settings import OpenSettings, StartSettings, TeachSettings
from holdfast.runs.rescoring import read_judges
from holdfast.runs.run import Run, run
from holdfast.store.cells import score_rows
from holdfast.study.study import Study


def settings(**changes: Any) -> dict[str, Any]:
    """A tiny base, taught a little, then by more demonstrations of which all are careful; one stage after that."""
    shape = {"steps": 4, "count": 40, "learning_rate": 1e-3}
    return {
        "study": {"name": "started", "lineages": [["S"]], "train_seeds": [5, 6], "draws": 100},
        "model": {"bases": ["small"], "sft": {"demonstrations": 1600}},
        "models": {"small": {"kind": "tiny", "size": "0.1M", "start": ["D", "D"]}},
        "suite": {"train_cases": 4, "test_cases": 24},
        "rollouts": {"per_test_case": 1, "per_train_case": 2},
        "judges": {"state": {"kind": "state"}},
        "stages": {"D": {"method": "sft", **shape}, "S": {"method": "sft", "objective": "safety", **shape}},
        "doses": {"S": [1, 2]},
        **changes,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(Study.model_validate(settings()), tmp_path_factory.mktemp("start") / "run", workers=1)


def test_it_is_taught_once_and_begins_the_study(made: Run) -> None:
    plan = build(Study.model_validate(settings()))
    names = [step.name for step in plan.steps if step.kind == "train"]
    assert names == [
        "teach small-0",
        "train small-0 as it was · start,D · seed 0",
        "train small-0 as it was · start,D,D · seed 0",
        "begin with small-0 after D,D",
        "train small-0 · S · seed 5",
        "train small-0 · S · seed 6",
    ]
    with made.store() as store:
        shown = store.checkpoints()
        hidden = [one for one in store.checkpoints(brought=True) if one.source == START]
        assert {one.base for one in shown} == {"small-0"} and {one.base for one in hidden} == {"small-0 as it was"}
        (base,) = [one for one in shown if not one.stages]
        assert [stage.name for stage in base.start] == ["D", "D"] and base.lineage == ()
        assert base.digest == next(one for one in hidden if len(one.stages) == 2).digest
        assert all(one.parent_id == base.id for one in shown if one.stages)
        told = " ".join(render_status(store).split())
    assert "small-0 was taught before the study began: D (sft, 4 steps), D (sft, 4 steps)" in told


def test_runs_of_other_seeds_begin_with_the_same_base() -> None:
    one, two = (settings(), settings())
    two["study"]["train_seeds"] = [7]
    began = [
        [
            step.fingerprint
            for step in build(Study.model_validate(each)).steps
            if isinstance(step.settings, StartSettings)
        ]
        for each in (one, two)
    ]
    assert began[0] == began[1] and len(began[0]) == 1


def test_what_it_was_is_a_row_of_scores_and_in_no_estimate(made: Run) -> None:
    analysis = made.analysis()
    with made.store() as store:
        (untaught,) = (one for one in store.checkpoints(brought=True) if one.source == START and not one.stages)
        table = store.score_table(of=untaught.id)
        rows = list(score_rows(store))
        assert untaught.id not in {one["checkpoint_id"] for one in rows}
        assert len(rows) == 2 * 24 * 5  # two objectives; the base, and two doses for each of two seeds
    name = ("small-0 as it was",)
    (mine,) = [
        one
        for one in analysis.scores
        if one.lineage == name and one.objective == "safety" and one.kind == "mean" and one.claim == "checkpoint"
    ]
    values = table.value[(table.objective == table.objectives.index("safety"))]
    scored = values[np.isfinite(values)]
    assert len(scored) > 3
    assert mine.value == pytest.approx(scored.mean()) and mine.n["cases"] == len(scored)
    for title, section in analysis.sections():
        held = [one for one in section if one.lineage == name or str(one.base).endswith("as it was")]
        assert title == "scores" or not held, title
    assert "small-0 as it was" in render_results(analysis, 200)
    assert any("small-0 was taught by D,D before the study began, once" in note for note in analysis.notes)
    assert not any("no scores yet" in note for note in analysis.notes)
    assert "small-0 as it was" in made.report().read_text(encoding="utf-8")


def test_pairs_of_a_start_are_made_of_what_the_base_did_before_it() -> None:
    study = settings(stages={"P": {"objective": "safety"}, "S": {"objective": "safety"}}, doses={})
    study["models"]["small"]["start"] = ["P"]
    names = [step.name for step in build(Study.model_validate(study)).steps]
    assert "roll out small-0 as it was · base on train cases" in names
    assert "pair safety from small-0 as it was · base on train cases" in names
    assert "pair safety from small-0 · base on train cases" in names  # the study's own, of the taught base


def test_a_base_without_a_start_is_opened_as_before(tmp_path: Path) -> None:
    """What a start is made of has the fingerprints of a study without one."""
    plain = settings()
    del plain["models"]["small"]["start"]
    one, two = (build(Study.model_validate(each)) for each in (plain, settings()))
    taught = [
        {step.fingerprint for step in plan.steps if isinstance(step.settings, TeachSettings)} for plan in (one, two)
    ]
    assert taught[0] == taught[1] and not any(isinstance(step.settings, StartSettings) for step in one.steps)
    entry = ModelEntry(kind="local", name="x", start=("D",))
    dumped = OpenSettings(base="m", entry=entry.untaught).dump()
    assert dumped == OpenSettings(base="m", entry=ModelEntry(kind="local", name="x")).dump()


def test_a_judge_is_taught_nothing(tmp_path: Path) -> None:
    file = tmp_path / "judges.toml"
    file.write_text('[models.m]\nkind = "local"\nname = "x"\nstart = ["D"]\n', encoding="utf-8")
    with pytest.raises(StudyError, match=r"models\.m\.start is for bases of a study, and a judge is taught nothing"):
        read_judges(file)


def test_a_gate_evaluates_no_base_that_must_be_taught_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from builders.commands import refused
    from builders.smoke_study import write_toml

    place = write_toml(settings(), tmp_path / "study.toml")
    line = refused(capsys, "gate", "--suite", place, "--parent", "small", "--child", "tiny", "-o", tmp_path / "out")
    assert "'small' is a base that its study teaches first (models.small.start), and a gate trains nothing" in line
