"""A second objective in a preference stage: which of its pairs a step takes, and how they enter the loss.

mix        a share of each step's pairs is of the other objective; all pairs of a step weigh alike
term       beside its own pairs a step has as many of the other's: loss = L(own) + weight · L(other)
balance    a term whose weight follows what was measured during training (``Balance``)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from holdfast.records import PreferencePair
from holdfast.records.errors import StudyError
from holdfast.study.stages import BalanceSection, StageSection
from holdfast.training.dpo.orders import pair_steps
from holdfast.training.encoding import Encoded, ScoredSequence
from holdfast.training.trees.parts import Loss, PairPart, Part, TrainStep, fill_parts, pair_step, pair_totals

Way = Literal["mix", "term", "balance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """The pairs of a second objective, and how a stage takes them.

    ``amount`` is the share of a step's pairs for "mix", from 0 to below 1; the term's weight for "term"; the weight to
    begin with for "balance".
    """

    pairs: Sequence[PreferencePair]
    way: Way
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The mean score, from 0 to 3, of the episodes that have one; None where none has."""

    score: float | None
    scored: int
    episodes: int


# Called with the directory of the policy's weights and the number of steps that made it.
Measure = Callable[[Path, int], Measured]


class Balance(BalanceSection):
    """A study's balance; ``floor`` is in score points, the weights are factors of a loss.

    Dual ascent on max E[own objective] subject to E[second objective's score] ≥ floor (as in constrained policy
    optimisation; Dai et al. 2024, Safe RLHF, arXiv 2310.12773, weigh a cost in the same way): every so many steps the
    policy's score is measured, and the weight rises by ``rate`` times what is lacking, or falls by what there is too
    much. What was measured is kept in the loop's state, so that the weight of any step follows from it alone.
    """

    def react(self, weight: float, score: float | None) -> float:
        """The next weight after a measurement; a score that nothing has leaves it as it is."""
        if score is None or not math.isfinite(score):
            return weight
        return min(self.most, max(0.0, weight + self.rate * (self.floor - score)))

    def weight_at(self, step: int, readings: Sequence[Mapping[str, Any]]) -> float:
        """The weight of a step, counted from 0: as the last measurement before it left it."""
        before = [reading["weight"] for reading in readings if reading["step"] <= step]
        return float(before[-1]) if before else self.initial

    def read(self, step: int, found: Measured, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a measurement after a step, counted from 1, says: JSON that a loop keeps."""
        weight = self.react(self.weight_at(step - 1, readings), found.score)
        return {"step": step, **asdict(found), "weight": weight}


def other_seed(seed: int) -> int:
    """The seed of the second objective's order, so that the stage's own order is that of a stage without one."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1)  # an epoch is added to it


def mixed_steps(
    own: Sequence[PreferencePair],
    second: Second,
    encoded: Mapping[str, Encoded],
    stage: StageSection,
    *,
    seed: int,
    families: Mapping[str, str] | None = None,
) -> Iterator[tuple[list[PreferencePair], list[PreferencePair]]]:
    """A step's own pairs and those of the second objective, endlessly.

    For "mix" both together are ``pairs_per_step``: after n steps, the share of n steps' pairs rounded to the nearest
    whole number is of the second objective, so that any share is kept over a stage. Otherwise each step has
    ``pairs_per_step`` of both. Both are taken in the order that they have without the other, however many a step takes.
    Errors: StudyError where a side has no pairs.
    """
    if not own or not second.pairs:
        raise StudyError(f"{second.way}: there are no pairs of one of the two objectives to learn from")
    size = stage.pairs_per_step
    streams = [
        chain.from_iterable(pair_steps(pairs, encoded, stage, seed=own_seed, families=families))
        for pairs, own_seed in ((own, seed), (second.pairs, other_seed(seed)))
    ]
    taken = 0
    for step in count(1):
        own_count = others = size
        if second.way == "mix":
            others = int(np.floor(second.amount * size * step + 0.5)) - taken
            own_count, taken = size - others, taken + others
        yield list(islice(streams[0], own_count)), list(islice(streams[1], others))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TermPart:
    """Two sets of pairs over the same sequences: the loss of ``own`` plus ``weight`` times that of ``other``.

    Each is normalised by its own totals. The metrics of the first keep their names; the second's begin with "other_".
    """

    own: PairPart
    other: PairPart
    weight: float

    @property
    def sequences(self) -> Sequence[ScoredSequence]:
        return self.own.sequences

    def loss(self, logps: Tensor, owner: Tensor) -> Loss:
        loss, metrics = self.own.loss(logps, owner)
        extra, other_metrics = self.other.loss(logps, owner)
        metrics["other_loss"] = extra.item()
        metrics |= {f"other_{name}": value for name, value in other_metrics.items()}
        return loss + self.weight * extra, metrics


def second_step(
    own: Sequence[PreferencePair],
    others: Sequence[PreferencePair],
    weight: float | None,
    encoded: Mapping[str, Encoded],
    reference: Mapping[str, float],
    *,
    stage: StageSection,
) -> TrainStep:
    """A step on a stage's own pairs and those of a second objective, each distinct trajectory of both once.

    ``weight`` None mixes them: its loss is the mean over all pairs. Else it is the mean over the own pairs plus
    ``weight`` times the mean over the others; a term that weighs nothing is not computed.
    """
    every = [*own, *others]
    if weight is None:
        return pair_step(every, encoded, reference, stage)
    facts = {"other_weight": float(weight)}
    if weight == 0:
        return replace(pair_step(own, encoded, reference, stage), facts=facts)
    totals = [pair_totals(pairs, encoded, stage.loss_mask) for pairs in (own, others)]

    def cut(budget: int) -> list[Part]:
        parts: list[Part] = []
        for group, names, sequences in fill_parts(every, encoded, stage.loss_mask, budget):
            sides = [[every[place] for place in group if (place < len(own)) is wanted] for wanted in (True, False)]
            both = zip(sides, totals, strict=True)
            mine, theirs = (PairPart(pairs, names, sequences, reference, stage, total) for pairs, total in both)
            parts.append(TermPart(own=mine, other=theirs, weight=weight))
        return parts

    return TrainStep(examples=len(every), parts=cut, facts=facts)
