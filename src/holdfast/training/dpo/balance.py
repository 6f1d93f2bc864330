"""A balance between two objectives: the second one's weight follows what training does to its score.

Dual ascent on max E[own objective] subject to E[second objective's score] ≥ floor (as in constrained policy
optimisation; Dai et al. 2024, Safe RLHF, arXiv 2310.12773, weigh a cost in the same way): every so many steps the
policy's score is measured, and the weight rises by ``rate`` times what is lacking, or falls by what there is too much.

What was measured is kept in the loop's state, so that the weight of any step follows from it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.study.stages import BalanceSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The mean score, from 0 to 3, of the episodes that have one; None where none has."""

    score: float | None
    scored: int
    episodes: int


# Called with the directory of the policy's weights and the number of steps that made it.
Measure = Callable[[Path, int], Measured]


class Balance(BalanceSection):
    """A study's balance; ``floor`` is in score points, the weights are factors of a loss."""

    def is_due(self, step: int) -> bool:
        """Whether the policy is measured after a step, counted from 1."""
        return step % self.every == 0

    def react(self, weight: float, score: float | None) -> float:
        """The next weight after a measurement; a score that nothing has leaves it as it is."""
        if score is None or not math.isfinite(score):
            return weight
        return min(self.most, max(0.0, weight + self.rate * (self.floor - score)))

    def weight_at(self, step: int, readings: Sequence[Mapping[str, Any]]) -> float:
        """The weight of a step, counted from 0: as the last measurement before it left it."""
        before = [one for one in readings if one["step"] <= step]
        return float(before[-1]["weight"]) if before else self.initial

    def read(self, step: int, found: Measured, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a measurement after a step, counted from 1, says: JSON that a loop keeps."""
        weight = self.react(self.weight_at(step - 1, readings), found.score)
        return {
            "step": step,
            "score": found.score,
            "scored": found.scored,
            "episodes": found.episodes,
            "weight": weight,
        }
