"""What of a step is computed together, and its loss: pairs, demonstrations or groups of rollouts.

The parts of a step share no pair and no completion, and divide by the whole step's totals, so their losses add up to
the step's. How many parts there are is a question of memory and changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.records import PreferencePair
from holdfast.study.stages import StageSection
from holdfast.training.encoding import Encoded, LossMask, ScoredSequence, score_picked
from holdfast.training.objectives import Aggregation, RewardSettings, dpo, policy_gradient, sft
from holdfast.training.trees.trees import count_tokens, partition

# Settings of a stage that ``dpo`` and ``policy_gradient`` take.
_DPO_SETTINGS = {"beta", "loss", "label_smoothing", "length_normalized", "sft_weight"}
_GRADIENT_SETTINGS = {"clip_low", "clip_high", "kl_weight"}
# How the loss of a stage on rewards adds tokens up.
_AGGREGATIONS: Mapping[str, Aggregation] = {"dapo": "token", "grpo": "sequence", "dr_grpo": "constant"}
Loss = tuple[Tensor, dict[str, float]]


class Part(Protocol):
    """Sequences whose log-probabilities enter one loss."""

    @property
    def sequences(self) -> Sequence[ScoredSequence]: ...

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        """The part's share of the step's loss and of its metrics.

        ``logps`` [N] are the scored tokens of all sequences in order, ``owner`` [N] the sequence of each.
        """


@dataclass(frozen=True, slots=True, eq=False)
class PairPart:
    """Some ``pairs`` of a step over the trajectories ``names``, which hold theirs and perhaps others.

    ``reference`` holds the reference's log-probabilities in nats by trajectory; ``totals`` are the whole step's
    ``pair_totals``.
    """

    pairs: Sequence[PreferencePair]
    names: Sequence[str]
    sequences: Sequence[ScoredSequence]
    reference: Mapping[str, float]
    stage: StageSection
    totals: tuple[float, float]

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        count = len(self.names)
        sums = torch.zeros(count, device=logps.device).index_add(0, owner, logps)
        lengths = torch.bincount(owner, minlength=count).to(sums.dtype)
        reference = torch.tensor([self.reference[name] for name in self.names], dtype=torch.float64).to(sums)
        number = {name: row for row, name in enumerate(self.names)}
        sides = [[number[pair.chosen] for pair in self.pairs], [number[pair.rejected] for pair in self.pairs]]
        chosen, rejected = torch.tensor(sides, dtype=torch.long, device=sums.device)
        weights = torch.tensor([pair.weight for pair in self.pairs], dtype=torch.float32).to(sums)
        preference = dpo(
            sums[chosen],
            sums[rejected],
            reference[chosen],
            reference[rejected],
            weights=weights,
            lengths_chosen=lengths[chosen],
            lengths_rejected=lengths[rejected],
            total=self.totals[0],
            total_tokens=self.totals[1],
            **self.stage.model_dump(include=_DPO_SETTINGS),
        )
        return preference.loss, {"accuracy": preference.accuracy.item(), "margin": preference.margin.item()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenPart:
    """Demonstrations: the weighted mean over tokens; ``total`` is the step's sum of token weights."""

    sequences: tuple[ScoredSequence, ...]
    total: float

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        weights = np.concatenate([item.weights[item.weights > 0] for item in self.sequences])
        return sft(logps, torch.from_numpy(weights).to(logps), total=self.total), {}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupPart:
    """Rollouts of some prompts with their ``advantages`` [sequences].

    ``sampled`` and ``reference`` [tokens] are log-probabilities of the scored tokens, sequence after sequence, under
    the policy that sampled them and under the reference; None where there is no difference or no reference. ``counts``
    [sequences] says how often each was sampled. ``total`` and ``total_tokens`` are the step's completions and scored
    tokens with repeats.
    """

    sequences: tuple[ScoredSequence, ...]
    advantages: NDArray[np.float32]
    sampled: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None
    settings: RewardSettings
    total: float
    total_tokens: float
    counts: NDArray[np.float32]

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        settings = self.settings
        sampled, reference = (
            None if given is None else torch.from_numpy(given).to(logps) for given in (self.sampled, self.reference)
        )
        gradient = policy_gradient(
            logps,
            sampled,
            torch.from_numpy(self.advantages).to(logps),
            owner,
            ref_logps=reference,
            counts=torch.from_numpy(self.counts).to(logps),
            total=self.total,
            total_tokens=self.total_tokens,
            aggregation=_AGGREGATIONS[settings.loss],
            constant_length=float(settings.max_tokens) if settings.loss == "dr_grpo" else None,
            **settings.model_dump(include=_GRADIENT_SETTINGS),
        )
        metrics = {"clip_fraction": gradient.clip_fraction.item(), "ratio": gradient.ratio.item()}
        return gradient.loss, metrics if gradient.kl is None else metrics | {"kl": gradient.kl.item()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainStep:
    """One optimiser step: ``examples`` pairs, demonstrations or rollouts, cut into parts for a token budget.

    ``facts`` are numbers of the whole step that stand in its log beside the metrics.
    """

    examples: int
    parts: Callable[[int], list[Part]]
    facts: Mapping[str, float] = field(default_factory=dict)


def pair_totals(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask
) -> tuple[float, float]:
    """What the pairs of a step divide by: the sum of weights, and of weight times chosen tokens."""
    lengths = {pair.chosen: int(encoded[pair.chosen].picked(loss_mask).sum()) for pair in pairs}
    return float(sum(pair.weight for pair in pairs)), float(sum(pair.weight * lengths[pair.chosen] for pair in pairs))


def names_of(pairs: Iterable[PreferencePair]) -> list[str]:
    """The distinct trajectories of some pairs, sorted."""
    return sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})


