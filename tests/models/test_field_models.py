"""Which model that was: directories as people have them, opened as what was saved there, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.chat_samples import make_base
from builders.peft_samples import IDS, logits_of, rename, rewrite, save_adapter
from builders.places import case_input
from builders.tree_samples import build_hub
from rounding import EXACT, additions, apart, rounding, within
from safetensors.torch import load_file, save_file

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.directories.files import digest_weights
from holdfast.models.directories.opening import open_network, read_weights, write_whole
from holdfast.models.directories.peft import read_peft
from holdfast.models.directories.stacks import base_of, find_stack, is_stack, read_stack
from holdfast.models.hub import hub
from holdfast.models.hub.chat import HubChat
from holdfast.models.local.local import LocalModel
from holdfast.runs.readiness import PACKAGES
from holdfast.store import Store
from holdfast.training.policy.adapters import HubModel, open_policy

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that speaks, to be read only."""
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def base(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "base"))


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


def opened(place: Path, **options: Any) -> Any:
    return LocalModel(place, precision="fp32", **options).model


# --- H-01, D1: weights that are not in their files ------------------------------------------------------------------


def test_h_01_a_prefix_on_every_weight_is_refused_before_anything_is_spent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = case_input("H-01")
    monkeypatch.chdir(case)
    told = problem(capsys, *gate("./prefixed", tmp_path / "run"))
    assert "12 of 12 weights of the model are not in its files (first: lm_head.weight, " in told
    assert "the files hold 12 that the model does not have (first: _orig_mod.lm_head.weight" in told
    assert "take '_orig_mod.' out of the names" in told and not (tmp_path / "run").exists()
    hub.resolve("base")


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("module.", "DistributedDataParallel's"),
        ("base_model.model.", "merge the adapter"),
        ("_fsdp_wrapped_module.", "FSDP's"),
        ("policy.net.", r"the names begin with 'policy\.net\.': take that out"),
    ],
)
def test_prefixes_of_wrappers_are_named_with_what_undoes_them(prefix: str, told: str, base: Path) -> None:
    rename(base / "model.safetensors", lambda name: prefix + name)
    for open_it in (hub.check_model, LocalModel, open_policy):
        with pytest.raises(hf.StudyError, match=rf"base: \d+ of \d+ weights of the model are not in .*{told}"):
            open_it(base)


NORM = "model.layers.1.input_layernorm.weight"


def drop_tensor(base: Path) -> None:
    rename(base / "model.safetensors", {NORM: None})


def rename_tensor(base: Path) -> None:
    rename(base / "model.safetensors", {NORM: "model.layers.1.input_norm.weight"})


def add(name: str, *shape: int) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        path = base / "model.safetensors"
        save_file(load_file(path) | {name: torch.ones(shape)}, path, metadata={"format": "pt"})

    return change


def widen(base: Path) -> None:
    rewrite(base / "config.json", intermediate_size=96)


