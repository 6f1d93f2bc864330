"""A second objective in a preference stage: which of its pairs a step takes, and how they enter the loss.

mix        a share of each step's pairs is of the other objective; all pairs of a step weigh alike
term       beside its own pairs a step has as many of the other's: loss = L(own) + weight · L(other)
balance    a term whose weight follows what was measured during training (``balance``)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from torch import Tensor

from holdfast.records import PreferencePair
from holdfast.records.errors import StudyError
from holdfast.training.dpo.orders import PairOrder, pair_steps
from holdfast.training.encoding import Encoded, LossMask, ScoredSequence
from holdfast.training.trees.parts import (
    Loss,
    PairObjective,
    PairPart,
    PairTotals,
    Part,
    TrainStep,
    fill_parts,
    pair_part,
    pair_step,
)

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


def other_seed(seed: int) -> int:
    """The seed of the second objective's order, so that the stage's own order is that of a stage without one."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1)


def mixed_steps(
    own: Sequence[PreferencePair], second: Second, encoded: Mapping[str, Encoded], order: PairOrder, *, seed: int
) -> Iterator[tuple[list[PreferencePair], list[PreferencePair]]]:
    """A step's own pairs and those of the second objective, endlessly.

    For "mix" both together are ``pairs_per_step``: after n steps, the share of n steps' pairs rounded to the nearest
    whole number is of the second objective, so that any share is kept over a stage. Otherwise each step has
    ``pairs_per_step`` of both. Both are taken in the order that they have without the other, however many a step takes.
    Errors: StudyError where a side has no pairs.
    """
    if not own or not second.pairs:
        raise StudyError(f"{second.way}: there are no pairs of one of the two objectives to learn from")
    size = order.pairs_per_step
    streams = [
        chain.from_iterable(pair_steps(pairs, encoded, order, seed=one))
        for pairs, one in ((own, seed), (second.pairs, other_seed(seed)))
    ]
    step, taken = 0, 0
    while True:
        step += 1
        others = size
        if second.way == "mix":
            others = int(np.floor(second.amount * size * step + 0.5)) - taken
            taken += others
        count = size - others if second.way == "mix" else size
        yield list(islice(streams[0], count)), list(islice(streams[1], others))


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
        extra, found = self.other.loss(logps, owner)
        told = {f"other_{name}": value for name, value in found.items()}
        return loss + self.weight * extra, {**metrics, "other_loss": extra.item(), **told}


def second_step(
    own: Sequence[PreferencePair],
    others: Sequence[PreferencePair],
    weight: float | None,
    encoded: Mapping[str, Encoded],
    reference: Mapping[str, float],
    *,
    objective: PairObjective,
    loss_mask: LossMask,
) -> TrainStep:
    """A step on a stage's own pairs and those of a second objective, each distinct trajectory of both once.

    ``weight`` None mixes them: its loss is the mean over all pairs. Else it is the mean over the own pairs plus
    ``weight`` times the mean over the others; a term that weighs nothing is not computed.
    """
    told: dict[str, Any] = {"objective": objective, "loss_mask": loss_mask}
    if weight is None or weight == 0:
        pairs = list(own) if weight is not None else [*own, *others]
        plain = pair_step(pairs, encoded, reference, **told)
        return plain if weight is None else replace(plain, facts={"other_weight": 0.0})
    totals = [PairTotals.of(pairs, encoded, loss_mask) for pairs in (own, others)]
    every = [*own, *others]

    def cut(budget: int) -> list[Part]:
        found: list[Part] = []
        for group in fill_parts(every, encoded, budget):
            names = sorted({name for place in group for name in _sides(every[place])})
            sides = [[every[place] for place in group if (place < len(own)) is wanted] for wanted in (True, False)]
            parts = [
                pair_part(pairs, names, total, encoded, reference, **told)
                for pairs, total in zip(sides, totals, strict=True)
            ]
            found.append(TermPart(own=parts[0], other=parts[1], weight=weight))
        return found

    return TrainStep(examples=len(every), parts=cut, facts={"other_weight": weight})


def _sides(pair: PreferencePair) -> tuple[str, str]:
    return pair.chosen, pair.rejected
