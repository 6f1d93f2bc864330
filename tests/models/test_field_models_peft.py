"""Field cases of models (H): PEFT's directories."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.chat_samples import make_base
from builders.field_models import KINDS, gate, study
from builders.peft_samples import IDS, logits_of, rename, rewrite, save_adapter
from builders.places import case_input
from builders.tree_samples import build_hub
from rounding import EXACT, additions, apart, rounding, within
from safetensors.torch import load_file

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.directories.opening import open_network, read_weights, write_whole
from holdfast.models.directories.stacks import base_of, find_stack, is_stack, read_stack
from holdfast.models.hub import hub
from holdfast.models.local.local import LocalModel
from holdfast.store import Store
from holdfast.training.policy.adapters import HubModel, open_policy

os.environ["HF_HUB_OFFLINE"] = "1"


pytest.importorskip("peft")


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def opened(place: Path, **options: Any) -> Any:
    return LocalModel(place, precision="fp32", **options).model


def test_h_04_a_base_is_gated_against_its_adapter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = case_input("H-04")
    monkeypatch.chdir(case)
    assert main(gate("./adapter", tmp_path / "run")) in (0, 1, 3)
    assert "Verdict" in capsys.readouterr().out
    with Store(tmp_path / "run") as store:
        bases = {one.base: one for one in store.checkpoints()}
        results = [status.result for status in store.log.steps().values() if status.result.get("directory")]
    assert bases["base"].digest != bases["adapter"].digest
    assert [one.get("base") for one in results if one["directory"] == "adapter"] == [str((case / "base").resolve())]


RICH: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "biases": {"bias": "all"},
    "own biases": {"bias": "lora_only"},
    "head and embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "some tokens": {"trainable_token_indices": [3, 5, 8]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "began with pissa": {"init_lora_weights": "pissa"},
}
PLAIN: dict[str, dict[str, Any]] = {
    "one layer": {},
    "all layers": {"target_modules": ALL},
    "rslora": {"use_rslora": True, "target_modules": ALL},
    "patterns": {
        "target_modules": ALL,
        "rank_pattern": {"up_proj": 5, "0.self_attn.q_proj": 1},
        "alpha_pattern": {"q_proj": 9},
    },
    "some of the layers": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", [*PLAIN, *RICH])
def test_an_adapter_speaks_as_peft_computes_it(
    kind: str, base: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Opened to sample, to train, and written out whole; a plain one is also the stack of one stage."""
    from transformers import AutoModelForCausalLM

    close = EXACT
    if kind == "began with pissa":  # which PEFT begins in 32 bits at most
        sizes = json.loads((base / "config.json").read_text())
        names = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
        close = rounding(additions(*(sizes[name] for name in names), IDS.shape[1]))
    else:
        request.getfixturevalue("in_64_bits")
    place = tmp_path / "adapter"
    theirs = save_adapter(base, place, **(PLAIN | RICH)[kind])
    assert hub.check_model(place) is not None and (find_stack(place) is not None) == (kind in PLAIN)
    assert within(apart([logits_of(opened(place))], [theirs]), close)
    assert (theirs - logits_of(opened(base))).abs().max() > 0.01
    (tmp_path / "whole").mkdir()
    write_whole(place, tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert within(apart([logits_of(whole)], [theirs]), close)
    hub.check_model(tmp_path / "whole")
    found = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(weight, found[name]) for name, weight in read_weights(place).items())
    assert (tmp_path / "whole" / "tokenizer.json").is_file()


TIED: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "copies": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "some tokens": {"trainable_token_indices": [3, 5, 8]},
    "neither": {},
}


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("kind", TIED)
def test_an_adapter_of_one_end_of_tied_ends_changes_that_end_alone(kind: str, tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "llama", tie_word_embeddings=True)
    theirs = save_adapter(base, tmp_path / "adapter", **TIED[kind])
    policy = open_policy(tmp_path / "adapter", lora_r=2)
    assert isinstance(policy, HubModel)
    policy.save(tmp_path / "stage")
    for place in (tmp_path / "adapter", tmp_path / "stage"):
        hub.check_model(place)
        (tmp_path / f"whole-{place.name}").mkdir()
        write_whole(place, tmp_path / f"whole-{place.name}")
        found = open_network(tmp_path / f"whole-{place.name}", dtype=torch.float32, attention="sdpa").network
        assert apart([logits_of(found)], [theirs]) < EXACT


