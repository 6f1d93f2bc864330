"""Model directories of more makers: other architectures in training, other damage, other names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.chat_samples import make_base
from builders.peft_samples import logits_of, rename, rewrite, save_adapter
from builders.tree_samples import build_hub
from safetensors.torch import load_file, save_file
from test_field_models import problem, study

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.directories.files import find
from holdfast.models.directories.opening import merge, open_network, read_weights, write_whole
from holdfast.models.hub import hub
from holdfast.training.policy.adapters import HubModel, open_policy

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}


def build_seeing(place: Path) -> Path:
    """A small Gemma 3 as it is published: with what sees, and the settings of its texts in a part of its own."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 0}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    sight = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sight |= {"image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=sight)
    AutoModelForImageTextToText.from_config(config).save_pretrained(place)
    return place


TRAINED: dict[str, Callable[[Path], Path]] = {
    "gemma3": build_seeing,
    "glm4_moe": lambda place: build_hub(place, "glm4_moe", **ROUTED),
    "deepseek_v3": lambda place: build_hub(
        place, "deepseek_v3", **ROUTED | LATENT | {"num_key_value_heads": 4, "head_dim": 8}
    ),
    "qwen2_moe": lambda place: build_hub(
        place,
        "qwen2_moe",
        **EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16, "mlp_only_layers": [0]},
    ),
}


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("kind", TRAINED)
def test_what_was_trained_is_read_back_as_it_was(kind: str, lora_r: int, tmp_path: Path) -> None:
    """Sampled from, trained on, and written out whole; PEFT would adapt experts by the names of dense layers."""
    base = TRAINED[kind](tmp_path / "base")
    policy = open_policy(base, lora_r=lora_r)
    assert isinstance(policy, HubModel)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.trainable():
            weight.add_(0.1 * torch.randn_like(weight))
    policy._base.set_attn_implementation("sdpa")
    trained = logits_of(policy._base)
    policy.save(tmp_path / "stage")
    hub.check_model(tmp_path / "stage")
    opened = open_network(tmp_path / "stage", dtype=torch.float32, attention="sdpa")
    if opened.stack:
        merge(opened.network, opened.stack)
    assert torch.allclose(logits_of(opened.network), trained, atol=5e-5)
    (tmp_path / "whole").mkdir()
    write_whole(tmp_path / "stage", tmp_path / "whole")
    hub.check_model(tmp_path / "whole")
    whole = open_network(tmp_path / "whole", dtype=torch.float32, attention="sdpa").network
    assert torch.allclose(logits_of(whole), trained, atol=5e-5)
    again = open_policy(tmp_path / "stage", lora_r=lora_r)
    assert isinstance(again, HubModel)
    again._base.set_attn_implementation("sdpa")
    assert torch.allclose(logits_of(again._base), trained, atol=5e-5)
    assert len(read_weights(tmp_path / "stage")) == len(load_file(tmp_path / "whole" / "model.safetensors"))


