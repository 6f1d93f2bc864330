"""Floating-point operations that a tree step needs of a Llama under a LoRA adapter, counted from its shape.

A product of [m, k] and [k, n] is 2mkn. Norms, rotations, softmax and the optimiser are not counted: they are memory
traffic. Frozen weights have no gradient: of their products backward takes only the one for the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from holdfast.training.encoding import ScoredSequence
from holdfast.training.policy.adapters import LOGIT_NUMBERS_THERE
from holdfast.training.trees.packing import pack
from holdfast.training.trees.parts import TrainStep
from holdfast.training.trees.trees import partition


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFlops:
    """``needed`` for one forward and backward pass without checkpoints; ``attention`` is the part of it in attention.

    ``again`` is what checkpoints, the logits' pieces and flash attention's backward compute a second time.
    """

    needed: int
    attention: int
    again: int

    def __add__(self, other: StepFlops) -> StepFlops:
        return StepFlops(
            needed=self.needed + other.needed,
            attention=self.attention + other.attention,
            again=self.again + other.again,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Multiply-adds a token: ``base`` and ``lora`` of all layers, ``unneeded`` of the first layer's input gradients."""

    base: int
    lora: int
    unneeded: int
    head: int
    pair: int

    @classmethod
    def of(cls, shape: Mapping[str, int], rank: int) -> _Sizes:
        """The sizes of a shape; ``pair`` is a query and a key in all heads of all layers, one product."""
        width, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
        narrow = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
        entry = [(width, width), (width, narrow), (width, narrow)]
        linear = [*entry, (width, width), (width, inner), (width, inner), (inner, width)]
        return cls(
            base=layers * sum(rows * columns for rows, columns in linear),
            lora=layers * rank * sum(rows + columns for rows, columns in linear),
            unneeded=sum(rows * columns + rank * rows for rows, columns in entry),
            head=width * shape["vocab_size"],
            pair=layers * width,
        )


def count_flops(step: TrainStep, budget: int, shape: Mapping[str, int], rank: int, masks: bool) -> StepFlops:
    """What a step takes in trees of at most ``budget`` tokens, with checkpoints at every layer."""
    total = StepFlops(needed=0, attention=0, again=0)
    for part in step.parts(budget):
        groups = partition([item.ids for item in part.sequences], budget)
        for group in groups:
            members = [part.sequences[number] for number in group]
            total += _count_tree(members, _Sizes.of(shape, rank), shape["vocab_size"], masks, len(groups) > 1)
    return total


def _count_tree(sequences: list[ScoredSequence], sizes: _Sizes, vocabulary: int, masks: bool, twice: bool) -> StepFlops:
    """One tree; ``twice`` where its log-probabilities are computed once more without gradient."""
    packed = pack(sequences, torch.device("cpu"), masks=masks)
    tokens, scored = packed.ids.numel(), len(packed.targets)
    if packed.plan is None:
        rows, length = packed.ids.shape
        seen = rows * length * (length + 1) // 2
    else:
        seen = sum(_count_pairs(block.queries, block.keys, block.kind, block.mask) for block in packed.plan.blocks)
    layers = 2 * tokens * (sizes.base + sizes.lora)
    head = 2 * scored * sizes.head
    forward = 2 * 2 * seen * sizes.pair  # scores and mixtures
    backward = 2 * tokens * (sizes.base + 2 * sizes.lora - sizes.unneeded)
    pieces = scored > LOGIT_NUMBERS_THERE // vocabulary
    again = layers + forward + 2 * seen * sizes.pair + (head if pieces else 0)
    if twice:
        again += layers + head + forward
    attention = forward + 2 * 4 * seen * sizes.pair
    return StepFlops(needed=layers + backward + 2 * head + attention, attention=attention, again=again)


def _count_pairs(queries: slice, keys: slice, kind: str, mask: object) -> int:
    """Pairs of a query and a key that it sees in a block."""
    length = int(queries.stop - queries.start)
    if kind == "causal":
        return length * (length + 1) // 2
    if kind == "all":
        return length * int(keys.stop - keys.start)
    return int(mask.sum())  # type: ignore[attr-defined]
