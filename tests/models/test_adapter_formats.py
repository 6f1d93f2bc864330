"""Adapters on real architectures: which layers they change, and who else loads what they save."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.tree_samples import SEQUENCES, build_hub, draw_adapter, load_plain, plain_logps, tree_logps

import holdfast as hf
from holdfast.models.directories import stacks
from holdfast.models.directories.files import digest_weights
from holdfast.models.directories.opening import write_whole
from holdfast.models.directories.stacks import Lora, base_of, read_stack, write_stack
from holdfast.models.hub import hub
from holdfast.training.policy.adapters import HubModel, open_policy

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]
SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = {"qwen2": SPLIT, "llama": SPLIT, "phi3": ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]}


def train_by_hand(source: Path, place: Path, **options: Any) -> HubModel:
    """A stage whose adapter holds random numbers."""
    torch.manual_seed(5)
    policy = open_policy(source, lora_r=3, lora_alpha=6.0, **options)
    assert isinstance(policy, HubModel)
    draw_adapter(policy.trainable())
    policy.save(place)
    return policy


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


@pytest.mark.parametrize("kind", LAYERS)
def test_every_linear_layer_but_the_head_is_adapted_as_peft_does(kind: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = build_hub(tmp_path / "base", kind)
    train_by_hand(base, tmp_path / "stage")
    theirs = get_peft_model(load_plain(base), LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    wanted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in theirs.named_modules()
        if name.endswith(".lora_A.default")
    }
    assert read_stack(tmp_path / "stage").factors.keys() == wanted and len(wanted) == 2 * len(LAYERS[kind])
    config = json.loads((tmp_path / "stage" / "adapter_config.json").read_text())
    assert config["target_modules"] == LAYERS[kind]


@pytest.mark.parametrize("kind", LAYERS)
def test_peft_and_transformers_load_what_stages_save(kind: str, tmp_path: Path) -> None:
    """An adapter with its base, by its name alone, and merged without PEFT; of a first and of a second stage."""
    from peft import AutoPeftModelForCausalLM, PeftModel

    base, source = build_hub(tmp_path / "bases" / "base", kind), tmp_path / "bases" / "base"
    for name in ("first", "second"):
        stage, whole = tmp_path / "away" / name, tmp_path / f"{name}-whole"
        ours = tree_logps(train_by_hand(source, stage)).detach()
        whole.mkdir()
        write_whole(stage, whole)
        loaded = [
            PeftModel.from_pretrained(load_plain(base), stage),
            AutoPeftModelForCausalLM.from_pretrained(stage),
            load_plain(whole),
        ]
        with torch.no_grad():
            assert all(apart(plain_logps(model.eval(), SEQUENCES), ours) < 2e-5 for model in loaded)
            assert apart(plain_logps(load_plain(base), SEQUENCES), ours) > 0.1
        assert not (whole / "adapter_config.json").exists()
        source = stage


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stage_may_change_more_layers_than_the_one_before(precision: Any, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "phi3")
    shapes = {name: module.weight.shape for name, module in load_plain(base).named_modules() if "o_proj" in name}
    generator = torch.Generator().manual_seed(1)
    early = {
        name: (torch.randn(2, inputs, generator=generator) / 4, torch.randn(outputs, 2, generator=generator) / 4)
        for name, (outputs, inputs) in shapes.items()
    }
    write_stack(tmp_path / "early", early, Lora(r=2, alpha=2.0), base=base, digest=digest_weights(base))
    start = tree_logps(open_policy(tmp_path / "early")).detach()
    assert apart(start, tree_logps(open_policy(base)).detach()) > 0.1
    close = {"fp32": 1e-5, "bf16": 0.2}[precision]
    fresh = open_policy(tmp_path / "early", lora_r=3, precision=precision)
    assert apart(tree_logps(fresh).detach(), start) < close
    late = train_by_hand(tmp_path / "early", tmp_path / "late", precision=precision)
    both = read_stack(tmp_path / "late")
    assert both.ranks == (2, 3) and len(both.factors) == 8
    assert apart(tree_logps(open_policy(tmp_path / "late")).detach(), tree_logps(late).detach()) < close
    down, up = both.factors["model.layers.0.mlp.down_proj"]
    assert not down[:2].any() and not up[:, :2].any() and up[:, 2:].all()


def test_a_model_without_linear_layers_takes_no_adapter(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    base = build_hub(tmp_path / "base", "gpt2", **sizes)
    with pytest.raises(hf.StudyError, match=r"none of its modules is one that adapters change; use lora_r = 0"):
        open_policy(base, lora_r=2)


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base as the hub's cache holds it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--some-model"
    build_hub(folder / "snapshots" / COMMIT, "qwen2")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


def test_a_base_of_the_hub_is_named_by_repository_and_revision(cached: Path, tmp_path: Path) -> None:
    stage = tmp_path / "run" / "stage"
    train_by_hand(cached, stage)
    note, config = (json.loads((stage / name).read_text()) for name in ("stack.json", "adapter_config.json"))
    assert note["hub"] == f"org/some-model@{COMMIT}" and note["path"] is None
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/some-model", COMMIT)
    assert base_of(stage) == hub.resolve("org/some-model", COMMIT) == cached
    beside = tmp_path / "run" / COMMIT
    beside.symlink_to(cached)
    assert base_of(stage) == beside
    beside.unlink()
    weights = cached / "model.safetensors"
    weights.write_bytes(
        build_hub(tmp_path / "other", "qwen2", initializer_range=0.1).joinpath(weights.name).read_bytes()
    )
    with pytest.raises(hf.StoreError, match=rf"{COMMIT} holds other weights than the base"):
        base_of(stage)


def test_a_repository_that_is_gone_is_told(cached: Path, tmp_path: Path) -> None:
    train_by_hand(cached, tmp_path / "stage")
    cached.parents[1].rename(tmp_path / "hidden")
    with pytest.raises(hf.StudyError, match=rf"model org/some-model in revision {COMMIT}: .*not in the hub's cache"):
        base_of(tmp_path / "stage")


def test_a_copy_of_a_cache_elsewhere_is_a_directory(cached: Path, tmp_path: Path) -> None:
    home = (tmp_path / "copy" / "models--org--some-model" / "snapshots" / COMMIT).resolve()
    home.parent.mkdir(parents=True)
    cached.rename(home)
    train_by_hand(home, tmp_path / "stage")
    config = json.loads((tmp_path / "stage" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(home) and "revision" not in config
    assert stacks.base_of(tmp_path / "stage") == home
