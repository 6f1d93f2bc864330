"""A stage that a program of the user's own carries out: what it is given, what is taken over, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.places import ROOT
from builders.smoke_study import smoke_settings, write_toml

from holdfast.cli.main import main
from holdfast.records.errors import StepError
from holdfast.runs.run import run
from holdfast.store import Store
from holdfast.study.study import Study, load

# A trainer that moves one weight of each file: what a program needs at least.
HEAD = """\
import json, os, shutil, sys, time
from pathlib import Path
model, data, output, seed = sys.argv[1:5]
model, output = Path(model), Path(output)
def save(source=model, target=output, change=lambda tensors: None, names=None):
    from safetensors.torch import load_file, save_file
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target / path.name)
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
def nudge(tensors):
    name = sorted(tensors)[0]
    tensors[name] += 1e-3 * (1 + int(seed))
"""
GOOD = "print('learning', flush=True)\nsave(change=nudge)\n"
WORDS = ["{python}", "", "{model}", "{data}", "{output}", "{seed}"]


def script(path: Path, body: str) -> Path:
    path.write_text(HEAD + textwrap.dedent(body))
    return path


def study(program: Path, *, lineages: Any = (("T",),), stages: Any = None, doses: Any = None, **keys: Any) -> Any:
    """The small study, smaller still, with a stage T by a program."""
    settings = smoke_settings()
    words = [WORDS[0], str(program), *WORDS[2:]]
    stage = {"method": "command", "command": words, "objective": "safety", "timeout": 60, **keys}
    settings["stages"] = {"T": {key: one for key, one in stage.items() if one is not None}, **(stages or {})}
    settings["study"] |= {"lineages": [list(one) for one in lineages], "train_seeds": [0], "draws": 100}
    settings["model"] = {**settings.get("model", {}), "base_seeds": [0]}
    settings["suite"] |= {"train_cases": 8, "test_cases": 4}
    settings["rollouts"] |= {"per_train_case": 4, "per_test_case": 1}
    return settings | {"doses": doses or {}, "axes": {}}


@pytest.fixture
def carry(base_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """Carries a study with a program's text out, or goes on with it; the run's directory."""

    def carry_out(body: str, **keys: Any) -> Path:
        settings = study(script(tmp_path / "train.py", body), **keys)
        run(load(write_toml(settings, tmp_path / "study.toml")), tmp_path / "run", workers=1)
        return tmp_path / "run"

    return carry_out


def trained(run_path: Path) -> dict[str, Any]:
    """What stages by a program say of themselves, by lineage."""
    with Store(run_path) as store:
        steps = [one for one in store.log.steps().values() if one.kind == "train" and " · " in one.name]
        return {one.name.split(" · ")[1]: {**one.result, "status": one.status} for one in steps}


def adopted(run_path: Path) -> list[Any]:
    with Store(run_path) as store:
        return [one for one in store.checkpoints() if one.stages]


def test_a_program_is_given_model_pairs_and_seed_and_its_model_is_taken_over(
    carry: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-value")
    monkeypatch.setenv("OPENAI_API_KEY", "not-handed-on")
    monkeypatch.setenv("MODE", "odd")
    body = f"""
    seen = {{"argv": sys.argv[1:], "env": dict(os.environ), "model": sorted(p.name for p in model.iterdir())}}
    seen["rows"] = [json.loads(line) for line in open(data)]
    Path({str(tmp_path / "seen.json")!r}).write_text(json.dumps(seen))
    print("the key is", os.environ["WANDB_API_KEY"], flush=True)
    save(change=nudge)
    (output / "training_args.bin").write_bytes(b"pickle")
    """
    path = carry(body, env=["WANDB_API_KEY"], steps=7)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["argv"][3] == "0" and {"config.json", "model.safetensors", "tokenizer.json"} <= set(seen["model"])
    assert {frozenset(row) for row in seen["rows"]} == {frozenset(("prompt", "chosen", "rejected", "tools"))}
    assert seen["env"]["WANDB_API_KEY"] == "very-secret-value"
    assert not {"OPENAI_API_KEY", "MODE"} & set(seen["env"])
    found = trained(path)["T"]
    assert found["status"] == "done" and found["rows"] == len(seen["rows"]) > 3
    assert found["programs"].keys() == {str(tmp_path / "train.py")} and found["variables"] == ["WANDB_API_KEY"]
    (checkpoint,) = adopted(path)
    with Store(path) as store:
        place = store.weights(checkpoint)
        pairs = [name for name, one in store.log.steps().items() if one.kind == "pair"]
    assert not (place / "training_args.bin").exists()
    assert (checkpoint.stages[0].steps, checkpoint.stages[0].method) == (7, "command")
    assert [checkpoint.stages[0].data] == pairs
    (log,) = (path / "logs").glob("*.trainer.jsonl")
    assert [json.loads(line)["line"] for line in log.read_text().splitlines()] == ["the key is [redacted]"]
    assert not list((path / "weights").glob(".part-*"))
