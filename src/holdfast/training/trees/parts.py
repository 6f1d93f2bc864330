"""What of a step is computed together, and its loss: pairs, demonstrations or groups of rollouts.

The parts of a step share no pair and no completion, and divide by the whole step's totals, so their losses add up to
the step's. How many parts there are is a question of memory and changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.records import PreferencePair
from holdfast.training.encoding import Encoded, LossMask, ScoredSequence, score_picked
from holdfast.training.objectives import Aggregation, PairLoss, dpo, policy_gradient, sft
from holdfast.training.trees.trees import count_tokens, partition

Loss = tuple[Tensor, dict[str, float]]


class Part(Protocol):
    """Sequences whose log-probabilities enter one loss."""

    @property
    def sequences(self) -> Sequence[ScoredSequence]: ...

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        """The part's share of the step's loss and of its metrics.

        ``logps`` [N] are the scored tokens of all sequences in order, ``owner`` [N] the sequence of each.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PairObjective:
    """How a preference stage scores pairs; the arguments of ``objectives.dpo``."""

    beta: float
    loss: PairLoss = "sigmoid"
    label_smoothing: float = 0.0
    length_normalized: bool = False
    sft_weight: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairPart:
    """Pairs among distinct trajectories: ``chosen`` and ``rejected`` [pairs] index ``sequences``.

    ``reference`` [sequences] are the reference's log-probabilities in nats; ``total`` and ``total_tokens`` are the
    step's sums of pair weights and of weight times chosen tokens.
    """

    sequences: tuple[ScoredSequence, ...]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    weights: NDArray[np.float32]
    reference: NDArray[np.float64]
    objective: PairObjective
    total: float
    total_tokens: float

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        count = len(self.sequences)
        sums = torch.zeros(count, device=logps.device).index_add(0, owner, logps)
        lengths = torch.bincount(owner, minlength=count).to(sums.dtype)
        reference = torch.from_numpy(self.reference).to(sums)
        chosen, rejected = (torch.from_numpy(side).to(sums.device) for side in (self.chosen, self.rejected))
        found = dpo(
            sums[chosen],
            sums[rejected],
            reference[chosen],
            reference[rejected],
            beta=self.objective.beta,
            weights=torch.from_numpy(self.weights).to(sums),
            loss=self.objective.loss,
            label_smoothing=self.objective.label_smoothing,
            lengths_chosen=lengths[chosen],
            lengths_rejected=lengths[rejected],
            length_normalized=self.objective.length_normalized,
            sft_weight=self.objective.sft_weight,
            total=self.total,
            total_tokens=self.total_tokens,
        )
        return found.loss, {"accuracy": found.accuracy.item(), "margin": found.margin.item()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenPart:
    """Demonstrations: the weighted mean over tokens; ``total`` is the step's sum of token weights."""

    sequences: tuple[ScoredSequence, ...]
    total: float

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        weights = np.concatenate([item.weights[item.weights > 0] for item in self.sequences])
        return sft(logps, torch.from_numpy(weights).to(logps), total=self.total), {}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupObjective:
    """How on-policy rollouts are scored; the arguments of ``objectives.policy_gradient``."""

    aggregation: Aggregation = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_weight: float = 0.0
    kl_bias_correction: bool = True
    constant_length: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupPart:
    """Rollouts of some prompts with their ``advantages`` [sequences].

    ``sampled`` and ``reference`` [tokens] are log-probabilities of the scored tokens, sequence after sequence, under
    the policy that sampled them and under the reference; None where there is no difference or no reference. ``counts``
    [sequences] says how often each was sampled, None once. ``total`` and ``total_tokens`` are the step's completions
    and scored tokens with repeats.
    """

    sequences: tuple[ScoredSequence, ...]
    advantages: NDArray[np.float32]
    sampled: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None
    objective: GroupObjective
    total: float
    total_tokens: float
    counts: NDArray[np.float32] | None = None

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        sampled, reference = (
            None if given is None else torch.from_numpy(given).to(logps) for given in (self.sampled, self.reference)
        )
        found = policy_gradient(
            logps,
            sampled,
            torch.from_numpy(self.advantages).to(logps),
            owner,
            aggregation=self.objective.aggregation,
            clip_low=self.objective.clip_low,
            clip_high=self.objective.clip_high,
            ref_logps=reference,
            kl_weight=self.objective.kl_weight,
            kl_bias_correction=self.objective.kl_bias_correction,
            constant_length=self.objective.constant_length,
            counts=None if self.counts is None else torch.from_numpy(self.counts).to(logps),
            total=self.total,
            total_tokens=self.total_tokens,
        )
        metrics = {"clip_fraction": found.clip_fraction.item(), "ratio": found.ratio.item()}
        return found.loss, metrics if found.kl is None else metrics | {"kl": found.kl.item()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainStep:
    """One optimiser step: ``examples`` pairs, demonstrations or rollouts, cut into parts for a token budget.

    ``facts`` are numbers of the whole step that stand in its log beside the metrics.
    """

    examples: int
    parts: Callable[[int], list[Part]]
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTotals:
    """What the pairs of a step divide by: the sum of weights, and of weight times chosen tokens."""

    weights: float
    tokens: float

    @classmethod
    def of(cls, pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask) -> PairTotals:
        """The totals of some pairs."""
        lengths = {pair.chosen: int(encoded[pair.chosen].picked(loss_mask).sum()) for pair in pairs}
        return cls(
            weights=float(sum(pair.weight for pair in pairs)),
            tokens=float(sum(pair.weight * lengths[pair.chosen] for pair in pairs)),
        )


def pair_part(
    pairs: Sequence[PreferencePair],
    names: Sequence[str],
    totals: PairTotals,
    encoded: Mapping[str, Encoded],
    reference: Mapping[str, float],
    *,
    objective: PairObjective,
    loss_mask: LossMask,
) -> PairPart:
    """Some pairs of a step over the trajectories ``names``, which hold theirs and perhaps others."""
    place = {name: number for number, name in enumerate(names)}
    return PairPart(
        sequences=tuple(score_picked(f"trajectory {name}", encoded[name], loss_mask) for name in names),
        chosen=np.array([place[pair.chosen] for pair in pairs], np.int64),
        rejected=np.array([place[pair.rejected] for pair in pairs], np.int64),
        weights=np.array([pair.weight for pair in pairs], np.float32),
        reference=np.array([reference[name] for name in names], np.float64),
        objective=objective,
        total=totals.weights,
        total_tokens=totals.tokens,
    )


def pair_step(
    pairs: Sequence[PreferencePair],
    encoded: Mapping[str, Encoded],
    reference: Mapping[str, float],
    *,
    objective: PairObjective,
    loss_mask: LossMask,
) -> TrainStep:
    """A step on pairs, each distinct trajectory once; its loss is the mean over pairs by weight.

    A case is never cut: a part holds as many whole cases as the budget has room for, and at least one.
    """
    totals = PairTotals.of(pairs, encoded, loss_mask)

    def part(group: Sequence[int]) -> PairPart:
        chosen = [pairs[place] for place in group]
        names = sorted({name for pair in chosen for name in (pair.chosen, pair.rejected)})
        return pair_part(chosen, names, totals, encoded, reference, objective=objective, loss_mask=loss_mask)

    def cut(budget: int) -> list[Part]:
        return [part(group) for group in fill_parts(pairs, encoded, budget)]

    return TrainStep(examples=len(pairs), parts=cut)


def fill_parts(pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], budget: int) -> list[list[int]]:
    """Places of pairs in groups of whole cases; trees of different cases hardly share a token, so sizes add up."""
    cases: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        cases.setdefault(pair.case_id, []).append(place)
    groups: list[list[int]] = []
    room = -1
    for case in cases.values():
        names = sorted({name for place in case for name in (pairs[place].chosen, pairs[place].rejected)})
        size = count_tokens([encoded[name].ids for name in names])
        if size > room:
            groups.append([])
            room = budget
        groups[-1] += case
        room -= size
    return groups


def demonstration_step(demonstrations: Sequence[Encoded], other_weight: float) -> TrainStep:
    """A step on demonstrations: the agent's own tokens weigh 1, all others ``other_weight``, the first token 0."""
    sequences = [_weigh(number, item, other_weight) for number, item in enumerate(demonstrations)]
    total = float(sum(item.weights.sum(dtype=np.float64) for item in sequences))

    def cut(budget: int) -> list[Part]:
        groups: list[list[ScoredSequence]] = []
        room = -1
        for item in sequences:
            if len(item.ids) > room:
                groups.append([])
                room = budget
            groups[-1].append(item)
            room -= len(item.ids)
        return [TokenPart(sequences=tuple(group), total=total) for group in groups]

    return TrainStep(examples=len(sequences), parts=cut)


def _weigh(number: int, item: Encoded, other_weight: float) -> ScoredSequence:
    weights = np.where(item.agent, np.float32(1.0), np.float32(other_weight))
    weights[0] = 0.0
    return ScoredSequence(name=f"demonstration {number}", ids=item.ids, weights=weights)


def group_step(
    sequences: Sequence[ScoredSequence],
    advantages: NDArray[np.float32],
    *,
    objective: GroupObjective,
    sampled: Sequence[NDArray[np.float32]] | None = None,
    reference: Sequence[NDArray[np.float32]] | None = None,
    counts: NDArray[np.float32] | None = None,
    totals: tuple[float, float] | None = None,
) -> TrainStep:
    """A step on rollouts; ``sampled`` and ``reference`` hold the scored tokens of each sequence.

    ``counts`` [sequences] says how often each was sampled, None once. ``totals`` are the completions and scored tokens
    that the loss divides by, for a step that leaves out what has no gradient; without it those that are passed. A part
    holds as many neighbours as the budget has room for; a step without sequences has no part.
    """
    repeats = np.ones(len(sequences), np.float32) if counts is None else counts
    tokens = [int((item.weights > 0).sum()) for item in sequences]
    total, total_tokens = totals or (float(repeats.sum()), float(np.dot(repeats, tokens)))

    def part(places: Sequence[int]) -> GroupPart:
        return GroupPart(
            sequences=tuple(sequences[place] for place in places),
            advantages=advantages[places],
            sampled=None if sampled is None else np.concatenate([sampled[place] for place in places]),
            reference=None if reference is None else np.concatenate([reference[place] for place in places]),
            objective=objective,
            total=total,
            total_tokens=total_tokens,
            counts=None if counts is None else counts[places],
        )

    def cut(budget: int) -> list[Part]:
        return [part(places) for places in partition([item.ids for item in sequences], budget)]

    return TrainStep(examples=int(repeats.sum()), parts=cut)