def add_layer(base: Path) -> None:
    rewrite(base / "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3)


def drop_layer(base: Path) -> None:
    rewrite(base / "config.json", num_hidden_layers=1, layer_types=["full_attention"])


MISFITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "dropped": (drop_tensor, rf"1 of \d+ weights of the model are not in its files \(first: {NORM}\)"),
    "headless": (
        lambda base: rename(base / "model.safetensors", {"lm_head.weight": None}),
        r"1 of \d+ weights .* \(first: lm_head.weight\); if .*, set tie_word_embeddings to true",
    ),
    "renamed": (rename_tensor, r"the files hold 1 that the model does not have \(first: .*input_norm.weight\)"),
    "reward": (add("score.weight", 1, 64), r"hold 1 .*\(first: score.weight\); these are a classifier's or reward"),
    "value": (add("v_head.summary.weight", 1, 64), r"hold 1 .*; these are a value head"),
    "adapter": (add("model.layers.0.self_attn.q_proj.lora_A.default.weight", 2, 64), "an adapter's, which is not"),
    "wider": (widen, r"6 have another shape than config.json says \(\S+ is \d+×\d+ there and \d+×\d+ in the model\)"),
    "deeper": (add_layer, r"1\d of \d+ weights of the model are not in its files \(first: model.layers.2."),
    "shallower": (drop_layer, r"the files hold 1\d that the model does not have \(first: model.layers.1."),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_weights_that_do_not_all_fit_refuse_a_directory(kind: str, base: Path) -> None:
    change, told = MISFITS[kind]
    change(base)
    with pytest.raises(hf.StudyError, match=rf"base: .*{told}"):
        hub.check_model(base)
    for open_it in (LocalModel, open_policy):
        with pytest.raises(hf.StudyError, match="base: "):
            open_it(base)


def test_quantised_weights_without_a_word_of_it_are_told(base: Path) -> None:
    path = base / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj"
    tensors[f"{name}.qweight"] = tensors.pop(f"{name}.weight").to(torch.int32)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(hf.StudyError, match=r"these are quantised weights, which config.json does not tell"):
        hub.check_model(base)


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


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saves_opens_whole_and_in_shards(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    place = build_hub(tmp_path / "whole", kind, **KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(place)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert hub.check_model(place) == hub.check_model(tmp_path / "shards") == 61
    (tmp_path / "shards" / sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))[1]).unlink()
    with pytest.raises(hf.StudyError, match=r"index.json: names model-00002-of-\d+.safetensors, which is not there"):
        hub.check_model(tmp_path / "shards")


def test_what_old_versions_left_in_the_files_opens(tmp_path: Path) -> None:
    """Rotations, causal masks, a tied head a second time, and a decoder saved without its head's prefix."""
    llama = build_hub(tmp_path / "llama", "llama", tie_word_embeddings=True)
    tensors = load_file(llama / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    gpt2 = build_hub(tmp_path / "gpt2", "gpt2", **KINDS["gpt2"])
    tensors = {name.removeprefix("transformer."): one for name, one in load_file(gpt2 / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, gpt2 / "model.safetensors", metadata={"format": "pt"})
    for place in (llama, gpt2):
        assert hub.check_model(place) == 61


def test_a_model_that_also_sees_is_opened_for_its_texts(tmp_path: Path) -> None:
    """Where transformers has such a half of it, what sees is left out, and nothing else is."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "intermediate_size_mlp": 48, "head_dim": 8}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    sight = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    sight |= {"vision_output_dim": 32, "image_size": 28, "patch_size": 14}
    sight |= {"projector_input_dim": 32, "projector_output_dim": 32}
    place = tmp_path / "seeing"
    config = AutoConfig.for_model("llama4", text_config={**text, "pad_token_id": 0}, vision_config=sight)
    AutoModelForImageTextToText.from_config(config).save_pretrained(place)
    assert any("vision" in name for name in load_file(place / "model.safetensors"))
    assert hub.check_model(place) == 61
    add("score.weight", 1, 32)(place)
    with pytest.raises(hf.StudyError, match="the files hold 1 that the model does not have"):
        hub.check_model(place)


def test_p_22_weights_that_are_no_numbers_are_refused_as_they_are_opened(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = base / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM][3] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(hf.StudyError, match=rf"base: refused: {NORM} has values that are not finite; restore"):
        LocalModel(base)
    assert f"{NORM} has values that are not finite; restore" in problem(capsys, "check", study(tmp_path, base))
    monkeypatch.setattr("holdfast.runs.readiness.READ_BYTES", 100)
    assert main(["check", study(tmp_path, base)]) == 0
    assert "whose values are looked at when a run opens them" in capsys.readouterr().out


@pytest.mark.parametrize("tokenizers_own", [True, False])
def test_p_22_an_end_of_turn_beyond_the_vocabulary_is_told_and_none_at_all_refused(
    tokenizers_own: bool, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a configuration was made with by default may stand in it for long; the tokenizer's own end counts."""
    (base / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": 999_999}))
    if tokenizers_own:
        assert main(["check", study(tmp_path, base)]) == 0
        assert "eos_token_id 999999 is beyond its" in capsys.readouterr().out
        assert HubChat(base).ends
        return
    told = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**told, "eos_token": None}))
    assert "no token ends a turn (eos_token_id 999999" in problem(capsys, "check", study(tmp_path, base))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("mamba", {"state_size": 4}), ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}), ("gpt_oss", SMALL_MOE)],
)
def test_p_25_an_architecture_without_the_attention_of_sampling_is_told(
    kind: str, sizes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = build_hub(tmp_path / kind, kind, **sizes)
    told = problem(capsys, "check", study(tmp_path, place))
    assert f"its architecture ({kind}) has no attention of the kind 'sdpa'" in told


# --- H-02: an adapter beside whole weights ---------------------------------------------------------------------------


def test_h_02_an_adapter_beside_whole_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case_input("H-02"))
    told = r"both: holds an adapter \(adapter_config.json\) beside other weights \(model.safetensors\).*; move the"
    for open_it in (hub.resolve, hub.describe, LocalModel, open_policy, read_weights):
        with pytest.raises(hf.StudyError, match=told):
            open_it("both" if open_it is hub.resolve else Path("both"))
    one, other = (hub.describe(Path(name))["digest"] for name in ("base", "adapter"))
    assert one != other


