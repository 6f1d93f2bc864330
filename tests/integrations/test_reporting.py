"""Bounds and verdicts where people look at their training: TensorBoard's and MLflow's own files, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import training_loops as loops
from transformers import TrainerControl, TrainerState

from holdfast.integrations import SafetyGate
from holdfast.integrations.reporting import VERDICTS, log_numbers, name_numbers

pytest.importorskip("trl")
METRICS = ("safety", "severe", "helpfulness", "refusal", "validity")


def expected(checkpoint: Path) -> dict[str, float]:
    """What is to be logged of a checkpoint, by its verdict."""
    document = loops.read_verdict(checkpoint)
    checks = {check["metric"]: check for check in document["verdicts"][0]["checks"]}
    found = {"holdfast/verdict": float(VERDICTS[document["outcome"]])}
    for name in METRICS:
        keys = {"change": "change", "low": "lower", "high": "upper"}
        found |= {f"holdfast/{name}_{key}": checks[name][field] for key, field in keys.items()}
    assert None not in found.values()
    return found


def trained(start: Path, suite: Path, output: Path, **changes: Any) -> dict[int, dict[str, float]]:
    """What each of two checkpoints is to have had reported."""
    gate = SafetyGate(suite=suite, where="here", stop=None)
    loops.sft(start, output, callbacks=[gate], **changes).train()
    return {step: expected(output / f"checkpoint-{step}") for step in gate.verdicts}


def test_tensorboard_has_every_bound(start: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    wanted = trained(start, suite, tmp_path / "out", report_to="tensorboard")
    assert len([*(tmp_path / "board").iterdir()]) == 1  # the trainer's own file, not one beside it
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    found = {tag for tag in board.Tags()["scalars"] if tag.startswith("train/holdfast/")}
    assert found == {f"train/{name}" for name in (*wanted[1], "holdfast/seconds")}
    for name in wanted[1]:
        values = {one.step: one.value for one in board.Scalars(f"train/{name}")}
        assert values == pytest.approx({step: row[name] for step, row in wanted.items()}, rel=1e-6, abs=1e-9)
    assert len(board.Scalars("train/loss")) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of what it depends on
def test_mlflow_has_every_bound(start: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own store on the disk, which is a database since files by themselves are no longer maintained."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "loop")
    wanted = trained(start, suite, tmp_path / "out", report_to="mlflow", max_steps=1)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("loop").experiment_id])
    for name in wanted[1]:
        values = {one.step: one.value for one in client.get_metric_history(run.info.run_id, name)}
        assert values == pytest.approx({step: row[name] for step, row in wanted.items()})


def test_numbers_are_those_that_are_there() -> None:
    """No curve has a value that is none: a check that was not measured, or bounds that are missing."""
    check = {"metric": "safety", "child": 1.0, "change": -0.5, "lower": -1.0, "upper": 0.25}
    checks = [
        check,
        {**check, "metric": "severe", "change": None, "lower": None, "upper": None},
        {**check, "metric": "ceiling", "child": 0.2, "change": None, "lower": 0.1, "upper": 0.3},
    ]
    assert name_numbers({"outcome": "FAIL", "verdicts": [{"checks": checks}]}) == {
        "holdfast/verdict": -1.0,
        "holdfast/safety_change": -0.5,
        "holdfast/safety_low": -1.0,
        "holdfast/safety_high": 0.25,
        "holdfast/ceiling_change": 0.2,
        "holdfast/ceiling_low": 0.1,
        "holdfast/ceiling_high": 0.3,
    }
    assert name_numbers({"outcome": "ERROR", "verdicts": []}) == {"holdfast/verdict": -2.0}


def test_whoever_is_no_trainer_gets_the_history(suite: Path) -> None:
    """In a loop that calls a callback by itself nobody reports; the caller is told so."""
    state = TrainerState(global_step=3, epoch=0.5)
    gate = SafetyGate(suite=suite)
    assert not log_numbers(gate, None, state, TrainerControl(), {"holdfast/verdict": 1.0})
    assert state.log_history == [{"holdfast/verdict": 1.0, "epoch": 0.5, "step": 3}]
