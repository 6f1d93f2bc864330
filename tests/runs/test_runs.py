"""A whole small study: the same from one process or two, never done twice, never mixed with another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import copy_run
from builders.smoke_study import SMOKE, smoke_settings, write_toml

import holdfast as hf
from holdfast.cli.main import main
from holdfast.records import Score
from holdfast.runs.build import build
from holdfast.runs.execution import StepProgress
from holdfast.runs.plan.step import Step
from holdfast.runs.readiness import PACKAGES
from holdfast.runs.steps.working import carry_out
from holdfast.store import Store
from holdfast.store.steplog import StepStatus
from holdfast.study.study import load


@pytest.fixture
def own_run(smoke_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may write to."""
    return copy_run(smoke_run, tmp_path / "own")


def by_identity(path: Path) -> list[dict[str, Any]]:
    return sorted(hf.Run(path).scores(), key=lambda row: (row["trajectory"], row["objective"], row["judge"]))


def references(path: Path) -> dict[str, dict[str, float]]:
    with Store(path) as store:
        return {s.fingerprint: store.logprobs(s.fingerprint) for s in steps_of(path).values() if s.kind == "reference"}


def logged(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What each training stage logged, without what a clock says."""
    found = {}
    for log in (path / "logs").iterdir():
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        found[log.stem] = [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]
    return found


def steps_of(path: Path) -> dict[str, StepStatus]:
    with Store(path) as store:
        return dict(store.log.steps())


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    settings = smoke_settings()
    change(settings)
    return write_toml(settings, tmp_path / "changed.toml")


def test_two_workers_give_what_one_process_gives(smoke_run: Path, tmp_path: Path) -> None:
    told: list[StepProgress] = []
    two = hf.run(SMOKE, tmp_path / "two", workers=2, listener=told.append)
    assert by_identity(two.path) == by_identity(smoke_run)
    assert (two.path / "analysis.json").read_bytes() == (smoke_run / "analysis.json").read_bytes()
    assert not list((two.path / "weights").glob(".part-*"))
    plan = build(load(SMOKE))
    assert references(two.path) == references(smoke_run) and len(references(smoke_run)) == 3
    stages = {s.fingerprint: s.size for s in plan.steps if s.settings.work == "dpo"}
    assert {name: len(lines) for name, lines in logged(two.path).items()} == stages
    assert logged(two.path) == logged(smoke_run)
    assert {one.step.name for one in told if one.state == "done"} == {s.name for s in plan.steps if s.kind != "analyze"}
    assert all(one.done <= one.step.size and one.steps_total == len(plan.steps) for one in told)


def test_a_finished_run_repeats_nothing(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a finished step was carried out again")

    before, document = steps_of(own_run), (own_run / "analysis.json").stat()
    monkeypatch.setattr("holdfast.runs.engines.opening.carry_out", refuse)
    told: list[StepProgress] = []
    hf.run(SMOKE, own_run, workers=1, listener=told.append)
    assert not told and steps_of(own_run) == before
    assert (own_run / "analysis.json").stat().st_mtime_ns == document.st_mtime_ns


def test_a_lost_document_is_written_again(own_run: Path, smoke_run: Path) -> None:
    (own_run / "analysis.json").unlink()
    hf.run(SMOKE, own_run, workers=1)
    assert (own_run / "analysis.json").read_bytes() == (smoke_run / "analysis.json").read_bytes()


def test_a_changed_study_is_refused_with_its_keys(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = changed(tmp_path, lambda s: (s["stages"]["S"].update(steps=5), s["study"].update(draws=300)))
    before = (own_run / "run.db").read_bytes()
    assert main(["run", str(study), "-o", str(own_run)]) == 2
    told = capsys.readouterr()
    assert "stages.S.steps: 4 → 5; study.draws: 200 → 300" in told.err and "--fork" in told.err
    assert told.out == "" and told.err.count("\n") == 1
    assert (own_run / "run.db").read_bytes() == before


def test_a_fork_reuses_what_still_matches(smoke_run: Path, tmp_path: Path) -> None:
    study = load(changed(tmp_path, lambda s: s["stages"]["H"].update(steps=6)))
    source, before = (smoke_run / "run.db").read_bytes(), steps_of(smoke_run)
    told: list[StepProgress] = []
    fork = hf.run(study, smoke_run, fork=tmp_path / "fork", workers=1, listener=told.append)
    assert (smoke_run / "run.db").read_bytes() == source and steps_of(smoke_run) == before
    plan, after = build(study), steps_of(fork.path)
    shared = {step.fingerprint for step in plan.steps} & set(before)
    kept = {step.name for step in plan.steps if step.fingerprint in shared}
    assert "teach tiny-0" in kept and "train tiny-0 · S · seed 0" in kept
    assert "train tiny-0 · H · seed 0" not in kept and "train tiny-0 · S,H · seed 0" not in kept
    assert all(after[name] == before[name] for name in shared)
    assert {one.step.fingerprint for one in told} == {s.fingerprint for s in plan.steps[:-1]} - shared
    kept_references = {name: values for name, values in references(smoke_run).items() if name in shared}
    assert len(kept_references) == 2 and kept_references.items() <= references(fork.path).items()  # of the base and S
    assert set(logged(fork.path)) == {s.fingerprint for s in plan.steps if s.kind == "train" and s.inputs}

    def of_lineage(path: Path, lineage: list[str]) -> list[dict[str, Any]]:
        return [row for row in by_identity(path) if row["lineage"] == lineage]

    assert of_lineage(fork.path, ["S"]) == of_lineage(smoke_run, ["S"])
    assert {row["checkpoint_id"] for row in of_lineage(fork.path, ["H"])}.isdisjoint(
        row["checkpoint_id"] for row in of_lineage(smoke_run, ["H"])
    )
    # A fork is a run like any other: it equals the same study from nothing, and goes on where it was.
    whole = hf.run(study, tmp_path / "whole", workers=1)
    assert by_identity(whole.path) == by_identity(fork.path)
    assert (whole.path / "analysis.json").read_bytes() == (fork.path / "analysis.json").read_bytes()
    hf.run(study, smoke_run, fork=fork.path, workers=1, listener=lambda _: pytest.fail("repeated"))


def test_a_fork_with_another_judge_keeps_rollouts_and_drops_scores(smoke_run: Path, tmp_path: Path) -> None:
    study = changed(tmp_path, lambda s: s.update(judges={"other": {"kind": "state"}}))
    told: list[StepProgress] = []
    fork = hf.run(study, smoke_run, fork=tmp_path / "fork", workers=1, listener=told.append)
    assert {row["judge"] for row in fork.scores()} == {"other"}
    assert "roll out tiny-0 · base on test cases" not in {one.step.name for one in told}


def test_a_fork_that_cannot_be_is_refused_and_leaves_nothing(smoke_run: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(hf.StudyError, match="cannot be written"):
        hf.run(SMOKE, smoke_run, fork=blocked / "fork")
    with Store.create(tmp_path / "imported"):
        pass
    with pytest.raises(hf.StudyError, match="nothing to fork"):
        hf.run(SMOKE, tmp_path / "imported", fork=tmp_path / "fork")
    with pytest.raises(hf.StoreError, match="no run here"):
        hf.run(SMOKE, tmp_path / "absent", fork=tmp_path / "fork")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "imported"}


def test_a_failed_step_stops_only_what_depends_on_it(
    base_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that no helpfulness pair meets: the safety stage goes on all the same."""
    study = changed(tmp_path, lambda s: s.update(pairs={"min_gap": 3, "min_chosen": 3}, suite=one_case(s["suite"])))
    command = ["run", str(study), "-o", str(tmp_path / "run"), "--quiet", "--workers", "1"]
    assert main(command) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("holdfast: train tiny-0 · H · seed 0: there are no pairs to learn from; lower [pairs]")
    assert "2 failed" in told[-1] and "repeat the command to retry" in told[-1]
    first = steps_of(tmp_path / "run")
    found = {status.name: status.status for status in first.values()}
    assert found["train tiny-0 · H · seed 0"] == found["train tiny-0 · S,H · seed 0"] == "failed"
    assert found["judge tiny-0 · S · dose=1 · split 0 · seed 0 on test cases by state"] == "done"
    assert not any("H,S" in name for name in found)
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "failed: train tiny-0 · H · seed 0: there are no pairs" in capsys.readouterr().out
    assert main(command) == 1
    again = steps_of(tmp_path / "run")
    for name, status in first.items():
        assert (again[name].finished == status.finished) == (status.status == "done")


def one_case(suite: dict[str, Any]) -> dict[str, Any]:
    return {**suite, "train_cases": 1}


def test_what_failed_by_accident_is_made_good_by_repeating(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(step: Step, path: Path, emit: Callable[[Any], None]) -> None:
        if step.kind == "train" and ",S" in step.name:
            raise MemoryError("no room")
        carry_out(step, path, emit)

    monkeypatch.setattr("holdfast.runs.engines.opening.carry_out", stumble)
    with pytest.raises(hf.StepError, match=r"train tiny-0 · H,S · seed 0: MemoryError: no room \(1 failed, 2 that"):
        hf.run(SMOKE, tmp_path / "run", workers=1)
    failed = [status for status in steps_of(tmp_path / "run").values() if status.status == "failed"]
    assert [status.result["error"] for status in failed] == ["MemoryError: no room"]
    assert "Traceback" in failed[0].result["log"]
    monkeypatch.setattr("holdfast.runs.engines.opening.carry_out", carry_out)
    hf.run(SMOKE, tmp_path / "run", workers=1)
    assert by_identity(tmp_path / "run") == by_identity(smoke_run)


def test_an_analysis_that_fails_is_a_failed_step(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_run / "analysis.json").unlink()

    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr("holdfast.analysis.analyze", break_down)
    with pytest.raises(hf.StepError, match="analyze: ZeroDivisionError: nothing to divide by; repeat"):
        hf.run(SMOKE, own_run, workers=1)
    assert [s.kind for s in steps_of(own_run).values() if s.status == "failed"] == ["analyze"]


def test_an_imported_run_takes_no_study(smoke_run: Path, tmp_path: Path) -> None:
    with Store(smoke_run) as source, Store.create(tmp_path / "imported") as store, store.transaction():
        store.add_cases(source.cases()[:2])
    with pytest.raises(hf.StudyError, match="holds an imported run, not a study; choose another output"):
        hf.run(SMOKE, tmp_path / "imported")
    with Store(tmp_path / "imported") as store:
        assert store.counts()["cases"] == 2 and store.meta("study") is None


def test_a_second_writer_is_told_who_writes(own_run: Path) -> None:
    with (
        Store(own_run, writable=True),
        pytest.raises(hf.StoreError, match=rf"another process writes .*pid {os.getpid()}"),
    ):
        hf.run(SMOKE, own_run)


def test_missing_packages_are_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.runs.readiness.PACKAGES", {**PACKAGES, "train": ("torch_that_is_absent",)})
    with pytest.raises(hf.StudyError, match=r"torch_that_is_absent are missing: pip install '.\[train\]'"):
        hf.run(SMOKE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_python(own_run: Path) -> None:
    run = hf.run(hf.Study.model_validate(smoke_settings()), str(own_run))
    with run.store() as store:
        trajectory, counts = next(store.trajectories()), store.counts()
        (score, *_) = store.scores(trajectory.id)
    with Store(own_run, writable=True) as store, store.transaction():
        store.add_score(replace(score, repeat=1, value=None, missing="no verdict", label=None, reply=None))
    rows = run.scores()
    assert len(rows) == counts["scores"] + 1
    (repeated,) = (row for row in rows if row["repeat"] == 1)
    assert repeated["trajectory"] == trajectory.id and repeated["value"] is None
    assert all(row["value"] is None or 0 <= row["value"] <= 3 for row in rows)
    persistence = run.persistence("safety")
    assert {"induced", "erosion", "retained", "persistence"} <= {row.kind for row in persistence}
    assert {row.objective for row in persistence} == {"safety"}
    frontiers = run.frontier("helpfulness", "safety")
    assert frontiers and all(f.points for f in frontiers)
    assert run.frontier("safety", "helpfulness") == frontiers
    assert run.frontier("safety", "nothing") == []
    assert run.analysis() is run.analysis()
    page = run.report()
    assert page.is_file() and page.is_relative_to(own_run)
    with pytest.raises(hf.StoreError, match="no run here"):
        hf.Run(own_run / "weights")


def test_the_document_is_the_one_that_analyze_prints(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(smoke_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((smoke_run / "analysis.json").read_text())


def test_scores_have_their_record(smoke_run: Path) -> None:
    row = hf.Run(smoke_run).scores()[0]
    with Store(smoke_run) as store:
        found = [s for s in store.scores(row["trajectory"]) if s.objective == row["objective"]]
        trajectory = store.trajectory(row["trajectory"])
    assert isinstance(found[0], Score) and found[0].value == row["value"]
    assert (trajectory.case_id, trajectory.checkpoint_id) == (row["case"], row["checkpoint_id"])
