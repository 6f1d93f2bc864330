"""Exact attention over a token tree: every token sees its own path and nothing else.

A token tree lies depth first in one row, so all that sees a node is one contiguous range of queries. Attention is the
merge of few dense calls: each node on itself (causal), and all that lies below a node on that node (no mask needed).
Small subtrees, and forests of them, take one call with a mask instead, which costs fewer calls and more arithmetic.

Two results over disjoint keys merge by their log-sum-exps (as in flash attention, Dao et al. 2022, arXiv 2205.14135).
Backward needs no gradient of a log-sum-exp: with the *merged* output and log-sum-exp in place of its own, the ordinary
backward of a block gives exactly that block's share, since P = exp(QK − lse) and D = Σ dO·O are those of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.training.trees.trees import TokenTree

Kind = Literal["causal", "all", "mask"]
# A call costs about as much as this many query-key pairs (measured on CPU at widths of 96 to 256).
_CALL_PAIRS = 10_000
_MASK_TOKENS = 512  # the longest masked block: its mask is a square


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One dense call on ranges of packed places; ``mask`` [queries, keys] is true where a query sees a key."""

    queries: slice
    keys: slice
    kind: Kind
    mask: NDArray[np.bool_] | None = None


def plan_blocks(tree: TokenTree, *, masks: bool = True) -> tuple[Block, ...]:
    """The calls that attention over a tree takes; every token's first block holds itself.

    ``masks`` allows masked blocks; not every device has a kernel for them.
    """
    children: list[list[int]] = [[] for _ in tree.parents]
    roots: list[int] = []
    for node, parent in enumerate(tree.parents.tolist()):
        (children[parent] if parent >= 0 else roots).append(node)
    cost, dense = _choose(tree, children, masks)
    blocks: list[Block] = []
    waiting = [roots]
    while waiting:
        for group in _group(tree, waiting.pop(), cost, masks):
            span = slice(int(tree.starts[group[0]]), int(tree.subtrees[group[-1]]))
            if len(group) > 1 or dense[group[0]]:
                blocks.append(_masked(tree, span))
                continue
            (node,) = group
            own = slice(span.start, int(tree.ends[node]))
            blocks.append(Block(queries=own, keys=own, kind="causal"))
            if own.stop < span.stop:
                blocks.append(Block(queries=slice(own.stop, span.stop), keys=own, kind="all"))
                waiting.append(children[node])
    # A merge adds to what is there, so the blocks in which tokens see themselves come first.
    return tuple(sorted(blocks, key=lambda block: block.kind == "all"))


def _choose(tree: TokenTree, children: Sequence[list[int]], masks: bool) -> tuple[NDArray[np.float64], list[bool]]:
    """Of every subtree: what its attention costs in query-key pairs, and whether one masked block is cheapest."""
    cost = np.zeros(len(tree.starts))
    dense = [False] * len(tree.starts)
    for node in range(len(tree.starts) - 1, -1, -1):
        own = int(tree.ends[node] - tree.starts[node])
        below = int(tree.subtrees[node] - tree.ends[node])
        split = own * own / 2 + _CALL_PAIRS
        if below:
            groups = _group(tree, children[node], cost, masks)
            split += own * below + _CALL_PAIRS + sum(_group_cost(tree, group, cost) for group in groups)
        whole = _CALL_PAIRS + (own + below) ** 2
        dense[node] = masks and below > 0 and own + below <= _MASK_TOKENS and whole < split
        cost[node] = whole if dense[node] else split
    return cost, dense


def _group_cost(tree: TokenTree, group: Sequence[int], cost: NDArray[np.float64]) -> float:
    if len(group) == 1:
        return float(cost[group[0]])
    return _CALL_PAIRS + float(tree.subtrees[group[-1]] - tree.starts[group[0]]) ** 2


def _group(tree: TokenTree, siblings: Sequence[int], cost: NDArray[np.float64], masks: bool) -> list[list[int]]:
    """Neighbouring subtrees taken together where one masked block is cheaper than a block for each."""
    groups: list[list[int]] = []
    apart = 0.0  # what the last group costs
    for node in siblings:
        if groups and masks:
            wider = [*groups[-1], node]
            tokens = int(tree.subtrees[node] - tree.starts[wider[0]])
            together = _group_cost(tree, wider, cost)
            if tokens <= _MASK_TOKENS and together < apart + cost[node]:
                groups[-1], apart = wider, together
                continue
        groups.append([node])
        apart = float(cost[node])
    return groups


