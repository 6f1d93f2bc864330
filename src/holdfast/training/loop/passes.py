"""Forward and backward passes over token trees, within a budget of tokens.

What does not fit into the budget at once is cut into groups of neighbouring sequences, and the prefix that groups
share is computed again for each. A loss over sequences of several groups is exact all the same: log-probabilities first
without gradient, then the loss and its gradient by them, then each group once more with that gradient (as in GradCache,
Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from holdfast.records.errors import StudyError
from holdfast.training.encoding import ScoredSequence
from holdfast.training.policy.adapters import Policy
from holdfast.training.states import random_states, set_random_states
from holdfast.training.trees.packing import Packed, pack
from holdfast.training.trees.parts import Part
from holdfast.training.trees.trees import partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What passes computed: ``tokens`` of trees for ``plain`` tokens of single sequences, ``scored`` of the latter.

    ``causal``, ``below`` and ``masked`` count the blocks that attention took: nodes on themselves, subtrees on a node
    above them, small forests at once (see ``tree_attention``). ``rows`` counts sequences that were computed as padded
    rows, because they share next to nothing; their padding is among the ``tokens``.
    """

    tokens: int = 0
    plain: int = 0
    scored: int = 0
    causal: int = 0
    below: int = 0
    masked: int = 0
    rows: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Work)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """A part's share of a step's loss and metrics, and what it took to compute."""

    loss: float
    metrics: dict[str, float]
    work: Work


def score(policy: Policy, packed: Packed) -> Tensor:
    """Log-probabilities [N] in nats of all scored tokens, sequence after sequence."""
    return policy.logprobs(packed)[packed.gather]


def check_budget(sequences: Sequence[ScoredSequence], budget: int) -> None:
    """Raises StudyError for a sequence that alone is above the budget: none is cut short."""
    for item in sequences:
        if len(item.ids) > budget:
            raise StudyError(f"{item.name}: {len(item.ids)} tokens, above token_budget {budget}; raise it or drop it")


@torch.no_grad()
def score_within(policy: Policy, sequences: Sequence[ScoredSequence], budget: int) -> list[Tensor]:
    """The log-probabilities of each sequence's scored tokens, without gradient, trees of at most ``budget`` tokens."""
    found: list[Tensor] = [torch.zeros(0)] * len(sequences)
    counts = [item.scored for item in sequences]
    for group, packed in _plant(tuple(sequences), policy.device, policy.masks, budget):
        pieces = torch.split(score(policy, packed), [counts[number] for number in group])
        for number, part in zip(group, pieces, strict=True):
            found[number] = part
    return found


# What is scored before an update comes again in the update.
@lru_cache(maxsize=1)
def _plant(
    sequences: tuple[ScoredSequence, ...], device: torch.device, masks: bool, budget: int
) -> tuple[tuple[Sequence[int], Packed], ...]:
    """Numbers of sequences in groups within the budget, each with its tree; in their own order where there is one."""
    groups: Sequence[Sequence[int]] = partition([item.ids for item in sequences], budget)
    if len(groups) == 1:
        groups = [range(len(sequences))]
    return tuple((group, pack([sequences[number] for number in group], device, masks=masks)) for group in groups)


def descend(policy: Policy, part: Part, budget: int) -> Descent:
    """A part's loss; its gradients are added to the policy's."""
    planted = _plant(tuple(part.sequences), policy.device, policy.masks, budget)
    work = measure_work(part.sequences, [packed for _, packed in planted])
    if len(planted) == 1:
        ((_, packed),) = planted
        loss, metrics = part.loss(score(policy, packed), packed.owner)
        loss.backward()  # type: ignore[no-untyped-call]
        return Descent(loss=loss.item(), metrics=metrics, work=work)
    counts = [item.scored for item in part.sequences]
    states, known = [], [torch.zeros(0)] * len(counts)
    with torch.no_grad():
        for group, packed in planted:
            # Dropout must fall alike in both passes.
            states.append(random_states())
            pieces = torch.split(score(policy, packed), [counts[number] for number in group])
            for number, logps in zip(group, pieces, strict=True):
                known[number] = logps
    flat = torch.cat(known).requires_grad_()
    owner = torch.repeat_interleave(torch.tensor(counts)).to(flat.device)
    loss, metrics = part.loss(flat, owner)
    (gradient,) = torch.autograd.grad(loss, flat)
    shares = torch.split(gradient, counts)
    for (group, packed), state in zip(planted, states, strict=True):
        set_random_states(state)
        torch.autograd.backward(score(policy, packed), torch.cat([shares[number] for number in group]))
    return Descent(loss=loss.item(), metrics=metrics, work=work)


def measure_work(sequences: Sequence[ScoredSequence], trees: Sequence[Packed]) -> Work:
    """What it takes to compute some trees in place of some sequences."""
    kinds = Counter(block.kind for packed in trees if packed.plan for block in packed.plan.blocks)
    return Work(
        tokens=sum(packed.ids.numel() for packed in trees),
        plain=sum(len(item.ids) for item in sequences),
        scored=sum(item.scored for item in sequences),
        causal=kinds["causal"],
        below=kinds["all"],
        masked=kinds["mask"],
        rows=sum(len(packed.ids) for packed in trees if packed.plan is None),
    )
