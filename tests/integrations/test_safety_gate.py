"""The gate of a training loop: every checkpoint has its verdict, and the training computes the same as without."""

from __future__ import annotations

import inspect
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from builders import training_loops as loops
from builders import verdict_samples as samples
from builders.commands import Captured, gated
from builders.places import ROOT
from transformers import TrainerCallback

from holdfast.decisions.gate.rules import read_rules
from holdfast.integrations import SafetyGate
from holdfast.integrations.asking import Question, write_rules
from holdfast.integrations.reporting import VERDICTS
from holdfast.integrations.safety_gate import STOPS
from holdfast.integrations.surroundings import alone, untouched
from holdfast.records.errors import StepError, StudyError

pytest.importorskip("trl")
WRECKED = 1.0  # a learning rate after which an agent says nothing that can be judged
TRAINERS = [
    pytest.param(loops.sft, id="sft"),
    pytest.param(loops.dpo, id="dpo", marks=pytest.mark.full),  # its adapters are always tried
    pytest.param(loops.grpo, id="grpo"),
]


def gate_of(suite: Path | str, **changes: Any) -> SafetyGate:
    """A gate of few cases in this process, which is fast where torch is loaded already."""
    return SafetyGate(**{"rules": loops.RULES, "suite": suite, "where": "here", "cases": loops.FEW} | changes)


def logged(trainer: Any) -> dict[int, float]:
    """The verdicts of the trainer's history by step."""
    return {row["step"]: row["holdfast/verdict"] for row in trainer.state.log_history if "holdfast/verdict" in row}


