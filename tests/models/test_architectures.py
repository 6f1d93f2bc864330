"""Replies of other architectures than Llama: sampled in batches, each has the log-probability of a plain pass."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.chat_samples import make_other
from rounding import EXACT

from holdfast.models import Ask, Conversation
from holdfast.models.local.local import LocalModel
from holdfast.records import Message

transformers = pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"
full = pytest.mark.full
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
FIRST = ("tea", "what is it made of? leaves and hot water", "tea", "alpha beta")


def ask(*messages: Message, seed: int = 0) -> Ask:
    rng = np.random.default_rng(seed)
    return Ask(speaker="agent", conversation=Conversation(messages=messages), temperature=1.0, max_tokens=9, rng=rng)


def plain_logprob(network: Any, prompt: list[int], reply: tuple[int, ...]) -> float:
    """The log-probability of a reply behind its prompt, in one pass over both."""
    ids = torch.tensor([[*prompt, *reply]])
    with torch.no_grad():
        logprobs = network(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, torch.tensor(reply)[:, None]).sum())


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma2", {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0, **MIXED}),
        ("gemma3_text", {"final_logit_softcapping": 3.0, **MIXED}),
        ("gpt_oss", {**MIXED, **EXPERTS}),
        ("phi3", {"sliding_window": 8, "partial_rotary_factor": 0.5}),
        ("mixtral", EXPERTS),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96}),
        pytest.param("qwen3", {}, marks=full),
        pytest.param("mistral", {"sliding_window": 8}, marks=full),
        pytest.param("mistral", {"sliding_window": None}, marks=full),
        pytest.param("llama", {"tie_word_embeddings": True}, marks=full),
        pytest.param("cohere", {"logit_scale": 3.0}, marks=full),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_replies_have_the_log_probabilities_of_a_plain_pass(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """In 64 bits, rows of several lengths together, in a second turn too and beyond windows."""
    place = make_other(tmp_path / "base", kind, **settings)
    model = LocalModel(place, precision="fp32")
    network = transformers.AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager").eval()
    if "num_local_experts" in settings:  # whose fused products take no 64 bits
        model.model.set_experts_implementation("eager")
        network.set_experts_implementation("eager")
    asks = [ask(Message(role="user", content=text), seed=seed) for seed, text in enumerate(FIRST)]
    for _ in range(2):
        replies = model.reply(asks)
        assert len({reply.ids for reply in replies}) > 2
        for one, reply in zip(asks, replies, strict=True):
            assert reply.ids and reply.logprob is not None
            prompt = model.chat.prompt_ids(one.conversation)
            assert reply.logprob == pytest.approx(plain_logprob(network, prompt, reply.ids), rel=EXACT)
        asks = [
            ask(
                *one.conversation.messages,
                Message(role="assistant", content="a cup of tea"),
                Message(role="user", content="and then?"),
                seed=seed,
            )
            for seed, one in enumerate(asks)
        ]


@pytest.mark.usefixtures("in_64_bits")
def test_longer_texts_have_rotations_of_their_own(tmp_path: Path) -> None:
    """A reply ends where the rotations for longer texts begin; prompts beyond that place are read with those alone."""
    place = make_other(tmp_path / "base", "phi3", rope_parameters=LONG, original_max_position_embeddings=32)
    model = LocalModel(place, precision="fp32")
    network = transformers.AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager").eval()
    said = ["tea", "tea " * 4, "tea " * 20, "tea " * 30]
    asks = [ask(Message(role="user", content=text), seed=seed) for seed, text in enumerate(said)]
    prompts = [model.chat.prompt_ids(one.conversation) for one in asks]
    assert [len(prompt) < 32 for prompt in prompts] == [True, True, False, False]
    for _ in range(2):  # again with what is kept
        replies = model.reply(asks)
        for prompt, reply in zip(prompts, replies, strict=True):
            assert reply.ids and (len(prompt) + len(reply.ids) <= 32 or len(prompt) >= 32)
            assert reply.logprob == pytest.approx(plain_logprob(network, prompt, reply.ids), rel=EXACT)
