"""Tree attention is masked attention: its blocks cover what each token sees once, and numbers and gradients agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders.tree_samples import grown_trie, tries, visible
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.training.trees import tree_attention as rooms
from holdfast.training.trees.tree_attention import BlockPlan, plan_blocks, tree_attention
from holdfast.training.trees.trees import grow

pytestmark = pytest.mark.usefixtures("one_thread")

quick = settings(max_examples=80, deadline=None)
KERNELS = ("cpu", "math")


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(rooms, "_kernel", lambda query, call: request.param)


def assert_cover(tree, blocks):
    seen = np.zeros((len(tree), len(tree)), np.int64)
    started = np.zeros(len(tree), np.int64)
    for block in blocks:
        shape = seen[block.queries, block.keys].shape
        if block.kind == "all":
            # A merge needs what it merges into.
            assert block.mask is None and started[block.queries].all()
            seen[block.queries, block.keys] += 1
            continue
        assert block.queries == block.keys
        assert (block.mask is None) == (block.kind == "causal")
        started[block.queries] += 1
        seen[block.queries, block.keys] += np.tri(*shape, dtype=np.int64) if block.mask is None else block.mask
    assert (started == 1).all()
    assert np.array_equal(seen, visible(tree))


@quick
@given(tries(), st.booleans(), st.booleans(), st.sampled_from([0, 4, 40, 10_000]))
def test_blocks_cover_what_is_seen_once(sequences, fold, masks, call_pairs):
    tree = grow(sequences, fold=fold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "_CALL_PAIRS", call_pairs)  # cheaper calls make more of them
        blocks = plan_blocks(tree, masks=masks)
    assert masks or all(block.kind != "mask" for block in blocks)
    assert_cover(tree, blocks)


@pytest.mark.parametrize("masks", [True, False])
def test_blocks_of_a_tree_beyond_the_longest_mask(masks):
    sequences = grown_trie(np.random.default_rng(0), sequences=40, segment=50, vocabulary=90)
    tree = grow(sequences)
    blocks = plan_blocks(tree, masks=masks)
    assert len(tree) > 2 * rooms._MASK_TOKENS
    assert_cover(tree, blocks)
    kinds = {block.kind for block in blocks}
    assert kinds == ({"causal", "all", "mask"} if masks else {"causal", "all"})
    assert all(len(block.mask) <= rooms._MASK_TOKENS for block in blocks if block.mask is not None)
    if masks:
        assert len(blocks) < len(plan_blocks(tree, masks=False)) / 2


def draw(tree, *, dtype=torch.float64, heads=4, groups=2, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, len(tree), size)] + 2 * [(1, heads // groups, len(tree), size)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def plain_attention(query, key, value, tree, scale=None):
    mask = torch.from_numpy(visible(tree))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)


def results(attention, inputs, seed=1):
    """The output and the gradients of the inputs under a random gradient of the output."""
    out = attention(*inputs)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, towards)]


def assert_equal_to_plain(tree, masks, scale=None, **shape):
    plan = BlockPlan.of(tree, masks=masks)
    inputs = draw(tree, **shape)
    ours = results(lambda *given: tree_attention(*given, plan, scale), inputs)
    theirs = results(lambda *given: plain_attention(*given, tree, scale), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape and (one - other).abs().max() < 1e-12
    return plan


@pytest.mark.parametrize("masks", [True, False])
def test_values_and_gradients_are_those_of_masked_attention(kernel, masks):
    tree = grow(grown_trie(np.random.default_rng(1), sequences=24, segment=40, vocabulary=60))
    plan = assert_equal_to_plain(tree, masks)
    assert {block.kind for block in plan.blocks} >= {"causal", "all"}
    assert_equal_to_plain(tree, masks, scale=0.7)
    assert_equal_to_plain(tree, masks, heads=3, groups=1, size=5)


@settings(max_examples=40, deadline=None)
@given(tries(most=6, longest=8), st.sampled_from(KERNELS), st.sampled_from([0, 30, 10_000]))
def test_small_tries_agree_too(sequences, kernel, call_pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "_kernel", lambda query, call: kernel)
        patch.setattr(rooms, "_CALL_PAIRS", call_pairs)
        assert_equal_to_plain(grow(sequences, fold=False), True)


def windowed_attention(query, key, value, tree, *, window=10**6, cap=None, sinks=None):
    """By the definition: logits of what a token sees, capped, beside those of the sinks."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    near = tree.positions[:, None] - tree.positions[None] < window
    logits = logits.masked_fill(~torch.from_numpy(visible(tree) & near), -torch.inf)
    if sinks is not None:
        logits = torch.cat([sinks[None, :, None, None].expand(*logits.shape[:-1], 1), logits], -1)
    return logits.softmax(-1)[..., -key.shape[2] :] @ value


