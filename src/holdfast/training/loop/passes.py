"""Forward and backward passes over token trees, within a budget of tokens.

What does not fit into the budget at once is cut into groups of neighbouring sequences, and the prefix that groups
share is computed again for each. A loss over sequences of several groups is exact all the same: log-probabilities first
without gradient, then the loss and its gradient by them, then each group once more with that gradient (as in GradCache,
Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from holdfast.records.errors import StudyError
from holdfast.training.encoding import ScoredSequence
from holdfast.training.policy.adapters import Policy
from holdfast.training.ranks import Ranks
from holdfast.training.states import random_states, set_random_states
from holdfast.training.trees.packing import Packed, pack
from holdfast.training.trees.parts import Part
from holdfast.training.trees.trees import count_tokens, partition


@dataclass(frozen=True, slots=True)
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
        return Work(*(own + others for own, others in zip(astuple(self), astuple(other), strict=True)))


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
def score_within(
    policy: Policy, sequences: Sequence[ScoredSequence], budget: int, states: list[dict[str, Tensor]] | None = None
) -> list[Tensor]:
    """The log-probabilities of each sequence's scored tokens, without gradient, trees of at most ``budget`` tokens.

    ``states`` gets the random generators' states before each tree.
    """
    known: list[Tensor] = [torch.zeros(0)] * len(sequences)
    for group, packed in _plant(tuple(sequences), policy.device, policy.masks, budget):
        if states is not None:
            states.append(random_states())
        pieces = torch.split(score(policy, packed), [sequences[number].scored for number in group])
        for number, logps in zip(group, pieces, strict=True):
            known[number] = logps
    return known


# What is scored before an update may come again in it.
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
    states: list[dict[str, Tensor]] = []  # dropout must fall alike in both passes
    flat = torch.cat(score_within(policy, part.sequences, budget, states)).requires_grad_()
    counts = [item.scored for item in part.sequences]
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


# --- the trees of a step spread over processes that train together -------------------------------------------------
#
# Every process draws the same steps and cuts them into the same groups of sequences; each computes its share of the
# groups. Pairs may reach across groups, so log-probabilities come first without gradient and are added up over the
# processes; then each process knows the loss of the whole step and what its own groups owe it.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Group:
    """Some sequences of a part that one process computes; ``places`` are those of their tokens in the whole step."""

    packed: Packed
    places: Tensor


def descend_together(policy: Policy, parts: Sequence[Part], budget: int, ranks: Ranks) -> Descent:
    """A step's loss and metrics, the same on every process; its gradients are added to the policy's shards."""
    dealt, bounds = _deal(policy, parts, budget, ranks)
    mine = dealt[ranks.rank]
    # Sharded passes are collective: a process with fewer groups repeats one for nothing.
    filler = min((group for groups in dealt for group in groups), key=lambda group: len(group.packed.ids))
    rounds = [*mine, *[filler] * (max(map(len, dealt)) - len(mine))]
    known = torch.zeros(bounds[-1], device=policy.device)
    states: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for number, group in enumerate(rounds):
            states.append(random_states())
            logps = score(policy, group.packed)
            if number < len(mine):
                known[group.places] = logps
    dist.all_reduce(known)
    known.requires_grad_()
    loss = torch.zeros((), device=policy.device)
    metrics: dict[str, float] = {}
    for part, start, end in zip(parts, bounds, bounds[1:], strict=False):
        owner = torch.repeat_interleave(torch.tensor([item.scored for item in part.sequences])).to(policy.device)
        share, of_part = part.loss(known[start:end], owner)
        loss = loss + share
        for name, value in of_part.items():
            metrics[name] = metrics.get(name, 0.0) + value
    (gradient,) = torch.autograd.grad(loss, known)
    for number, group in enumerate(rounds):
        set_random_states(states[number])
        owed = gradient[group.places]
        torch.autograd.backward(score(policy, group.packed), owed if number < len(mine) else torch.zeros_like(owed))
    # The trees of all processes; what the sequences are is known to each.
    counts = torch.tensor(astuple(measure_work((), [group.packed for group in mine])), device=policy.device)
    dist.all_reduce(counts)
    work = Work(*counts.tolist()) + measure_work([item for part in parts for item in part.sequences], ())
    return Descent(loss=loss.item(), metrics=metrics, work=work)


@torch.no_grad()
def score_together(
    policy: Policy, sequences: Sequence[ScoredSequence], budget: int, ranks: Ranks
) -> tuple[Tensor, ...]:
    """As ``score_within``, every process scoring its share and knowing all."""
    counts = [item.scored for item in sequences]
    starts = np.cumsum([0, *counts])
    known = torch.zeros(int(starts[-1]), device=policy.device)
    groups = partition([item.ids for item in sequences], budget)
    for number in range(0, len(groups), ranks.world):
        own = number + ranks.rank
        group = groups[min(own, len(groups) - 1)]
        packed = pack([sequences[member] for member in group], policy.device, masks=policy.masks)
        logps = score(policy, packed)
        if own < len(groups):
            places = np.concatenate([np.arange(starts[member], starts[member + 1]) for member in group])
            known[torch.from_numpy(places).to(policy.device)] = logps
    dist.all_reduce(known)
    return torch.split(known, counts)


def _deal(policy: Policy, parts: Sequence[Part], budget: int, ranks: Ranks) -> tuple[list[list[_Group]], list[int]]:
    """Every process's groups, the largest dealt first to who has least, and where each part's tokens begin.

    Groups are cut small enough that there is work for all.
    """
    sizes = [count_tokens([item.ids for item in part.sequences]) for part in parts]
    longest = max(len(item.ids) for part in parts for item in part.sequences)
    bound = min(budget, max(longest, -(-sum(sizes) // ranks.world)))
    bounds, jobs = [0], []
    for part in parts:
        starts = [bounds[-1], *(bounds[-1] + np.cumsum([item.scored for item in part.sequences])).tolist()]
        bounds.append(starts[-1])
        for numbers in partition([item.ids for item in part.sequences], bound):
            group = [part.sequences[number] for number in numbers]
            places = [place for number in numbers for place in range(starts[number], starts[number + 1])]
            jobs.append((count_tokens([item.ids for item in group]), group, places))
    loads = [0] * ranks.world
    dealt: list[list[_Group]] = [[] for _ in loads]
    for tokens, group, places in sorted(jobs, key=lambda job: -job[0]):
        rank = loads.index(min(loads))
        loads[rank] += tokens
        packed = pack(group, policy.device, masks=policy.masks)
        dealt[rank].append(_Group(packed=packed, places=torch.tensor(places, device=policy.device)))
    return dealt, bounds
