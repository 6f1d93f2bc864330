"""How far training data are from the policy that learns from them. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.records.errors import StudyError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OffPolicy:
    """How unlike two policies are on data that one of them sampled.

    ``log_ratio`` is the mean absolute log ratio of their probabilities in nats a token, 0 where they agree. ``ess`` is
    the effective sample size of the data's importance weights as a share of the sequences, from 1 / sequences, where
    one sequence has all the weight, to 1.
    """

    log_ratio: float
    ess: float
    tokens: int
    sequences: int


def measure(current: Sequence[Floats], sampled: Sequence[Floats]) -> OffPolicy:
    """How far the policy of ``current`` is from the one that sampled.

    Both hold, for each sequence, the log-probabilities [tokens] in nats of its scored tokens under the policy to be
    trained and under the one that sampled. A sequence's weight w is the ratio of its probabilities as a whole, and
    ``ess`` is (sum w)^2 / (n sum w^2) over n sequences (Kish 1965), computed from the logarithms of the weights, so
    that no weight overflows. A common factor of all weights does not change it. Errors: StudyError for no tokens,
    numbers that are not finite, or two sides of different shapes.
    """
    if [one.shape for one in current] != [other.shape for other in sampled]:
        raise StudyError("off-policy measure: the two policies did not score the same tokens; score the same sequences")
    ratios = [one.astype(np.float64) - other.astype(np.float64) for one, other in zip(current, sampled, strict=True)]
    tokens = sum(len(ratio) for ratio in ratios)
    if not tokens:
        raise StudyError("off-policy measure: there are no tokens to compare; pass at least one scored sequence")
    if not all(np.isfinite(ratio).all() for ratio in ratios):
        raise StudyError("off-policy measure: a log-probability is not finite; the weights of a model are damaged")
    logs = np.array([ratio.sum() for ratio in ratios])
    weights = np.exp(logs - logs.max())
    share = float(weights.sum() ** 2 / (len(logs) * np.square(weights).sum()))
    return OffPolicy(
        log_ratio=float(sum(np.abs(ratio).sum() for ratio in ratios)) / tokens,
        ess=min(1.0, max(1 / len(logs), share)),  # rounding alone leaves the bounds
        tokens=tokens,
        sequences=len(logs),
    )