def assert_equal_to_windowed(tree, window, cap, sunk, masks):
    plan = BlockPlan.of(tree, masks=masks).within(window)
    query, key, value = draw(tree)
    value = value[..., :5].detach().requires_grad_()  # values of another size than keys
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    inputs = [query, key, value, *([sinks] if sunk else [])]
    both = [
        results(lambda q, k, v, s=None: tree_attention(q, k, v, plan, cap=cap, sinks=s), inputs),
        results(lambda q, k, v, s=None: windowed_attention(q, k, v, tree, window=window, cap=cap, sinks=s), inputs),
    ]
    for one, other in zip(*both, strict=True):
        assert one.shape == other.shape and (one - other).abs().max() < 1e-12
    return plan


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    ("window", "cap", "sunk"), [(1, None, False), (7, None, True), (20, 2.0, False), (30, 0.5, True)]
)
def test_windows_caps_and_sinks_are_those_of_their_definition(window, cap, sunk, masks, monkeypatch):
    monkeypatch.setattr(rooms, "_MASK_TOKENS", 16)  # nodes and what lies below them are cut to several blocks
    tree = grow(grown_trie(np.random.default_rng(1), sequences=8, segment=16, vocabulary=60), fold=False)
    plan = assert_equal_to_windowed(tree, window, cap, sunk, masks)
    assert all(len(block.mask) <= 16 for block in plan.blocks if block.mask is not None)
    seen = sum(np.size(tree.ids[block.queries]) * np.size(tree.ids[block.keys]) for block in plan.blocks)
    whole = sum(np.size(tree.ids[block.queries]) * np.size(tree.ids[block.keys]) for block in BlockPlan.of(tree).blocks)
    assert seen < whole  # what is out of reach is not computed


@settings(max_examples=40, deadline=None)
@given(tries(most=6, longest=8), st.integers(1, 9), st.booleans(), st.sampled_from([0, 30, 10_000]))
def test_windows_of_small_tries_agree_too(sequences, window, sunk, call_pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "_CALL_PAIRS", call_pairs)
        assert_equal_to_windowed(grow(sequences, fold=False), window, None, sunk, True)


def test_a_window_beyond_every_sequence_changes_nothing():
    tree = grow([np.array(row) for row in ([1, 2, 3, 4], [1, 2, 5])], fold=False)
    plan = BlockPlan.of(tree)
    assert plan.within(4) is plan and plan.within(3) is not plan and plan.within(3) is plan.within(3)


def test_gradients_are_those_of_differences(kernel, monkeypatch):
    monkeypatch.setattr(rooms, "_CALL_PAIRS", 4)
    tree = grow([np.array(row) for row in ([1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6], [9, 9])], fold=False)
    plan = BlockPlan.of(tree)
    assert len(plan.blocks) > 2
    inputs = draw(tree, heads=2, groups=2, size=3)
    assert torch.autograd.gradcheck(lambda *given: tree_attention(*given, plan), inputs)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_that_of_plain_attention(kernel, masks, dtype):
    tree = grow(grown_trie(np.random.default_rng(2), sequences=30, segment=30, vocabulary=60))
    plan = BlockPlan.of(tree, masks=masks)
    inputs = draw(tree, dtype=dtype)
    exact = results(
        lambda *given: plain_attention(*given, tree), [x.detach().double().requires_grad_() for x in inputs]
    )
    ours = results(lambda *given: tree_attention(*given, plan), inputs)
    theirs = results(lambda *given: plain_attention(*given, tree), inputs)
    for one, other, right in zip(ours, theirs, exact, strict=True):
        assert one.dtype == dtype
        # Within what the plain path errs by; in 32 bits the two orders of sums also differ by chance.
        bound = 1.5 if dtype == torch.bfloat16 else 3.0
        assert (one.double() - right).norm() <= bound * (other.double() - right).norm()


def test_other_branches_change_nothing():
    """What stands beside a path leaves its numbers bit by bit, and no gradient goes there."""
    sequences = [np.array(row) for row in ([1, 2, 3, 4], [1, 2, 5, 6], [1, 7])]
    tree = grow(sequences, fold=False)
    query, key, value = draw(tree)
    plan = BlockPlan.of(tree)
    out = tree_attention(query, key, value, plan)
    path, outside = tree.paths[0], np.setdiff1d(np.arange(len(tree)), tree.paths[0])
    gradients = torch.autograd.grad(out[:, :, path].sum(), (query, key, value))
    assert all(not gradient[:, :, outside].any() and gradient[:, :, path].any() for gradient in gradients)
    with torch.no_grad():
        changed = [x.clone().index_fill_(2, torch.from_numpy(outside), 5.0) for x in (query, key, value)]
        assert torch.equal(tree_attention(*changed, plan)[:, :, path], out[:, :, path])