def tree_tokens(pairs: Iterable[PreferencePair], encoded: Mapping[str, Encoded]) -> int:
    """Tokens of the tree of some pairs' trajectories, every shared prefix once."""
    return count_tokens([encoded[name].ids for name in names_of(pairs)])


def name_sequences(names: Sequence[str], encoded: Mapping[str, Encoded], loss_mask: LossMask) -> list[ScoredSequence]:
    """The sequences of some trajectories, whose picked tokens weigh 1."""
    return [score_picked(f"trajectory {name}", encoded[name], loss_mask) for name in names]


def pair_step(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], reference: Mapping[str, float], stage: StageSection
) -> TrainStep:
    """A step on pairs, each distinct trajectory once; its loss is the mean over pairs by weight.

    A case is never cut: a part holds as many whole cases as the budget has room for, and at least one.
    """
    totals = pair_totals(pairs, encoded, stage.loss_mask)

    def cut(budget: int) -> list[Part]:
        return [
            PairPart([pairs[place] for place in places], names, sequences, reference, stage, totals)
            for places, names, sequences in fill_parts(pairs, encoded, stage.loss_mask, budget)
        ]

    return TrainStep(examples=len(pairs), parts=cut)


def fill_parts(
    pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], loss_mask: LossMask, budget: int
) -> Iterator[tuple[list[int], list[str], list[ScoredSequence]]]:
    """Places of pairs in groups of whole cases, each with its trajectories by name and as sequences.

    A group holds neighbours, at least one, whose common tree is within the budget.
    """
    cases: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        cases.setdefault(pair.case_id, []).append(place)
    groups: list[list[int]] = []
    for case in cases.values():
        if groups and tree_tokens((pairs[place] for place in [*groups[-1], *case]), encoded) <= budget:
            groups[-1] += case
        else:
            groups.append(list(case))
    for places in groups:
        names = names_of(pairs[place] for place in places)
        yield places, names, name_sequences(names, encoded, loss_mask)


def demonstration_step(demonstrations: Sequence[Encoded], other_weight: float) -> TrainStep:
    """A step on demonstrations: the agent's own tokens weigh 1, all others ``other_weight``, the first token 0."""
    sequences = []
    for number, item in enumerate(demonstrations):
        weights = np.where(item.agent, np.float32(1.0), np.float32(other_weight))
        weights[0] = 0.0
        sequences.append(ScoredSequence(name=f"demonstration {number}", ids=item.ids, weights=weights))
    total = float(sum(item.weights.sum(dtype=np.float64) for item in sequences))

    def cut(budget: int) -> list[Part]:
        groups: Sequence[Sequence[int]] = partition([item.ids for item in sequences], budget)
        if len(groups) == 1:
            groups = [range(len(sequences))]
        return [TokenPart(sequences=tuple(sequences[place] for place in group), total=total) for group in groups]

    return TrainStep(examples=len(sequences), parts=cut)


def group_step(
    sequences: Sequence[ScoredSequence],
    advantages: NDArray[np.float32],
    *,
    settings: RewardSettings,
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
    tokens = [item.scored for item in sequences]
    total, total_tokens = totals or (float(repeats.sum()), float(np.dot(repeats, tokens)))

    def part(places: Sequence[int]) -> GroupPart:
        return GroupPart(
            sequences=tuple(sequences[place] for place in places),
            advantages=advantages[places],
            sampled=None if sampled is None else np.concatenate([sampled[place] for place in places]),
            reference=None if reference is None else np.concatenate([reference[place] for place in places]),
            settings=settings,
            total=total,
            total_tokens=total_tokens,
            counts=repeats[places],
        )

    def cut(budget: int) -> list[Part]:
        return [part(places) for places in partition([item.ids for item in sequences], budget)]

    return TrainStep(examples=int(repeats.sum()), parts=cut)
