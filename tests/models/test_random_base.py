"""Bases with random weights: what transformers alone loads, the same files every time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from builders.chat_samples import EPISODE, OPENING, SEARCH, SMALL, TEXTS, make_base

from holdfast.models import chat_messages, chat_tools
from holdfast.models.hub.hub import check_model
from holdfast.models.hub.random_base import build_random
from holdfast.records.errors import StudyError

transformers = pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_transformers_alone_loads_it(architecture: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", architecture=architecture)
    check_model(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
    assert type(model).__name__ == {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[architecture]
    assert model.dtype == torch.float32 and model.config.vocab_size == SMALL.vocabulary
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    assert len(tokenizer) == SMALL.vocabulary
    text = "Tea – 茶 \n\n costs  3€"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    encoded = tokenizer.apply_chat_template(
        chat_messages([*OPENING, *EPISODE]),
        tools=chat_tools([SEARCH]),
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    own = [token for token, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
    called = '<tool_call>\n{"name": "search", "arguments": {"topic": "tea"}}\n</tool_call>'
    assert tokenizer.decode(own) == f"Let me look.\n{called}<|im_end|>A drink.<|im_end|>"
    ids = torch.tensor([encoded["input_ids"]])
    assert torch.isfinite(model(ids).logits).all()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer("<|im_end|>").input_ids[0]


def test_the_files_depend_on_the_arguments_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = make_base(tmp_path / "one")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    two = make_base(tmp_path / "two")
    other = build_random(tmp_path / "other", SMALL, TEXTS, seed=1)
    names = sorted(path.name for path in one.iterdir())
    assert "model.safetensors" in names and "tokenizer.json" in names
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_sizes_that_make_no_model_are_told(tmp_path: Path) -> None:
    for changes in ({"heads": 5}, {"key_value_heads": 3}, {"hidden": 12, "heads": 4}):
        with pytest.raises(StudyError, match="make no model"):
            make_base(tmp_path / "x", **changes)
    with pytest.raises(StudyError, match=r"its texts make \d+ tokens, not 5000; lower 'vocabulary'"):
        make_base(tmp_path / "x", vocabulary=5000)