@pytest.mark.usefixtures("in_64_bits")
def test_an_adapter_of_transposed_layers_is_merged(tmp_path: Path) -> None:
    base = build_hub(tmp_path / "base", "gpt2", **KINDS["gpt2"])
    theirs = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn"], fan_in_fan_out=True)
    policy = open_policy(tmp_path / "adapter")
    assert isinstance(policy, HubModel)
    policy._base.set_attn_implementation("sdpa")
    assert apart([logits_of(policy._base)], [theirs]) < EXACT


@pytest.mark.usefixtures("in_64_bits")
def test_an_adapter_may_bring_more_tokens_than_its_base(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<one>", "<two>"])
    theirs = save_adapter(base, tmp_path / "adapter", tokens=368)
    tokenizer.save_pretrained(tmp_path / "adapter")
    model = LocalModel(tmp_path / "adapter", precision="fp32")
    assert len(model.chat.tokenizer) == 362 and hub.check_model(tmp_path / "adapter") == 368
    assert apart([logits_of(model.model)], [theirs]) < EXACT
    # Its own tokenizer is the one that counts: the base's embeddings alone are too few.
    save_adapter(base, tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    with pytest.raises(hf.StudyError, match="the tokenizer has 362 tokens, the model reads 360"):
        LocalModel(tmp_path / "short")


def test_a_base_is_found_by_path_beside_the_adapter_and_in_the_cache(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef" * 2 + "01234567"
    cache = tmp_path / "cache" / "models--lab--small"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copytree(base, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    save_adapter(base, tmp_path / "deep" / "adapter")
    settings = tmp_path / "deep" / "adapter" / "adapter_config.json"
    beside = Path(shutil.copytree(base, tmp_path / "deep" / "other"))
    monkeypatch.chdir(tmp_path)
    for named, found in (
        (str(base), base),
        ("../../base", base),
        ("other", beside),
        ("base", base),
        ("./base", base),
        ("lab/small", cache / "snapshots" / commit),
    ):
        rewrite(settings, base_model_name_or_path=named)
        assert base_of(settings.parent) == found, named
        hub.check_model(settings.parent)
    rewrite(settings, revision="v9")
    with pytest.raises(hf.StudyError, match=r"its base .* is no directory .*; model lab/small in revision v9"):
        hub.check_model(settings.parent)
    rewrite(settings, base_model_name_or_path="../other", revision=None)
    make_base(tmp_path / "other", hidden=32)
    assert base_of(settings.parent) == beside
    rewrite(settings, base_model_name_or_path="other")
    with pytest.raises(hf.StudyError, match=r"the base 'other' may be .*/other or .*/other; write an absolute path"):
        hub.check_model(settings.parent)


def settle(**settings: Any) -> Callable[[Path], None]:
    return lambda place: rewrite(place / "adapter_config.json", **settings)


def pickled(place: Path) -> None:
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")


def cut(name: str) -> Callable[[Path], None]:
    return lambda place: rename(place / "adapter_model.safetensors", {name: None})


FACTOR = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "prompts": (settle(peft_type="PROMPT_TUNING"), "the adapter is prompt tuning, and only LoRA is merged here"),
    "ia3": (settle(peft_type="IA3"), "the adapter is IA³"),
    "mixed": (settle(peft_type="XLORA"), "the adapter is X-LoRA"),
    "none": (settle(peft_type=None), "the adapter is of kind NONE"),
    "layers": (settle(layer_replication=[[0, 1], [0, 2]]), r"repeats layers of the base \(layer_replication\)"),
    "loftq": (settle(init_lora_weights="loftq"), r"changed its base as it began \(init_lora_weights = 'loftq'\)"),
    "megatron": (settle(megatron_config={"a": 1}, megatron_core="os"), "whose code the settings name"),
    "newer": (settle(use_folding=True), "the installed PEFT does not know use_folding"),
    "no base": (settle(base_model_name_or_path=None), "names no base"),
    "lost base": (settle(base_model_name_or_path="/nowhere/at/all"), "its base '/nowhere/at/all' .* is not here"),
    "url": (settle(base_model_name_or_path="https://a/b/c"), "its base 'https://a/b/c' .* is not here"),
    "itself": (settle(base_model_name_or_path="."), "its base '.' .* is not here"),
    "pickle": (pickled, r"pickle weights \(adapter_model.bin\) are not loaded"),
    "no copy": (settle(modules_to_save=["lm_head"]), "adapter_model.safetensors does not hold .*lm_head.weight"),
    "bias": (settle(lora_bias=True), "weights of the adapter are not in its file|cannot merge this adapter"),
    "missing": (cut(FACTOR), "1 weights of the adapter are not in its file"),
    "renamed": (
        lambda place: rename(place / "adapter_model.safetensors", lambda name: name.replace("q_proj", "query")),
        "in its file belong to no layer of the base",
    ),
    "torn": (lambda place: (place / "adapter_model.safetensors").write_bytes(b"12345678"), "is damaged"),
    "json": (lambda place: (place / "adapter_config.json").write_text("{"), "adapter_config.json: cannot be read"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_adapter_that_cannot_be_merged_is_named(
    kind: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = UNREADABLE[kind]
    place = tmp_path / "adapter"
    save_adapter(base, place)
    change(place)
    for open_it in (hub.check_model, LocalModel, open_policy):
        with pytest.raises(hf.StudyError, match=rf"adapter.*{told}"):
            open_it(place)
    assert main(["check", study(tmp_path, place)]) == 2


def test_an_adapter_of_another_shape_or_on_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    make_base(tmp_path / "wide", hidden=96, heads=6)
    save_adapter(base, tmp_path / "one", named=str(tmp_path / "wide"))
    with pytest.raises(hf.StudyError, match=r"one: does not fit its base .*wide \(size mismatch for .*q_proj"):
        hub.check_model(tmp_path / "one")
    save_adapter(base, tmp_path / "two", named=str(tmp_path / "one"))
    with pytest.raises(hf.StudyError, match=r"its base .*one is itself an adapter"):
        hub.check_model(tmp_path / "two")
    rewrite(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    rewrite(tmp_path / "one" / "adapter_config.json", base_model_name_or_path=str(base))
    with pytest.raises(hf.StudyError, match=r"base: its weights are quantised .*, and an adapter is not merged into"):
        hub.check_model(tmp_path / "one")


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    """What a stage computes in; what would be 32 bits is 64, so that a formula is compared and not its rounding."""
    if request.param == "fp32":
        request.getfixturevalue("in_64_bits")
    return str(request.param)


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("kind", ["all layers", "head and embeddings"])
def test_a_stage_goes_on_from_an_adapter(precision: Any, kind: str, lora_r: int, base: Path, tmp_path: Path) -> None:
    """It starts as what PEFT computes, and what it saves is opened as what it had learnt."""
    place = tmp_path / "adapter"
    theirs = save_adapter(base, place, **(PLAIN | RICH)[kind])
    policy = open_policy(place, lora_r=lora_r, precision=precision)
    assert isinstance(policy, HubModel)
    # In 16 bits eight results of each layer are rounded, of weights that are rounded too: errors that may add up.
    close = EXACT if precision == "fp32" else 2 * 8 * rounding(1, dtype=torch.bfloat16)
    policy._base.set_attn_implementation("sdpa")
    with policy._autocast():
        assert within(apart([logits_of(policy._base).float()], [theirs]), close)
    with torch.no_grad():
        for weight in policy.trainable():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    with policy._autocast():
        learnt = logits_of(policy._base).float()
    assert apart([learnt], [theirs]) > 5 * close
    policy.save(tmp_path / "stage")
    assert is_stack(tmp_path / "stage") == (lora_r > 0 and kind in PLAIN)
    if lora_r > 0 and kind in PLAIN:
        assert read_stack(tmp_path / "stage").ranks == (3, 2) and base_of(tmp_path / "stage") == base
    hub.check_model(tmp_path / "stage")
    again = LocalModel(tmp_path / "stage", precision="fp32")
    assert within(apart([logits_of(again.model)], [learnt]), close)
