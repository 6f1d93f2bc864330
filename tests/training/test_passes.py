"""Passes over trees give what a model gives each sequence by itself: numbers, gradients, and any cut of them."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from builders.tree_samples import (
    SEQUENCES,
    build_hub,
    draw_adapter,
    load_plain,
    plain_logps,
    towards,
    tree_logps,
)
from rounding import EXACT, apart

from holdfast.models.tiny.llama import TinyLlama
from holdfast.records.errors import StudyError
from holdfast.training.loop.passes import check_budget, score_within
from holdfast.training.policy.adapters import HubModel, WholeTiny, open_policy
from holdfast.training.trees.packing import pack

os.environ["HF_HUB_OFFLINE"] = "1"
pytestmark = pytest.mark.usefixtures("one_thread")
wide = pytest.mark.usefixtures("in_64_bits")
# peft asks transformers by a name that transformers is about to drop.

KINDS = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "phi3": {},
    "gemma": {},
    "gemma3_text": {},
    "olmo2": {},
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.3, "embedding_multiplier": 2.0},
}


def gradients(logps, weights):
    return torch.autograd.grad(logps @ towards(len(logps)), weights)


# --- numbers and gradients


@wide
def test_tiny_llama_equals_transformers(tiny_dir):
    policy, plain = open_policy(tiny_dir), load_plain(tiny_dir)
    assert isinstance(policy, WholeTiny)
    ours, theirs = tree_logps(policy), plain_logps(plain, SEQUENCES)
    assert len(ours) > 100 and apart([ours], [theirs]) < EXACT
    # Gradients go into a model's place for weights, which names them as transformers does.
    fused = TinyLlama(TinyLlama.load(tiny_dir).shape)
    for place, gradient in zip(fused.parameters(), gradients(ours, policy.trainable()), strict=True):
        place.data.copy_(gradient)
    named = fused.export_weights()
    weights = dict(plain.named_parameters())
    assert named.keys() == weights.keys()
    assert apart([named[name] for name in weights], gradients(theirs, list(weights.values()))) < EXACT


@wide
@pytest.mark.parametrize("kind", KINDS)
def test_architectures_equal_transformers(kind, tmp_path):
    policy, plain = HubModel(build_hub(tmp_path, kind, **KINDS[kind])), load_plain(tmp_path)
    ours, theirs = tree_logps(policy), plain_logps(plain, SEQUENCES)
    assert apart([ours], [theirs]) < EXACT
    assert apart(gradients(ours, policy.trainable()), gradients(theirs, list(plain.parameters()))) < EXACT


def test_an_attention_that_is_not_told_of_the_tree_is_refused(tmp_path):
    with pytest.raises(StudyError, match="cannot train on trees"):
        HubModel(build_hub(tmp_path, "stablelm"))


@wide
def test_lora_equals_peft(llama_dir):
    from peft import LoraConfig, get_peft_model

    policy = HubModel(llama_dir, lora_r=3, lora_alpha=6.0)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    plain = get_peft_model(
        load_plain(llama_dir), LoraConfig(r=3, lora_alpha=6.0, target_modules=names, task_type="CAUSAL_LM")
    ).eval()
    adapter = [weight for weight in plain.parameters() if weight.requires_grad]
    assert len(adapter) == 2 * 2 * 7
    draw_adapter(policy.trainable())
    draw_adapter(adapter)
    ours, theirs = tree_logps(policy), plain_logps(plain, SEQUENCES)
    assert apart([ours], [theirs]) < EXACT
    assert (theirs - plain_logps(load_plain(llama_dir), SEQUENCES)).abs().max() > 0.1
    assert apart(gradients(ours, policy.trainable()), gradients(theirs, adapter)) < EXACT


@pytest.mark.parametrize("lora_r", [0, 3])
def test_half_precision_is_as_exact_as_the_plain_way(llama_dir, lora_r):
    """Both against the same weights in 32 bits."""
    exact = HubModel(llama_dir, lora_r=lora_r)
    rounded = HubModel(llama_dir, lora_r=lora_r, precision="bf16")
    if lora_r:
        draw_adapter(exact.trainable())
        draw_adapter(rounded.trainable())
    assert {weight.dtype for weight in rounded.trainable()} == {torch.float32}
    right, ours = tree_logps(exact), tree_logps(rounded)
    assert ours.dtype == torch.float32
    # One sequence a tree is the plain way: no shared prefix and one causal block.
    theirs = torch.cat([tree_logps(rounded, [item]) for item in SEQUENCES])
    assert (ours - right).norm() <= 1.5 * (theirs - right).norm()
    assert (ours - right).norm() > 0
    true, one, other = (
        gradients(logps, policy.trainable()) for logps, policy in ((right, exact), (ours, rounded), (theirs, rounded))
    )

    def error(found):
        return sum((a - b).square().sum() for a, b in zip(found, true, strict=True)).sqrt()

    assert error(one) <= 1.5 * error(other)


def test_inputs_of_an_adapter_are_not_cast_to_and_fro(llama_dir):
    """Their way through 32 bits, PEFT's, ends in the same 16: equal bits of the values and of every gradient."""
    policy = HubModel(llama_dir, lora_r=3, precision="bf16")
    draw_adapter(policy.trainable())
    layers = [layer for layer in policy._base.modules() if hasattr(layer, "cast_input_dtype_enabled")]
    assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
    ours = tree_logps(policy)
    there = gradients(ours, policy.trainable())
    for layer in layers:
        layer.cast_input_dtype_enabled = True
    theirs = tree_logps(policy)
    assert torch.equal(ours, theirs)
    assert all(map(torch.equal, there, gradients(theirs, policy.trainable())))


