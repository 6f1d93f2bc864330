"""The flash kernels on CUDA get what they take: argument order, layouts and shapes here, numbers where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders.tree_samples import grown_trie, visible
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.training.trees import tree_attention as rooms
from holdfast.training.trees.tree_attention import BlockPlan, tree_attention
from holdfast.training.trees.trees import grow

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention.default
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_backward.default


def sample_tree(segment=50):
    """A tree with a node of one token among its many."""
    sequences = grown_trie(np.random.default_rng(0), sequences=12, segment=segment, vocabulary=90)
    tree = grow([*sequences, np.append(sequences[0], 91), np.append(sequences[0], 92)], fold=False)
    assert (tree.ends - tree.starts).min() == 1 and len(tree.starts) > 20
    return tree


def test_the_kernels_take_and_return_what_we_pass_on():
    """Their schemas are private to torch: an upgrade that moves an argument must fail here."""
    returned = [value.name for value in FORWARD._schema.returns]
    taken = [value.name for value in BACKWARD._schema.arguments]
    assert returned[:8] == [
        *("output", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "rng_state", "unused"),
    ]
    assert taken[:6] == ["grad_out", "query", "key", "value", "out", "logsumexp"]
    # rng_state and unused are what backward still calls philox_seed and philox_offset.
    assert taken[6:] == [
        *("cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "philox_seed", "philox_offset", "scale")
    ]
    assert [value.name for value in FORWARD._schema.arguments] == [
        *("query", "key", "value", "dropout_p", "is_causal", "return_debug_mask", "scale"),
    ]


class FlashCalls(TorchDispatchMode):
    """Keeps the arguments and results of every call of the flash kernels."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = [], []

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        result = function(*arguments, **(settings or {}))
        if function in (FORWARD, BACKWARD):
            (self.forward if function is FORWARD else self.backward).append((arguments, settings, result))
        return result


def test_every_call_has_the_shapes_and_layouts_that_the_kernels_need(monkeypatch):
    """Tensors without numbers run through torch's own descriptions of its CUDA kernels."""
    monkeypatch.setattr(rooms, "_kernel", lambda query, call: "cuda")
    tree = sample_tree()
    plan, heads, size = BlockPlan.of(tree, masks=False), 8, 64
    # As a Llama hands them over: [1, T, heads, size] seen as [1, heads, T, size].
    inputs = [
        torch.empty(1, len(tree), heads, size, dtype=torch.bfloat16, device="meta").transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]
    with FlashCalls() as calls:
        out = rooms._TreeAttention.apply(*inputs, None, plan, 0.125, None)
        gradients = torch.autograd.grad(out, inputs, torch.empty_like(out))
    assert out.shape == inputs[0].shape and out.dtype == torch.bfloat16
    assert all(one.shape == x.shape and one.dtype == x.dtype for one, x in zip(gradients, inputs, strict=True))
    assert len(calls.forward) == len(calls.backward) == len(plan.blocks) > 20
    for block, forward, backward in zip(plan.blocks, calls.forward, calls.backward, strict=True):
        queries, keys = (part.stop - part.start for part in (block.queries, block.keys))
        assert queries == keys or block.kind == "all"  # a causal mask is aligned at the end of the keys
        (query, key, value, *flags), named, result = forward
        # Dropout, causality and the debug mask; torch leaves trailing defaults out.
        assert [*flags, *[0.0, False, False][len(flags) :]] == [0.0, block.kind == "causal", False]
        assert named == {"scale": 0.125}
        assert query.shape == (1, heads, queries, size) and key.shape == value.shape == (1, heads, keys, size)
        assert result[1].shape == (1, heads, queries) and result[1].dtype == torch.float32
        given, named, shares = backward
        grad, *again, merged, lse, cum_q, cum_k, max_q, max_k, dropout, causal = given[:12]
        assert all(one is not None and one.stride(-1) == 1 for one in (grad, *again, merged, query, key, value))
        assert all(one.dtype == torch.bfloat16 for one in (grad, *again, merged))
        assert grad.shape == merged.shape == query.shape
        # The kernel reads log-sum-exps through a bare pointer.
        assert lse.shape == (1, heads, queries) and lse.dtype == torch.float32 and lse.is_contiguous()
        assert (cum_q, cum_k, max_q, max_k) == (None, None, queries, keys)
        assert (dropout, causal, named) == (0.0, block.kind == "causal", {"scale": 0.125})
        assert [share.shape for share in shares] == [query.shape, key.shape, value.shape]


def drawn(tree, size, device, dtype, groups):
    generator = torch.Generator().manual_seed(0)
    heads = 8
    made = [torch.randn(1, len(tree), n, size, generator=generator) for n in (heads, groups, groups, heads)]
    # Rounded first, so that every width starts from the same numbers.
    return [x.to(torch.bfloat16).to(device, dtype).transpose(1, 2) for x in made]


def results(attention, inputs, towards):
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, towards)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("groups", [8, 2])
def test_flash_over_a_tree_is_as_exact_as_torchs_masked_attention(size, groups):
    tree = sample_tree(segment=200)
    plan, mask = BlockPlan.of(tree, masks=False), torch.from_numpy(visible(tree)).cuda()

    def ours(*inputs):
        return tree_attention(*inputs, plan)

    def plain(*inputs):
        return F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True)

    *inputs, towards = drawn(tree, size, "cuda", torch.bfloat16, groups)
    with FlashCalls() as calls:
        flash = results(ours, inputs, towards)
    assert len(calls.forward) == len(calls.backward) == len(plan.blocks)
    masked = results(plain, inputs, towards)
    *wide, wide_towards = drawn(tree, size, "cuda", torch.float64, groups)
    exact = results(plain, wide, wide_towards)
    for one, other, right in zip(flash, masked, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - right).norm() <= 1.5 * (other.double() - right).norm()
        # No row goes wrong among many right ones.
        assert (one.double() - right).norm(dim=-1).max() <= 0.05 * right.norm(dim=-1).max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_wide_numbers_on_cuda_are_those_of_masked_attention():
    tree = sample_tree()
    plan, mask = BlockPlan.of(tree, masks=False), torch.from_numpy(visible(tree)).cuda()
    *inputs, towards = drawn(tree, 24, "cuda", torch.float64, 2)
    ours = results(lambda *given: tree_attention(*given, plan), inputs, towards)
    theirs = results(
        lambda *given: F.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True), inputs, towards
    )
    assert all((one - other).abs().max() < 1e-12 for one, other in zip(ours, theirs, strict=True))
