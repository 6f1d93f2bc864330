"""Exact attention over a token tree: every token sees its own path and nothing else.

A token tree lies depth first in one row, so all that sees a node is one contiguous range of queries. Attention is the
merge of few dense calls: each node on itself (causal), and all that lies below a node on that node (no mask needed).
Small subtrees, and forests of them, take one call with a mask instead, which costs fewer calls and more arithmetic.
Where a token sees only the last places of its path (a sliding window), calls are cut to what is within reach.

Two results over disjoint keys merge by their log-sum-exps (as in flash attention, Dao et al. 2022, arXiv 2205.14135).
Backward needs no gradient of a log-sum-exp: with the *merged* output and log-sum-exp in place of its own, the ordinary
backward of a block gives exactly that block's share, since P = exp(QK − lse) and D = Σ dO·O are those of the whole. An
attention sink (as in gpt-oss, arXiv 2508.10925) is one more key with a value of zero, so it enters the merged
log-sum-exp alone, and its gradient is −P·D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from holdfast.training.trees.trees import TokenTree

Kind = Literal["causal", "all", "mask"]
# A call costs about as much as this many query-key pairs (measured on CPU at widths of 96 to 256).
_CALL_PAIRS = 10_000
_MASK_TOKENS = 512  # the longest masked block: its mask is a square


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """One dense call on ranges of packed places; ``mask`` [queries, keys] is true where a query sees a key.

    In blocks of the kinds "causal" and "mask" every query sees itself; blocks of the kind "all" are merged into these.
    """

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


def _narrowed(block: Block, positions: NDArray[np.int64], window: int) -> Iterator[Block]:
    """The parts of a block in which a query sees the keys that are fewer than ``window`` places before it.

    Keys of a block without a mask are of one node, and stand one after the other.
    """
    if block.mask is not None:
        near = positions[block.queries, None] - positions[None, block.keys] < window
        yield Block(queries=block.queries, keys=block.keys, kind=block.kind, mask=block.mask & near)
        return
    size = min(window, _MASK_TOKENS)
    for start in range(block.queries.start, block.queries.stop, size):
        queries = slice(start, min(start + size, block.queries.stop))
        last = block.keys.stop
        if block.kind == "causal":
            yield Block(queries=queries, keys=queries, kind="causal")
            last = start
        reach = int(positions[queries].min()) - window + 1 - int(positions[block.keys.start])
        keys = slice(block.keys.start + max(reach, 0), last)
        near = positions[queries, None] - positions[None, keys] < window
        if near.any():
            yield Block(queries=queries, keys=keys, kind="all", mask=None if near.all() else near)


@dataclass(frozen=True, slots=True, eq=False)
class BlockPlan:
    """The blocks of a tree as attention takes them; masks are additive and made once per device and dtype.

    ``positions`` [T] are the places of packed tokens in their sequences, from 0.
    """

    blocks: tuple[Block, ...]
    positions: NDArray[np.int64]
    masks: dict[tuple[int, str, torch.dtype], Tensor] = field(default_factory=dict)
    windows: dict[int, BlockPlan] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: TokenTree, *, masks: bool = True) -> BlockPlan:
        """The plan of a tree."""
        return cls(plan_blocks(tree, masks=masks), tree.positions)

    @classmethod
    @lru_cache(maxsize=4)
    def row(cls, length: int) -> BlockPlan:
        """The plan of rows that are one sequence each, ``length`` tokens long."""
        whole = slice(0, length)
        return cls((Block(queries=whole, keys=whole, kind="causal"),), np.arange(length))

    def within(self, window: int) -> BlockPlan:
        """The plan in which a token sees the last ``window`` tokens of its path, of which it is one."""
        if self.positions.max() < window:
            return self
        if window not in self.windows:
            parts = [part for block in self.blocks for part in _narrowed(block, self.positions, window)]
            ordered = sorted(parts, key=lambda block: block.kind == "all")
            self.windows[window] = BlockPlan(tuple(ordered), self.positions)
        return self.windows[window]

    def mask(self, number: int, like: Tensor) -> Tensor | None:
        """The additive mask of a block, or None where it has none."""
        seen, kind = self.blocks[number].mask, self.blocks[number].kind
        if seen is None:
            return None
        key = (number, str(like.device), like.dtype)
        if key not in self.masks:
            hidden = torch.from_numpy(~seen).to(like.device)
            # Queries of a block that is merged may see none of its keys: with a number their log-sum-exp is one too.
            low = torch.finfo(like.dtype).min if kind == "all" else float("-inf")
            self.masks[key] = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, low)
        return self.masks[key]


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    scale: float | None = None,
    *,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention [rows, heads, T, size] of a packed tree; ``key`` and ``value`` may have fewer heads (grouped queries),
    and values another size.

    ``scale`` defaults to size to the power of −1/2; logits are ``cap`` · tanh(logit / ``cap``) where there is a cap.
    ``sinks`` [heads] are the logits of one more key of every query, whose value is zero. Exact up to rounding; merges
    are in 32-bit floats or wider.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # As autocast does for torch's own attention; inside, merges keep the width that they ask for.
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    wide, size = max(query.shape[-1], value.shape[-1]), value.shape[-1]
    # Kernels take one size; zeros add nothing.
    query, key, value = (x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in (query, key, value))
    with torch.autocast(device, enabled=False):
        merged: Tensor = _TreeAttention.apply(query, key, value, sinks, plan, scale, cap)  # type: ignore[no-untyped-call]
    return merged[..., :size]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """A block as a kernel takes it: an additive ``mask`` or none, the ``scale`` of the logits and their ``cap``."""

    causal: bool
    mask: Tensor | None
    scale: float
    cap: float | None


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        query, key, value, sinks, plan, scale, cap = given
        wide = torch.promote_types(query.dtype, torch.float32)
        out = torch.empty(query.shape, dtype=wide, device=query.device)
        lse = torch.empty(query.shape[:-1], dtype=wide, device=query.device)
        ctx.calls = []
        for number, block in enumerate(plan.blocks):
            rows, columns = block.queries, block.keys
            call = _Call(causal=block.kind == "causal", mask=plan.mask(number, query), scale=scale, cap=cap)
            part, part_lse, seeds = _attend((query[:, :, rows], key[:, :, columns], value[:, :, columns]), call)
            ctx.calls.append((block, call, seeds))
            if block.kind == "all":
                both = torch.logaddexp(lse[:, :, rows], part_lse)
                old, new = (torch.exp(x - both)[..., None] for x in (lse[:, :, rows], part_lse))
                out[:, :, rows] = out[:, :, rows] * old + part * new
                lse[:, :, rows] = both
            else:
                out[:, :, rows], lse[:, :, rows] = part, part_lse
        if sinks is not None:
            whole = torch.logaddexp(lse, sinks[:, None].to(wide))
            out, lse = out * torch.exp(lse - whole)[..., None], whole
        merged = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, sinks, merged, lse)
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, merged, lse = ctx.saved_tensors
        (grad,) = grads
        found = [torch.zeros(x.shape, dtype=lse.dtype, device=x.device) for x in (query, key, value)]
        for block, call, seeds in ctx.calls:
            rows, columns = block.queries, block.keys
            inputs = (query[:, :, rows], key[:, :, columns], value[:, :, columns])
            outputs = (merged[:, :, rows], lse[:, :, rows])
            shares = _attend_backward(grad[:, :, rows], inputs, outputs, call, seeds)
            for total, place, share in zip(found, (rows, columns, columns), shares, strict=True):
                total[:, :, place] += share
        drained = None
        if sinks is not None and ctx.needs_input_grad[3]:
            shares = torch.exp(sinks[:, None].to(lse.dtype) - lse) * (grad * merged).to(lse.dtype).sum(-1)
            drained = -shares.sum((0, 2)).to(sinks.dtype)
        return (*(total.to(query.dtype) for total in found), drained, None, None, None)


Inputs = tuple[Tensor, Tensor, Tensor]


def _kernel(query: Tensor, call: _Call) -> Literal["cpu", "cuda", "math"]:
    if call.cap is not None:
        return "math"
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
    logits, _ = _logits(query, key, call)
    lse = torch.logsumexp(logits, -1)
    return torch.exp(logits - lse[..., None]) @ value.to(logits.dtype), lse, ()


def _logits(query: Tensor, key: Tensor, call: _Call) -> tuple[Tensor, Tensor | None]:
    """The logits of a block, and how far each follows its product where they are capped (0 to 1)."""
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = (query.to(wide) @ key.to(wide).transpose(-1, -2)) * call.scale
    slope = None
    if call.cap is not None:
        share = torch.tanh(logits / call.cap)
        logits, slope = share * call.cap, 1 - share**2
    if call.causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu_(1)
        logits = logits.masked_fill(hidden, float("-inf"))
    return logits if call.mask is None else logits + call.mask, slope


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
        logits, slope = _logits(inputs[0], inputs[1], call)
        probabilities = torch.exp(logits - lse[..., None])
        grad, query, key, value, out = (x.to(probabilities.dtype) for x in (grad, *inputs, out))
        inner = (grad @ value.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) * probabilities * call.scale
        inner = inner if slope is None else inner * slope
        shares = inner @ key, inner.transpose(-1, -2) @ query, probabilities.transpose(-1, -2) @ grad
    return shares