def test_half_precision_equals_autocast(llama_dir):
    with torch.autocast("cpu", torch.bfloat16):
        theirs = plain_logps(load_plain(llama_dir), SEQUENCES)
    right = plain_logps(load_plain(llama_dir), SEQUENCES)
    ours = tree_logps(HubModel(llama_dir, precision="bf16"))
    assert (ours - right).norm() <= 1.5 * (theirs - right).norm()


@pytest.mark.parametrize("lora_r", [0, 3])
def test_recomputing_changes_nothing(llama_dir, lora_r):
    found = []
    for recompute in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = HubModel(llama_dir, lora_r=lora_r, lora_dropout=0.2 if lora_r else 0.0, recompute=recompute)
            policy.set_training(True)
            if lora_r:
                draw_adapter(policy.trainable())
            logps = tree_logps(policy)
            found.append((logps.detach(), gradients(logps, policy.trainable())))
    (plain, first), (again, second) = found
    assert torch.equal(plain, again) and all(map(torch.equal, first, second))


@wide
def test_scores_within_a_budget(tiny_dir):
    policy = open_policy(tiny_dir)
    whole = score_within(policy, SEQUENCES, 10_000)
    for budget in (45, 100):
        cut = score_within(policy, SEQUENCES, budget)
        for one, other, item in zip(whole, cut, SEQUENCES, strict=True):
            assert len(one) == (item.weights > 0).sum() and torch.allclose(one, other, rtol=EXACT, atol=0)
            assert not one.requires_grad
    assert apart([torch.cat(whole)], [plain_logps(load_plain(tiny_dir), SEQUENCES)]) < EXACT


def test_a_sequence_above_the_budget_is_refused():
    longest = max(len(item.ids) for item in SEQUENCES)
    check_budget(SEQUENCES, longest)
    with pytest.raises(StudyError, match=f"sequence .*: {longest} tokens, above token_budget {longest - 1}; raise it"):
        check_budget(SEQUENCES, longest - 1)


def test_packs_score_a_shared_token_once():
    ids = np.arange(3, 20)
    weights = np.zeros(17, np.float32)
    weights[5:] = 1
    one, other = (dataclasses.replace(SEQUENCES[0], ids=ids.copy(), weights=weights) for _ in range(2))
    other.ids[-1] = 50
    packed = pack([one, other], torch.device("cpu"), masks=True)
    assert len(packed.targets) == 13 and len(packed.gather) == 24
    assert packed.owner.tolist() == [0] * 12 + [1] * 12
    assert torch.equal(packed.targets[packed.gather[:12]], torch.from_numpy(ids[5:]))
    assert torch.equal(packed.ids[0][packed.before[packed.gather[12:]]], torch.from_numpy(other.ids[4:-1]))