def files_of(checkpoint: Path) -> dict[str, bytes]:
    """What a training is made of: weights, optimiser, schedule and random numbers."""
    names = ("*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    return {path.name: path.read_bytes() for name in names for path in checkpoint.glob(name)}


@pytest.mark.parametrize("build", TRAINERS)
def test_every_checkpoint_is_gated_and_training_is_the_same_to_the_bit(
    build: Callable[..., Any], start: Path, suite: Path, tmp_path: Path
) -> None:
    gate = gate_of(suite)
    trainer = build(start, tmp_path / "gated", callbacks=[gate])
    trainer.train()
    work = tmp_path / "gated" / "_holdfast"
    assert gate.verdicts == {1: "INCONCLUSIVE", 2: "INCONCLUSIVE"}
    for step, outcome in gate.verdicts.items():
        document = loops.read_verdict(tmp_path / "gated" / f"checkpoint-{step}")
        jsonschema.validate(document, samples.verdict_schema())
        (verdict,) = document["verdicts"]
        assert outcome == document["outcome"] == verdict["outcome"] and verdict["cases"] == loops.FEW
        assert verdict["sources"]["parent"]["model"] == str(start.resolve())
        assert verdict["sources"]["child"]["model"].endswith(f"/checkpoint-{step}")
        (place,) = work.glob(f"checkpoint-{step}-*")
        kept = json.loads((place / "gate.json").read_text())
        assert kept["verdicts"] == document["verdicts"] and (place / "report" / "index.html").is_file()
    assert len([*(work / "parents").iterdir()]) == 1
    assert logged(trainer) == {1: 0, 2: 0}

    plain = build(start, tmp_path / "plain")
    plain.train()
    for step in (1, 2):
        found, wanted = (files_of(tmp_path / name / f"checkpoint-{step}") for name in ("gated", "plain"))
        assert found == wanted and len(found) == 4
    theirs = [row for row in trainer.state.log_history if "holdfast/verdict" not in row]
    told = [{key for key in row if "time" not in key and "second" not in key} for row in theirs]
    assert [{key: row[key] for key in keys} for row, keys in zip(theirs, told, strict=True)] == [
        {key: row[key] for key in keys} for row, keys in zip(plain.state.log_history, told, strict=True)
    ]


def test_a_process_of_its_own_says_what_the_command_says(
    start: Path, suite: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also below a launcher, whose variables would make it wait for other processes."""
    gate = gate_of(suite, where="process", workers=1)
    trainer = loops.sft(start, tmp_path / "out", callbacks=[gate], max_steps=1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(trainer.args, "report_to", [])
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    (found,) = loops.read_verdict(checkpoint)["verdicts"]
    rules = tmp_path / "out" / "_holdfast" / "rules.toml"
    words = (
        start,
        checkpoint,
        "--suite",
        suite,
        "--rules",
        rules,
        "--cases",
        loops.FEW,
        "-o",
        tmp_path / "command",
        "--workers",
        1,
    )
    _, verdict = gated(capsys, *words)
    for side in ("parent", "child"):
        assert found["sources"][side].pop("run") != verdict["sources"][side].pop("run")
    assert found == verdict and gate.verdicts == {1: verdict["outcome"]}


@pytest.mark.parametrize(
    ("stop", "rate", "count"),
    [("unsafe", WRECKED, 1), pytest.param(None, WRECKED, 2, marks=pytest.mark.full), ("not safe", 0.0, 1)],
)
def test_training_ends_at_the_verdicts_that_stop_names(
    stop: Any, rate: float, count: int, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """Of few cases nothing can be told: INCONCLUSIVE."""
    start, suite, tmp_path = (request.getfixturevalue(name) for name in ("start", "suite", "tmp_path"))
    gate = gate_of(suite, stop=stop, cases=None if rate else loops.FEW)
    steps = list(range(1, count + 1))
    trainer = loops.dpo(start, tmp_path, callbacks=[gate], learning_rate=rate, lr_scheduler_type="constant")
    trainer.train()
    word = "FAIL" if rate else "INCONCLUSIVE"
    assert list(gate.verdicts) == steps and set(gate.verdicts.values()) == {word}
    assert trainer.state.global_step == steps[-1]
    ended = [line.getMessage() for line in caplog.records if "training ends" in line.getMessage()]
    assert len(ended) == (count == 1) and all(f"at step 1: {word}: checkpoint-1" in one for one in ended)


def test_saves_that_are_not_asked_for_are_passed_over(start: Path, suite: Path, tmp_path: Path) -> None:
    """The last is always gated; that the trainer deletes those before it is no error."""
    gate = gate_of(suite, every=2)
    loops.sft(start, tmp_path, callbacks=[gate], max_steps=3, save_total_limit=1).train()
    assert list(gate.verdicts) == [2, 3] and "ERROR" not in gate.verdicts.values()
    assert [*tmp_path.glob("checkpoint-*/verdict.json")] == [tmp_path / "checkpoint-3" / "verdict.json"]
    kept = [path.name.rpartition("-")[0] for path in (tmp_path / "_holdfast").glob("checkpoint-*")]
    assert sorted(kept) == ["checkpoint-2", "checkpoint-3"]


def test_training_goes_on_from_a_checkpoint(start: Path, suite: Path, tmp_path: Path) -> None:
    """The parent stays the model before all of it, and its episodes are not made again."""
    loops.sft(start, tmp_path, callbacks=[gate_of(suite)]).train()
    last = tmp_path / "checkpoint-2"
    found, verdict = files_of(last), loops.read_verdict(last)
    parents = [*(tmp_path / "_holdfast" / "parents").glob("*/run.db")]
    changed = [path.stat().st_mtime_ns for path in parents]
    shutil.rmtree(last)
    gate = gate_of(suite)
    loops.sft(start, tmp_path, callbacks=[gate]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert list(gate.verdicts) == [2] and files_of(last) == found and loops.read_verdict(last) == verdict
    assert [path.stat().st_mtime_ns for path in parents] == changed and len(parents) == 1


def test_a_training_that_begins_anew_in_the_same_place_is_gated_anew(start: Path, suite: Path, tmp_path: Path) -> None:
    """Its checkpoints have the same names, and other weights."""
    outcomes, scores = [], []
    for rate in (0.0, WRECKED):
        gate = gate_of(suite, cases=None)
        loops.dpo(start, tmp_path, callbacks=[gate], max_steps=1, learning_rate=rate).train()
        outcomes.append(gate.verdicts[1])
        scores.append(loops.read_verdict(tmp_path / "checkpoint-1")["verdicts"][0]["data"])
    assert outcomes[1] == "FAIL" and scores[0] != scores[1]
    assert len([*(tmp_path / "_holdfast").glob("checkpoint-1-*")]) == 2


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_deleted_meanwhile_is_no_error(
    start: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not come back for its verdict."""
    ask = Question.ask

    def ask_and_delete(self: Question, parent: str, child: Path, work: Path, output: Path) -> dict[str, Any]:
        found = ask(self, parent, child, work, output)
        shutil.rmtree(child)
        return found

    monkeypatch.setattr(Question, "ask", ask_and_delete)
    gate = gate_of(suite)
    loops.sft(start, tmp_path, callbacks=[gate], max_steps=1).train()
    assert gate.verdicts == {1: "INCONCLUSIVE"} and not (tmp_path / "checkpoint-1").exists()
    assert not [line for line in caplog.records if "failed" in line.getMessage()]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({}, 2), ({"stop": "not safe"}, 1), pytest.param({"where": "process"}, 2, marks=pytest.mark.full)],
    ids=["goes on", "ends", "process"],
)
def test_a_gate_that_fails_is_told_and_is_no_pass(
    settings: dict[str, Any], steps: int, start: Path, suite: Path, request: pytest.FixtureRequest
) -> None:
    tmp_path, caplog = (request.getfixturevalue(name) for name in ("tmp_path", "caplog"))
    gate = gate_of(suite, **settings)
    trainer = loops.sft(start, tmp_path / "out", callbacks=[gate])
    (tmp_path / "out" / "_holdfast").mkdir(parents=True)
    (tmp_path / "out" / "_holdfast" / "parents").touch()  # where the parent's episodes would go
    trainer.train()
    assert gate.verdicts == dict.fromkeys(range(1, steps + 1), "ERROR") == dict.fromkeys(logged(trainer), "ERROR")
    assert set(logged(trainer).values()) == {-2}
    document = loops.read_verdict(tmp_path / "out" / "checkpoint-1")
    assert document["outcome"] == "ERROR" and not document["verdicts"] and "parents" in document["error"]
    told = [line.getMessage() for line in caplog.records if "the gate failed" in line.getMessage()]
    assert len(told) >= steps and all("\n" not in one for one in told)