def test_a_stage_of_other_names_than_its_base_is_told(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    policy = open_policy(base, lora_r=2)
    policy.save(tmp_path / "stage")
    rename(tmp_path / "stage" / "adapter_model.safetensors", lambda name: name.replace("q_proj", "query"))
    for open_it in (open_policy, read_weights):
        with pytest.raises(hf.StoreError, match=r"adapts model.layers.0.self_attn.query, which .* does not hold"):
            open_it(tmp_path / "stage")


def test_check_finds_that_an_architecture_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Falcon samples here, and has no place for an attention over trees."""
    from transformers import AutoModelForCausalLM, FalconConfig

    base = make_base(tmp_path / "base")
    tokens = json.loads((base / "config.json").read_text())["vocab_size"]
    config = FalconConfig(vocab_size=tokens, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    falcon = tmp_path / "falcon"
    AutoModelForCausalLM.from_config(config).save_pretrained(falcon)
    for path in base.iterdir():
        if path.name not in ("config.json", "model.safetensors", "generation_config.json"):
            (falcon / path.name).write_bytes(path.read_bytes())
    place = tmp_path / "trained.toml"
    place.write_text(
        f'[study]\nname = "t"\nlineages = [["S"]]\n[model]\nbases = ["m"]\n[models.m]\nkind = "local"\n'
        f'name = "{falcon}"\n[judges.state]\nkind = "state"\n[stages.S]\nobjective = "safety"\n'
    )
    told = problem(capsys, "check", str(place))
    assert "(falcon) has no attention of the kind 'holdfast_tree', which training here takes" in told
    assert main(["check", study(tmp_path, falcon)]) == 0


# --- weights that are other numbers -----------------------------------------------------------------------------------


def change(place: Path, update: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = place / "model.safetensors"
    save_file(update(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool, torch.int64])
@pytest.mark.parametrize("part", ["", "layernorm", "q_proj"])
def test_whole_numbers_are_no_weights(kind: torch.dtype, part: str, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    change(base, lambda found: {name: one.to(kind) if part in name else one for name, one in found.items()})
    with pytest.raises(hf.StudyError, match=r"weight is of whole numbers \(\w+\): quantised weights, and config.json"):
        hub.check_model(base)


def test_whole_numbers_are_no_weights_of_an_adapter(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    save_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: (one * 100).to(torch.int8) for name, one in load_file(path).items()}, path)
    with pytest.raises(hf.StudyError, match=r"lora_A.weight is of whole numbers \(I8\); save the adapter"):
        hub.check_model(tmp_path / "adapter")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_width_open(kind: torch.dtype, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    change(base, lambda found: {name: one.to(kind) for name, one in found.items()})
    assert hub.check_model(base) == 61


def shards(place: Path) -> list[Path]:
    from transformers import AutoModelForCausalLM

    whole = build_hub(place / "whole", "llama")
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(place / "shards", max_shard_size="20KB")
    return sorted((place / "shards").glob("*.safetensors"))


@pytest.mark.parametrize("factor", [1, 3])
def test_a_weight_in_two_shards_is_the_same_in_both(factor: int, tmp_path: Path) -> None:
    first, second, *_ = shards(tmp_path)
    name, weight = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: weight * factor}, second, metadata={"format": "pt"})
    if factor == 1:
        assert hub.check_model(first.parent) == 61
        return
    with pytest.raises(hf.StudyError, match=rf"{name} is also in {first.name}, and another one there"):
        hub.check_model(first.parent)


def test_an_index_may_call_a_weight_another_shards(tmp_path: Path) -> None:
    """Only which files belong to the model is taken from it, as transformers does."""
    files = shards(tmp_path)
    path = files[0].parent / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places = {name: files[number % len(files)].name for number, name in enumerate(index["weight_map"])}
    path.write_text(json.dumps(index | {"weight_map": places}))
    assert hub.check_model(path.parent) == 61


def test_engines_read_the_same_weights(tmp_path: Path) -> None:
    """Beside a whole file vLLM reads the shards that an index names, and transformers does not."""
    files = shards(tmp_path)
    place = files[0].parent
    assert hub.check_model(place, engine="vllm") == 61
    (place / "model.safetensors").write_bytes((tmp_path / "whole" / "model.safetensors").read_bytes())
    assert hub.check_model(place) == 61
    with pytest.raises(hf.StudyError, match=r"names model-00001-of-\d+.safetensors: vLLM reads the one"):
        hub.check_model(place, engine="vllm")
    names = load_file(place / "model.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    assert hub.check_model(place, engine="vllm") == 61


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (base / "model.safetensors").write_text(pointer)
    with pytest.raises(hf.StudyError, match=r"model.safetensors: is a pointer of Git LFS .*git lfs pull"):
        hub.check_model(base)


def test_what_trainers_leave_beside_weights_changes_nothing(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    save_adapter(base, tmp_path / "adapter")
    digests = [hub.describe(place) for place in (base, tmp_path / "adapter")]
    for place in (base, tmp_path / "adapter"):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
            torch.save({"a": 1}, place / name)
        (place / "trainer_state.json").write_text('{"global_step": 10}')
        (place / "global_step10").mkdir()
        (place / "latest").write_text("global_step10")
        assert hub.check_model(place) == 61
    assert [hub.describe(place) for place in (base, tmp_path / "adapter")] == digests


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "told"),
    [("base_model.model._orig_mod.", "torch.compile's"), ("module.base_model.model.", "DistributedDataParallel's")],
)
def test_a_wrapper_of_an_adapter_is_named_with_what_undoes_it(prefix: str, told: str, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    save_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    rename(path, lambda name: name.replace("base_model.model.", prefix, 1))
    with pytest.raises(hf.StudyError, match=rf"belong to no layer of the base .* are {told}"):
        hub.check_model(tmp_path / "adapter")


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
@pytest.mark.parametrize("value", [None, "16", True])
def test_an_adapter_tells_its_scale(key: str, value: Any, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    save_adapter(base, tmp_path / "adapter")
    rewrite(tmp_path / "adapter" / "adapter_config.json", **{key: value})
    with pytest.raises(hf.StudyError, match=rf"adapter_config.json: tells no {key}, by which"):
        hub.check_model(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "x/" * 3000])
def test_a_base_of_a_name_that_no_path_has_is_not_here(name: str, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    save_adapter(base, tmp_path / "adapter", named=name)
    with pytest.raises(hf.StudyError, match=r"its base .* is no(t here| directory)"):
        hub.check_model(tmp_path / "adapter")
    with pytest.raises(hf.StudyError, match="no such directory"):
        find(name)


def test_what_a_library_only_announces_in_its_first_line_is_told(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama")
    rewrite(base / "config.json", hidden_size="32")
    with pytest.raises(hf.StudyError, match=r"'hidden_size': TypeError: Field 'hidden_size' expected int"):
        hub.check_model(base)