def _masked(tree: TokenTree, span: slice) -> Block:
    size = span.stop - span.start
    mask = np.zeros((size, size), np.bool_)
    first = int(np.searchsorted(tree.starts, span.start))
    last = int(np.searchsorted(tree.starts, span.stop))
    for node in range(first, last):
        start, end = int(tree.starts[node]) - span.start, int(tree.ends[node]) - span.start
        parent = int(tree.parents[node])
        if parent >= first:  # inside the block, as every parent stands before its children
            # Siblings copy what their parent's last token sees, which is the path so far.
            mask[start:end, :start] = mask[int(tree.ends[parent]) - span.start - 1, :start]
        mask[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
    return Block(queries=span, keys=span, kind="mask", mask=mask)


@dataclass(frozen=True, slots=True, eq=False)
class BlockPlan:
    """The blocks of a tree as attention takes them; masks are additive and made once per device and dtype."""

    blocks: tuple[Block, ...]
    masks: dict[tuple[int, str, torch.dtype], Tensor]

    @classmethod
    def of(cls, tree: TokenTree, *, masks: bool = True) -> BlockPlan:
        """The plan of a tree."""
        return cls(plan_blocks(tree, masks=masks), {})

    def mask(self, number: int, like: Tensor) -> Tensor | None:
        """The additive mask of a block, or None where it has none."""
        seen = self.blocks[number].mask
        if seen is None:
            return None
        key = (number, str(like.device), like.dtype)
        if key not in self.masks:
            hidden = torch.from_numpy(~seen).to(like.device)
            self.masks[key] = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(
                hidden, float("-inf")
            )
        return self.masks[key]


def tree_attention(query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scale: float | None = None) -> Tensor:
    """Attention [1, heads, T, size] of a packed tree; ``key`` and ``value`` may have fewer heads (grouped queries).

    ``scale`` defaults to size to the power of −1/2. Exact up to rounding; merges are in 32-bit floats or wider.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # As autocast does for torch's own attention; inside, merges keep the width that they ask for.
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    with torch.autocast(device, enabled=False):
        merged: Tensor = _TreeAttention.apply(query, key, value, plan, scale)  # type: ignore[no-untyped-call]
    return merged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """A block as a kernel takes it: an additive ``mask`` or none, and the ``scale`` of the logits."""

    causal: bool
    mask: Tensor | None
    scale: float


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        query, key, value, plan, scale = given
        wide = torch.promote_types(query.dtype, torch.float32)
        out = torch.empty(query.shape, dtype=wide, device=query.device)
        lse = torch.empty(query.shape[:-1], dtype=wide, device=query.device)
        ctx.calls = []
        for number, block in enumerate(plan.blocks):
            rows, columns = block.queries, block.keys
            call = _Call(causal=block.kind == "causal", mask=plan.mask(number, query), scale=scale)
            part, part_lse, seeds = _attend((query[:, :, rows], key[:, :, columns], value[:, :, columns]), call)
            ctx.calls.append((block, call, seeds))
            if block.kind == "all":
                both = torch.logaddexp(lse[:, :, rows], part_lse)
                old, new = (torch.exp(x - both)[..., None] for x in (lse[:, :, rows], part_lse))
                out[:, :, rows] = out[:, :, rows] * old + part * new
                lse[:, :, rows] = both
            else:
                out[:, :, rows], lse[:, :, rows] = part, part_lse
        merged = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, merged, lse)
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, merged, lse = ctx.saved_tensors
        (grad,) = grads
        found = [torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (query, key, value)]
        for block, call, seeds in ctx.calls:
            rows, columns = block.queries, block.keys
            inputs = (query[:, :, rows], key[:, :, columns], value[:, :, columns])
            outputs = (merged[:, :, rows], lse[:, :, rows])
            shares = _attend_backward(grad[:, :, rows], inputs, outputs, call, seeds)
            for total, place, share in zip(found, (rows, columns, columns), shares, strict=True):
                total[:, :, place] += share
        return (*(total.to(query.dtype) for total in found), None, None)


Inputs = tuple[Tensor, Tensor, Tensor]


def _kernel(query: Tensor, call: _Call) -> Literal["cpu", "cuda", "math"]:
    if query.device.type == "cpu":
        return "cpu"
    half = query.dtype in (torch.float16, torch.bfloat16)
    flash = query.is_cuda and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 and call.mask is None
    return "cuda" if flash and torch.cuda.get_device_capability(query.device) >= (8, 0) else "math"


def _attend(inputs: Inputs, call: _Call) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """A block's own output, its log-sum-exp, and what its backward needs besides."""
    query, key, value = inputs
    kernel = _kernel(query, call)
    if kernel == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *inputs, 0.0, call.causal, attn_mask=call.mask, scale=call.scale
        )
        return out, lse, ()
    if kernel == "cuda":
        out, lse, *rest = torch.ops.aten._scaled_dot_product_flash_attention(
            *inputs, 0.0, call.causal, False, scale=call.scale
        )
        return out, lse, tuple(rest[:6])
    logits = _logits(query, key, call)
    lse = torch.logsumexp(logits, -1)
    return torch.exp(logits - lse[..., None]) @ value.to(logits.dtype), lse, ()


def _logits(query: Tensor, key: Tensor, call: _Call) -> Tensor:
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = (query.to(wide) @ key.to(wide).transpose(-1, -2)) * call.scale
    if call.causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu_(1)
        logits = logits.masked_fill(hidden, float("-inf"))
    return logits if call.mask is None else logits + call.mask


def _attend_backward(
    grad: Tensor, inputs: Inputs, outputs: tuple[Tensor, Tensor], call: _Call, seeds: tuple[Any, ...]
) -> Inputs:
    """A block's share of the gradients of its queries, keys and values; ``outputs`` are the merged ones."""
    out, lse = outputs
    kernel = _kernel(inputs[0], call)
    shares: Inputs
    if kernel == "cpu":
        shares = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, *inputs, out, lse, 0.0, call.causal, attn_mask=call.mask, scale=call.scale
        )
    elif kernel == "cuda":
        lengths, random = seeds[:4], seeds[4:]
        shares = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            grad, *inputs, out, lse.contiguous(), *lengths, 0.0, call.causal, *random, scale=call.scale
        )
    else:
        probabilities = torch.exp(_logits(inputs[0], inputs[1], call) - lse[..., None])
        grad, query, key, value, out = (x.to(probabilities.dtype) for x in (grad, *inputs, out))
        inner = (grad @ value.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) * probabilities * call.scale
        shares = inner @ key, inner.transpose(-1, -2) @ query, probabilities.transpose(-1, -2) @ grad
    return shares
