"""Held-out preference accuracy, for the benchmarks that train on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from holdfast.records import PreferencePair
from holdfast.records.arrays import Floats
from holdfast.training.encoding import Encoded, LossMask, score_picked
from holdfast.training.loop.passes import score
from holdfast.training.policy.adapters import Policy
from holdfast.training.trees.packing import Packed, pack
from holdfast.training.trees.trees import partition

BUDGET = 16_384


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Held-out pairs as packed trees: ``names`` in the order in which the trees' scores come."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    trees: tuple[Packed, ...]
    pairs: tuple[PreferencePair, ...]
    cases: tuple[str, ...]

    @classmethod
    def of(
        cls, pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded], mask: LossMask, cases: Sequence[str]
    ) -> HeldOut:
        """Some held-out pairs, for results over ``cases``."""
        names = sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})
        sequences = [score_picked(name, encoded[name], mask) for name in names]
        groups = partition([item.ids for item in sequences], max(BUDGET, *(len(item.ids) for item in sequences)))
        return cls(
            names=tuple(names[number] for group in groups for number in group),
            counts=tuple(sequences[number].scored for group in groups for number in group),
            trees=tuple(pack([sequences[n] for n in group], torch.device("cpu"), masks=True) for group in groups),
            pairs=tuple(pairs),
            cases=tuple(cases),
        )

    @torch.no_grad()
    def logprobs(self, policy: Policy) -> dict[str, float]:
        """The log-probability of every trajectory in nats, by name."""
        parts = torch.split(torch.cat([score(policy, tree) for tree in self.trees]), list(self.counts))
        return {name: float(part.double().sum()) for name, part in zip(self.names, parts, strict=True)}

    def accuracies(self, policy: Policy, reference: Mapping[str, float]) -> Floats:
        """The share of each case's pairs with a margin above zero [cases]; NaN for a case without pairs."""
        ratios = {name: value - reference[name] for name, value in self.logprobs(policy).items()}
        number = {case: place for place, case in enumerate(self.cases)}
        owner = np.array([number[pair.case_id] for pair in self.pairs])
        won = np.array([ratios[pair.chosen] > ratios[pair.rejected] for pair in self.pairs], np.float64)
        counts = np.bincount(owner, minlength=len(self.cases))
        sums = np.bincount(owner, won, minlength=len(self.cases))
        empty = np.full(len(self.cases), np.nan)
        return np.asarray(np.divide(sums, counts, out=empty, where=counts > 0), dtype=np.float64)