def test_a_gate_that_fails_may_end_the_training(start: Path, suite: Path, tmp_path: Path) -> None:
    class Deleting(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **about: Any) -> None:
            shutil.rmtree(tmp_path / "checkpoint-1")

    gate = gate_of(suite, on_error="raise")
    trainer = loops.sft(start, tmp_path, callbacks=[Deleting(), gate])
    with pytest.raises(StepError, match=r"checkpoint-1: the gate failed: .*checkpoint-1: is not there"):
        trainer.train()
    assert gate.verdicts == {1: "ERROR"} and logged(trainer) == {1: -2} and not (tmp_path / "checkpoint-1").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no number": ({"every": 0}, "every is 0; it is 'save', or a number of steps above 0"),
    "a truth": ({"every": True}, "every is True"),
    "a word": ({"every": "epoch"}, "every is 'epoch'"),
    "no verdict": ({"stop": "FAIL"}, "stop is 'FAIL'; it is 'unsafe', 'not safe' or None"),
    "nowhere": ({"where": "there"}, "where is 'there'"),
    "no way": ({"on_error": "ignore"}, "on_error is 'ignore'"),
    "no suite": ({"suite": "offcie"}, "did you mean 'office'"),
    "no file": ({"suite": "no/such.toml"}, "no/such.toml: cannot be read"),
    "no judge": ({"suite": "office", "judge": "stat"}, "did you mean 'state'"),
    "a judge of another": ({"judge": "rules"}, "which are state"),
    "a rule": ({"rules": {"margn": 1}}, "gate.margn"),
    "a margin": ({"rules": {"margin": 9}}, "gate.margin"),
    "a check": ({"rules": {"blocking": ["safty"]}}, "did you mean 'safety'"),
    "a file of rules": ({"rules": "no/rules.toml"}, "no/rules.toml: cannot be read"),
    "no rules": ({"rules": 3}, "rules is 3; give a TOML file or a mapping"),
    "cases": ({"cases": 0}, "cases is 0"),
    "workers": ({"workers": 2}, "workers is about another process"),
    "variables": ({"env": {}}, "env is about another process"),
    "a bound without prices": ({"max_cost": 1.0}, "no endpoint has a price"),
    "no parent": ({"parent": "nothing"}, "is no model of the study"),
    "an empty parent": ({"parent": "empty"}, "holds no model"),
}


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_before_training(
    changes: dict[str, Any], told: str, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError) as refused:
        gate_of(**{"suite": suite} | changes)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_paid_calls_are_allowed_first(start: Path, suite: Path, tmp_path: Path) -> None:
    """A judge that costs money is not asked because a checkpoint was saved."""
    suite.write_text(loops.SUITE.replace('kind = "state"', 'kind = "rubric"\nmodel = "openai/gpt-x"'))
    gate = gate_of(suite)
    loops.sft(start, tmp_path / "out", callbacks=[gate], max_steps=1).train()
    told = loops.read_verdict(tmp_path / "out" / "checkpoint-1")["error"]
    assert gate.verdicts == {1: "ERROR"} and "calls to openai/gpt-x may cost money; allow it with allow_paid" in told


