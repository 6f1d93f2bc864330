"""What tests of the field cases of models share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.peft_samples import rename
from holdfast.cli.main import main


def study(place: Path, model: Path | str, text: str = "") -> str:
    """A study of four probes, with one base."""
    lines = (
        f'[study]\nname = "probes"\n[model]\nbases = ["m"]\n[models.m]\nkind = "local"\nname = "{model}"\n{text}\n'
        '[suite]\nname = "probes"\nsplit = "none"\ntest_cases = 4\n[rollouts]\nmax_tokens = 8\n'
        '[judges.rules]\nkind = "probes"\n'
    )
    (place / "study.toml").write_text(lines)
    return str(place / "study.toml")


def problem(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line refuses, in its one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1, told
    return told[0]


def gate(child: str, output: Path) -> list[str]:
    return [
        "gate",
        "--suite",
        "study.toml",
        "--parent",
        "./base",
        "--child",
        child,
        "-o",
        str(output),
        "--workers",
        "1",
    ]


NORM = "model.layers.1.input_layernorm.weight"


def drop_tensor(base: Path) -> None:
    rename(base / "model.safetensors", {NORM: None})


def add(name: str, *shape: int) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        path = base / "model.safetensors"
        save_file(load_file(path) | {name: torch.ones(shape)}, path, metadata={"format": "pt"})

    return change


SMALL_MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "qwen3_moe": SMALL_MOE,
    "mixtral": SMALL_MOE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    "gemma3_text": {},
    "phi3": {},
    "cohere": {},
}