def test_a_digest_is_of_base_and_adapter_and_of_what_it_computes(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "same")
    rewrite(tmp_path / "same" / "adapter_config.json", base_model_name_or_path="../base", inference_mode=False)
    shutil.copytree(tmp_path / "one", tmp_path / "louder")
    rewrite(tmp_path / "louder" / "adapter_config.json", lora_alpha=7)
    digests = [hub.describe(tmp_path / name)["digest"] for name in ("one", "same", "louder")]
    assert digests[0] == digests[1] != digests[2] and digest_weights(base) not in digests


def test_settings_of_an_adapter_alone_beside_weights_are_refused(base: Path) -> None:
    (base / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "other"}')
    with pytest.raises(hf.StudyError, match="beside other weights"):
        hub.check_model(base)


# --- H-04: PEFT's directories ----------------------------------------------------------------------------------------


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
    assert bases["./base"].digest != bases["./adapter"].digest
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
    assert within(apart([logits_of(policy._base).float()], [theirs]), close)
    with torch.no_grad():
        for weight in policy.trainable():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    learnt = logits_of(policy._base).float()
    assert apart([learnt], [theirs]) > 5 * close
    policy.save(tmp_path / "stage")
    assert is_stack(tmp_path / "stage") == (lora_r > 0 and kind in PLAIN)
    if lora_r > 0 and kind in PLAIN:
        assert read_stack(tmp_path / "stage").ranks == (3, 2) and base_of(tmp_path / "stage") == base
    hub.check_model(tmp_path / "stage")
    again = LocalModel(tmp_path / "stage", precision="fp32")
    assert within(apart([logits_of(again.model)], [learnt]), close)


# --- H-05: code that transformers does not need ----------------------------------------------------------------------


def plant(place: Path) -> Path:
    """Code that would leave a mark beside the directory."""
    mark = place.parent / "mark"
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py"):
        (place / name).write_text(f"open({str(mark)!r}, 'w').close()\n")
    return mark


def test_h_05_code_beside_a_known_architecture_is_not_asked_for() -> None:
    case = case_input("H-05")
    named, base = (LocalModel(hub.resolve(str(case / name)), precision="fp32").model for name in ("named", "base"))
    assert torch.equal(logits_of(named), logits_of(base))


