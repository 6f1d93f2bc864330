"""Whether a directory can have been trained from another: shapes, tokens, and what an adapter stands on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders.peft_samples import save_adapter
from safetensors.torch import load_file, save_file

from holdfast.models.entries import ModelEntry
from holdfast.models.hub.hub import resolve
from holdfast.models.hub.kinship import require_kin
from holdfast.models.hub.random_base import build_random
from holdfast.records.errors import StudyError

ENTRY = ModelEntry(kind="random", hidden=16, layers=1, heads=2, key_value_heads=1, ffn=16, vocabulary=303)
TEXTS = ["please delete the report", "the report is old, keep it", "done and removed"] * 4
OTHERS = ["quite another text, of many other words", "altogether unlike all that stood before"] * 4


def perturb(source: Path, place: Path) -> Path:
    """The same model with other weights, as training leaves it."""
    shutil.copytree(source, place)
    weights = load_file(place / "model.safetensors")
    save_file({name: one + 0.01 for name, one in weights.items()}, place / "model.safetensors", {"format": "pt"})
    return place


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, what was trained from it, adapters on either, and strangers."""
    root = tmp_path_factory.mktemp("family")
    build_random(root / "base", ENTRY, TEXTS, seed=0)
    build_random(root / "wide", ENTRY.model_copy(update={"hidden": 32}), TEXTS, seed=0)
    build_random(root / "spoken", ENTRY, OTHERS, seed=1)
    perturb(root / "base", root / "sft")
    for name, base in (("lora", "base"), ("lora-on-sft", "sft")):
        save_adapter(root / base, root / name)
    shutil.copytree(root / "base", root / "copy")
    for name, dtype in (("resaved", torch.float32), ("halved", torch.float16)):
        shutil.copytree(root / "base", root / name)
        stored = {key: one.to(dtype) for key, one in load_file(root / "base" / "model.safetensors").items()}
        save_file(stored, root / name / "model.safetensors", {"format": "pt", "saved": "again"})
    shutil.copytree(root / "lora", root / "idle")
    file = root / "idle" / "adapter_model.safetensors"
    save_file({key: one * ("lora_A" in key) for key, one in load_file(file).items()}, file, {"format": "pt"})
    save_adapter(root / "copy", root / "lora-on-copy")
    return root


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("sft", "base"),
        ("lora", "base"),
        ("lora-on-copy", "base"),  # the same weights at another place
        ("lora-on-sft", "sft"),
        ("lora-on-copy", "lora"),  # an adapter that went on from an adapter
        ("sft", "lora"),
    ],
)
def test_what_was_trained_from_its_parent_is_taken(family: Path, child: str, parent: str) -> None:
    if (child, parent) == ("lora-on-copy", "lora"):
        file = family / child / "adapter_model.safetensors"
        save_file({name: one + 1 for name, one in load_file(file).items()}, file, {"format": "pt"})
    require_kin(resolve(str(family / child)), family / parent)


@pytest.mark.parametrize(
    ("child", "parent", "words"),
    [
        ("wide", "base", "its hidden_size is 32 and that of .*base is 16: another architecture"),
        ("spoken", "base", "tokens of .*base \\(first: .*\\): another tokenizer"),
        ("lora", "sft", "is an adapter on .*base, which holds other weights than .*sft"),
        ("lora-on-sft", "base", "is an adapter on .*sft, which holds other weights than .*base"),
        ("copy", "base", "holds the very weights of .*base: nothing was trained"),
        ("resaved", "base", "holds the very weights of .*base: nothing was trained"),  # in other bytes
        ("halved", "base", "holds the very weights of .*base: nothing was trained"),  # rounded
        ("idle", "base", "holds the very weights of .*base: nothing was trained"),  # an adapter that adds nothing
    ],
)
def test_a_stranger_is_refused_with_what_to_give(family: Path, child: str, parent: str, words: str) -> None:
    with pytest.raises(StudyError, match=words) as error:
        require_kin(resolve(str(family / child)), family / parent)
    assert str(error.value).startswith(str(family / child)) and "; give the checkpoint that" in str(error.value)


def test_an_adapter_without_its_base_is_refused(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "lora", tmp_path / "lora")
    told = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(StudyError, match=r"its base .*gone' .* is not here; put that directory there"):
        require_kin(resolve(str(tmp_path / "lora")), family / "base")


def test_a_checkpoint_without_a_tokenizer_is_told_what_to_copy(family: Path, tmp_path: Path) -> None:
    place = perturb(family / "base", tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).unlink()
    with pytest.raises(StudyError, match=r"holds no tokenizer.*copy from there tokenizer.json tokenizer_config.json"):
        require_kin(resolve(str(place)), family / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (family / "base" / name).is_file():
            shutil.copyfile(family / "base" / name, place / name)
    require_kin(resolve(str(place)), family / "base")


def test_tokens_that_training_added_are_no_other_tokenizer(family: Path, tmp_path: Path) -> None:
    place = perturb(family / "base", tmp_path / "grown")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.add_tokens(["<new>"]) == 1
    tokenizer.save_pretrained(place)
    require_kin(place, family / "base")