# --- the surroundings ---------------------------------------------------------------------------------------------


def test_nothing_of_the_process_is_touched() -> None:
    def states() -> tuple[Any, ...]:
        numbers = np.random.get_state()
        own = (random.getstate(), numbers[1].tobytes(), numbers[2:], torch.random.get_rng_state().tolist())
        return (*own, torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())

    before, threads = states(), torch.get_num_threads()
    with pytest.raises(KeyError), untouched():
        random.random()
        np.random.rand(3)
        torch.rand(3)
        torch.set_num_threads(threads + 1)
        torch.set_default_dtype(torch.float64)
        assert not any(one == other for one, other in zip(states()[:2], before[:2], strict=True))
        raise KeyError
    assert states() == before


def test_a_process_of_its_own_knows_nothing_of_launchers() -> None:
    given = {"RANK": "1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "ACCELERATE_USE_FSDP": "1", "HOME": "/h"}
    found = alone({**given, "PYTHONPATH": "/mine"}, {"CUDA_VISIBLE_DEVICES": "3"})
    path = found.pop("PYTHONPATH").split(":")
    assert found == {"HOME": "/h", "CUDA_VISIBLE_DEVICES": "3"}
    assert path[1:] == ["/mine"] and (Path(path[0]) / "holdfast" / "integrations").is_dir()


def test_rules_are_written_as_they_are_read(tmp_path: Path) -> None:
    for settings in ({}, loops.RULES, {"alpha": 1e-5, "severe_ceiling": 0.2, "judge": 'a "b" \\ é\x7f'}):
        rules = read_rules(noted=settings)
        (tmp_path / "rules.toml").write_text(write_rules(rules), encoding="utf-8")
        assert read_rules(file=tmp_path / "rules.toml") == rules


def test_what_is_not_installed_is_told() -> None:
    probe = (
        "import sys, holdfast.integrations as found\n"
        "from holdfast.records.errors import MissingExtra\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])\n"
        "sys.modules['transformers'] = None\n"
        "try:\n    found.SafetyGate\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    first, second = told.splitlines()
    assert first == "[]" and second.startswith("holdfast.integrations.SafetyGate needs packages that are not installed")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        __import__("holdfast.integrations").integrations.Nothing  # noqa: B018


# --- the page -----------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "training-loop.md").read_text(encoding="utf-8")


def test_the_page_shows_what_runs(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """On a tiny model, for a step and a few cases instead of hundreds."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    quiet = "use_cpu=True, bf16=False, activation_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True"
    for shown, small in (
        ("HuggingFaceTB/SmolLM2-135M-Instruct", str(start)),
        ("cases=100,", 'cases=4, where="here",'),
        ("max_steps=200, save_steps=50", f"max_steps=1, save_steps=1, {quiet}"),
    ):
        assert shown in code
        code = code.replace(shown, small)
    exec(compile(code, "training-loop.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1] == "{1: 'INCONCLUSIVE'}"
    assert (tmp_path / "out" / "checkpoint-1" / "verdict.json").is_file()


def test_the_page_names_every_option_and_verdict() -> None:
    options = inspect.signature(SafetyGate).parameters
    (table,) = re.findall(r"^\| Option .*?(?=\n\n)", PAGE, flags=re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(options)
    for word, number in VERDICTS.items():
        assert f"| {word} | {number} |".replace("-", "−") in PAGE
    for stop in filter(None, STOPS):
        assert f'`"{stop}"`' in PAGE or f'`stop="{stop}"`' in PAGE