@pytest.mark.parametrize("where", ["here", "upstream"])
def test_no_code_runs_and_no_hub_is_asked(where: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    mark, upstream = plant(base), "lab/other--" if where == "upstream" else ""
    names = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    rewrite(base / "config.json", auto_map={key: upstream + value for key, value in names.items()})
    rewrite(base / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, f"{upstream}tokenization_x.X"]})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the hub was asked"))
    model = LocalModel(base, precision="fp32")
    assert torch.isfinite(logits_of(model.model)).all() and not mark.exists()
    open_policy(base)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "made_up"}, "for a model of kind 'made_up', which transformers does not have"),
        ({"model_type": "vit"}, "for a model of kind 'vit'"),
        ({"model_type": None}, "for no model_type"),
        ({"text_config": {"auto_map": {"AutoConfig": "x.X"}, "model_type": "made_up"}}, "kind 'made_up'"),
        ({"trust_remote_code": True}, r"\(trust_remote_code\): refused"),
    ],
)
def test_an_architecture_that_needs_its_code_is_refused(changes: dict[str, Any], told: str, base: Path) -> None:
    rewrite(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.X"}, **changes)
    mark = plant(base)
    with pytest.raises(hf.StudyError, match=rf"config.json: asks to run code of its own .*{told}"):
        hub.check_model(base)
    assert not mark.exists()


# --- H-06: tokens that the model does not read -----------------------------------------------------------------------


def test_h_06_more_tokens_than_embeddings_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = case_input("H-06")
    monkeypatch.chdir(case)
    told = problem(capsys, *gate("./child", tmp_path / "run"))
    assert "the tokenizer has 289 tokens, the model reads 258; resize the embeddings" in told
    assert not (tmp_path / "run").exists()


def test_added_tokens_want_embeddings_and_spare_embeddings_want_no_tokens(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|tool|>"], special_tokens=True)
    tokenizer.save_pretrained(base)
    with pytest.raises(hf.StudyError, match="the tokenizer has 361 tokens, the model reads 360; resize"):
        LocalModel(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(384)
    model.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    assert len(LocalModel(tmp_path / "padded").chat.tokenizer) == 361


# --- H-07, H-08: what check finds -----------------------------------------------------------------------------------


def test_h_07_quantised_weights_are_told_before_anything_is_spent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU may compute them")
    case = case_input("H-07")
    monkeypatch.chdir(case)
    told = problem(capsys, *gate("./four-bit", tmp_path / "run"))
    assert "its weights are quantised (bitsandbytes, 4 bits), which this machine does not compute" in told
    assert "pip install -U bitsandbytes" in told and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may compute them")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"quantised \(gptq, 4 bits\), which this machine does not compute"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, r"quantised \(awq, 4 bits\)"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, r"quantised \(compressed-tensors\)"),
        ({"quant_method": "made-up"}, r"quantised \(made-up\), which transformers does not know"),
    ],
)
def test_every_way_to_quantise_is_told(settings: dict[str, Any], told: str, base: Path) -> None:
    rewrite(base / "config.json", quantization_config=settings)
    for open_it in (hub.check_model, LocalModel):
        with pytest.raises(hf.StudyError, match=told):
            open_it(base)
    with pytest.raises(hf.StudyError, match="such weights are not trained; name the model in 16 bits"):
        open_policy(base)


H_08 = {
    "adapter": "its base 'base' (base_model_name_or_path) is no directory beside the adapter or here",
    "four-bit": "its weights are quantised",
    "short": "the tokenizer has 289 tokens, the model reads 258",
}


@pytest.mark.parametrize("name", H_08)
def test_h_08_check_finds_what_a_run_refuses(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(case_input("H-08"))
    assert H_08[name] in problem(capsys, "check", f"{name}.toml")


def test_h_08_what_a_run_opens_is_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(case_input("H-08"))
    assert main(["check", "named.toml"]) == 0
    save_adapter(base, tmp_path / "adapter")
    assert main(["check", study(tmp_path, tmp_path / "adapter")]) == 0
    assert f"model m: {tmp_path / 'adapter'}, a LoRA adapter on {base}, in this process" in capsys.readouterr().out


def forget_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink()


def break_json(name: str) -> Callable[[Path], None]:
    return lambda base: (base / name).write_text("{")


def lose(name: str) -> Callable[[Path], Any]:
    return lambda base: (base / name).unlink()


def shard(base: Path) -> None:
    """An index that names a shard which is lost."""
    names = dict.fromkeys(load_file(base / "model.safetensors"), "model-00001-of-00002.safetensors")
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    names[NORM] = "model-00002-of-00002.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


FOUND: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shard": (shard, "names model-00002-of-00002.safetensors, which is not there"),
    "index": (
        lambda base: (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors"),
        "neither model.safetensors nor model.safetensors.index.json",
    ),
    "template": (forget_template, "has no chat template"),
    "tokenizer": (lose("tokenizer.json"), "holds no tokenizer (tokenizer.json)"),
    "config": (break_json("config.json"), "config.json: cannot be read"),
    "settings": (break_json("tokenizer_config.json"), "tokenizer_config.json: cannot be read"),
    "kind": (
        lambda base: rewrite(base / "config.json", model_type="vit"),
        "has no language model of kind 'vit' that takes texts alone",
    ),
    "unknown": (
        lambda base: rewrite(base / "config.json", model_type="made_up"),
        "transformers cannot read config.json",
    ),
    "misfit": (drop_tensor, "weights of the model are not in its files"),
    "head": (add("score.weight", 1, 64), "reward model's head"),
}


@pytest.mark.parametrize("kind", FOUND)
def test_check_and_gate_find_what_is_wrong_before_a_rollout(
    kind: str, base: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = FOUND[kind]
    change(base)
    path = study(tmp_path, base)
    assert told in problem(capsys, "check", path)
    for parent, child in ((good, base), (base, good)):
        output = tmp_path / "run"
        arguments = ["gate", "--suite", path, "--parent", str(parent), "--child", str(child), "-o", str(output)]
        assert told in problem(capsys, *arguments) and not output.exists()
        if child == base:
            assert told in problem(capsys, *arguments, "--again") and not output.exists()


def test_quantising_as_it_loads_is_checked_too(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU can quantise")
    told = problem(capsys, "check", study(tmp_path, base, 'quantization = "int4"'))
    assert "quantization int4 needs an NVIDIA GPU" in told
    save_adapter(base, tmp_path / "adapter")
    told = problem(capsys, "check", study(tmp_path, tmp_path / "adapter", 'quantization = "int4"'))
    assert "an adapter cannot be merged into quantised weights" in told


def test_a_tiny_model_with_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from builders import tiny_office

    place = tiny_office.make_model(tmp_path / "tiny")
    (tmp_path / "study.toml").write_text(
        Path(study(tmp_path, place)).read_text().replace('kind = "local"', 'kind = "tiny"')
    )
    assert main(["check", str(tmp_path / "study.toml")]) == 0
    add("score.weight", 1, 96)(place)
    assert "reward model's head" in problem(capsys, "check", str(tmp_path / "study.toml"))


# --- without torch ---------------------------------------------------------------------------------------------------

HIDE = """\
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""
REMOTE = """\
import os, sys
from holdfast.cli.main import main
from holdfast.models.fakes import FakeProvider

if __name__ == "__main__":
    with FakeProvider(lambda request: "No.") as provider:
        os.environ |= {"FAKE_BASE_URL": provider.base_url, "FAKE_API_KEY": "key"}
        code = main(["gate", "--suite", "study.toml", "--parent", "remote/openai-api/fake/one", "--child",
                     "remote/openai-api/fake/two", "-o", "run", "--workers", "1"])
        print("code", code, len(provider.answered()), "torch" in sys.modules)
"""


def test_remote_models_are_gated_where_no_torch_is(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    (tmp_path / "remote.py").write_text(REMOTE)
    study(tmp_path, "nothing")
    source = Path(hf.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"}
    done = subprocess.run(
        [sys.executable, "remote.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "code 3 8 False", done.stdout + done.stderr


def test_a_directory_without_torch_is_told_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.runs.readiness.PACKAGES", {**PACKAGES, "train": ("torch_that_is_absent",)})
    assert "packages torch_that_is_absent are missing" in problem(capsys, "check", study(tmp_path, base))


def test_a_base_of_an_adapter_is_read_without_torch(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    code = (
        "from pathlib import Path; from holdfast.models.hub import hub\n"
        "from holdfast.records.errors import MissingExtra\n"
        "try:\n    hub.resolve('adapter')\nexcept MissingExtra as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(hf.__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1 and "pip install" in done.stdout, done.stderr
    assert read_peft(tmp_path / "adapter").base == base
