"""How exact training on trees is on a device in bf16: log-probabilities, and attention forward and backward."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gpu_models import MASK, RANK, make_network
from gpu_sample import Sample
from torch import Tensor

from holdfast.training.encoding import ScoredSequence, score_picked
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import HubModel
from holdfast.training.trees.packing import pack
from holdfast.training.trees.tree_attention import BlockPlan, tree_attention
from holdfast.training.trees.trees import TokenTree, grow


def _plain_logps(network: Any, sequences: Sequence[ScoredSequence], device: torch.device) -> Tensor:
    """Scored tokens of every sequence by itself, through transformers' own model."""
    rows = []
    half = network.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for item in sequences:
            ids, places = torch.from_numpy(item.ids).to(device), np.flatnonzero(item.weights)
            states = network.model(input_ids=ids[None], use_cache=False).last_hidden_state[0, places - 1]
            rows.append(-F.cross_entropy(network.lm_head(states).float(), ids[places], reduction="none"))
    return torch.cat(rows)


def measure_exactness(sample: Sample, device: torch.device, shape: Mapping[str, int]) -> dict[str, float]:
    """Log-probabilities of one case's shortest trajectories against plain fp32 passes of the same weights, in nats."""
    case = sample.pairs[0].case_id
    names = {name for pair in sample.pairs if pair.case_id == case for name in (pair.chosen, pair.rejected)}
    shortest = sorted(names, key=lambda name: len(sample.encoded[name].ids))[:6]
    sequences = [score_picked(name, sample.encoded[name], MASK) for name in shortest]
    network = make_network(shape, device, "sdpa", seed=1)
    with torch.no_grad():
        for weight in network.parameters():  # a random model as made predicts nearly the same everywhere
            if weight.dim() > 1:
                weight.mul_(3.0)
    exact = _plain_logps(copy.deepcopy(network).float(), sequences, device)
    plain = _plain_logps(network, sequences, device)
    policy = HubModel(Path("random"), network=network, lora_r=RANK, precision="bf16", device=device)
    packed = pack(sequences, device, masks=policy.masks)
    with torch.no_grad():
        tree = score(policy, packed)
    found: dict[str, float] = {"spread": float(exact.std())}
    for name, logps in (("tree", tree), ("plain", plain)):
        found |= {
            f"{name}_bf16_max": float((logps - exact).abs().max()),
            f"{name}_bf16_mean": float((logps - exact).abs().mean()),
        }
    return found | measure_attention(grow([item.ids for item in sequences]), device, shape, policy.masks)


def measure_attention(tree: TokenTree, device: torch.device, shape: Mapping[str, int], masks: bool) -> dict[str, float]:
    """Relative L2 errors of attention over a tree in bf16: ours (its flash kernels on CUDA) and torch's with a mask.

    Both against torch's with a mask in fp64 on the same bf16 numbers; ``grad`` is the worst of the three inputs.
    """
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    size = shape["hidden_size"] // heads
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(1, n, len(tree), size, generator=generator) for n in (heads, groups, groups, heads)]
    *inputs, towards = (x.to(device, torch.bfloat16) for x in made)
    seen = torch.zeros(len(tree), len(tree), dtype=torch.bool)
    for path in tree.paths:
        seen[np.ix_(path, path)] |= torch.ones(len(path), len(path), dtype=torch.bool).tril_()
    seen, plan = seen.to(device), BlockPlan.of(tree, masks=masks)

    def gradients(wide: torch.dtype, ours: bool) -> list[Tensor]:
        query, key, value = leaves = [x.to(wide).requires_grad_() for x in inputs]
        if ours:
            out = tree_attention(query, key, value, plan)
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)
        return [out.detach(), *torch.autograd.grad(out, leaves, towards.to(wide))]

    exact = gradients(torch.float64, False)
    found: dict[str, float] = {}
    for name, ours in (("tree", True), ("masked", False)):
        errors = [
            float((one.double() - right).norm() / right.norm())
            for one, right in zip(gradients(torch.bfloat16, ours), exact, strict=True)
        ]
        found |= {f"{name}_attention": errors[0], f"{name}_attention_grad": max(errors[1:])}
    return found
