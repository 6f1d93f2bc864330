"""Which model that was: directories as people have them, opened as what was saved there, or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.field_models import KINDS, NORM, add, drop_tensor, gate, problem, study
from builders.peft_samples import logits_of, rename, rewrite, save_adapter
from builders.places import case_input
from builders.tree_samples import build_hub
from safetensors.torch import load_file, save_file

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.directories.files import digest_weights
from holdfast.models.directories.opening import read_weights
from holdfast.models.hub import hub
from holdfast.models.hub.chat import HubChat
from holdfast.models.local.local import LocalModel
from holdfast.training.policy.adapters import open_policy

os.environ["HF_HUB_OFFLINE"] = "1"


pytest.importorskip("peft")


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]


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


def rename_tensor(base: Path) -> None:
    rename(base / "model.safetensors", {NORM: "model.layers.1.input_norm.weight"})


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
    [("mamba", {"state_size": 4}), ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2})],
)
def test_p_25_an_architecture_without_the_attention_of_sampling_is_told(
    kind: str, sizes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = build_hub(tmp_path / kind, kind, **sizes)
    told = problem(capsys, "check", study(tmp_path, place))
    assert f"its architecture ({kind}) has no attention of the kind 'sdpa'" in told


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
