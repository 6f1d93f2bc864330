"""Sequences as a model takes them: one packed tree with its attention, or padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.training.encoding import ScoredSequence
from holdfast.training.trees.tree_attention import BlockPlan
from holdfast.training.trees.trees import TokenTree, grow

# Padded rows take plain causal attention, which is cheaper than a tree's; so they may compute so many times its tokens
# (measured on demonstrations of 34 tokens, where a tree of 0.9 of the tokens took 1.3 times as long).
_ROWS_TOKENS = 1.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """Sequences as a model takes them: ``ids`` and ``positions`` [rows, length].

    A tree is one row with its attention ``plan``; without a plan each row is a sequence, padded on the right. The P
    distinct scored tokens have ids ``targets`` and are predicted at the places ``before``, counted row after row;
    ``gather`` [N] gives for every sequence's scored tokens, sequence after sequence, their place among the P, and
    ``owner`` [N] the sequence.
    """

    ids: Tensor
    positions: Tensor
    plan: BlockPlan | None
    before: Tensor
    targets: Tensor
    gather: Tensor
    owner: Tensor


def pack(sequences: Sequence[ScoredSequence], device: torch.device, *, masks: bool) -> Packed:
    """Some sequences on a device: as a tree, or as padded rows where there is next to nothing to share."""
    tree = grow([item.ids for item in sequences])
    padded = len(sequences) * max(len(item.ids) for item in sequences)
    if padded <= _ROWS_TOKENS * len(tree):
        return pack_rows(sequences, device)
    return pack_tree(sequences, tree, device, masks=masks)


def pack_tree(sequences: Sequence[ScoredSequence], tree: TokenTree, device: torch.device, *, masks: bool) -> Packed:
    """Some sequences on a device as the tree that was grown of them."""
    scored = [path[item.weights > 0] for item, path in zip(sequences, tree.paths, strict=True)]
    places, gather = np.unique(np.concatenate(scored), return_inverse=True)
    owner = np.repeat(np.arange(len(scored)), [len(part) for part in scored])
    arrays = (tree.ids[None], tree.positions[None], tree.before[places], tree.ids[places], gather, owner)
    return _on_device(arrays, BlockPlan.of(tree, masks=masks), device)


def pack_rows(sequences: Sequence[ScoredSequence], device: torch.device) -> Packed:
    """Some sequences on a device as padded rows."""
    length = max(len(item.ids) for item in sequences)
    ids = np.zeros((len(sequences), length), np.int64)
    scored = np.zeros((len(sequences), length), np.bool_)
    for row, item in enumerate(sequences):
        ids[row, : len(item.ids)] = item.ids
        scored[row, : len(item.ids)] = item.weights > 0
    owner, _ = np.nonzero(scored)
    places = np.flatnonzero(scored)
    positions = np.broadcast_to(np.arange(length), ids.shape).copy()
    arrays = (ids, positions, places - 1, ids.reshape(-1)[places], np.arange(len(places)), owner)
    return _on_device(arrays, None, device)


def _on_device(arrays: tuple[NDArray[np.int64], ...], plan: BlockPlan | None, device: torch.device) -> Packed:
    ids, positions, before, targets, gather, owner = (torch.from_numpy(x).to(device) for x in arrays)
    return Packed(ids=ids, positions=positions, plan=plan, before=before, targets=targets, gather=gather, owner=owner)
