"""B1: how often a gate passes a child that truly loses exactly the margin, by kind of change and number of cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from audits.rows import Row
from holdfast.records.arrays import Floats
from holdfast.stats.bounded import p_value, p_values

ITEM = "B1"
CLAIM = "A child that truly loses as much as the margin passes in at most 5 % of gates, at any number of cases."
ALPHA, MARGIN, SHARE_MARGIN = 0.05, 0.25, 0.10
SIZES = (2, 5, 10, 20, 72, 144, 500)
DRAWS = 20_000
Sampler = Callable[[np.random.Generator, int, int], Floats]  # draws, cases


def _pick(values: tuple[float, ...], chances: tuple[float, ...]) -> Sampler:
    return lambda rng, draws, n: rng.choice(np.array(values), size=(draws, n), p=chances)


def _rollouts(told_by_loss: bool) -> Sampler:
    """Scores of three values over 1 to 8 rollouts a case; how many there are may hang on what the case loses."""

    def draw(rng: np.random.Generator, draws: int, n: int) -> Floats:
        lost = rng.choice([0.0, 1.0], size=(draws, n), p=[0.75, 0.25])  # a quarter of the cases lose a point
        counts = np.where(lost > 0, 1, 8) if told_by_loss else rng.integers(1, 9, size=(draws, n))
        total = np.zeros((draws, n))
        for rollout in range(8):
            score = rng.choice([-1.0, 0.0, 1.0], size=(draws, n), p=[0.3, 0.4, 0.3])
            total += np.where(rollout < counts, score, 0.0)
        return np.asarray(total / counts - lost)

    return draw


POINTS: dict[str, tuple[Sampler, str]] = {
    "-3 in 1/12, else 0": (_pick((-3.0, 0.0), (1 / 12, 11 / 12)), "0 to 4.88 %"),
    "-3 in 2 %, else just above the margin": (_pick((-3.0, -0.19 / 0.98), (0.02, 0.98)), "0 to 4.56 %"),
    "-3 or 3": (_pick((-3.0, 3.0), (0.5 + MARGIN / 6, 0.5 - MARGIN / 6)), "0 to 4.82 %"),
    "-1, 0, 1": (_pick((-1.0, 0.0, 1.0), (0.35, 0.55, 0.1)), "0 to 4.25 %"),
    "-0.5 or 0": (_pick((-0.5, 0.0), (0.5, 0.5)), "0 to 4.25 %"),
    "3 in 2 %, else below the margin": (_pick((3.0, -0.31 / 0.98), (0.02, 0.98)), "0 to 2.48 %"),
    "1 to 8 rollouts": (_rollouts(False), "0 to 5.02 %"),
    "1 to 8 rollouts, told by the loss": (_rollouts(True), "0 to 4.85 %"),
}
SHARES: dict[str, tuple[Sampler, str]] = {
    "severe in 10 % more, never less": (_pick((-1.0, 0.0), (0.1, 0.9)), "0 to 5.2 %"),
    "severe in 15 % more, 5 % less": (_pick((-1.0, 0.0, 1.0), (0.15, 0.8, 0.05)), "0 to 5.2 %"),
    "severe in 55 % more, 45 % less": (_pick((-1.0, 1.0), (0.55, 0.45)), "0 to 5.2 %"),
}
LEAST = {(3.0, 0.25): 37, (3.0, 0.5): 18, (1.0, 0.1): 30, (1.0, 0.05): 63}  # (range, margin) → cases


def measure(scale: float = 1.0) -> list[Row]:
    """False PASS by kind of change and number of cases, and the fewest cases that can pass at all."""
    draws = max(100, round(DRAWS * scale))
    rows = list(_false_passes(POINTS, MARGIN, 3.0, draws)) + list(_false_passes(SHARES, SHARE_MARGIN, 1.0, draws))
    for (limit, margin), found in LEAST.items():
        fewest = next(n for n in range(2, 200) if p_value(np.zeros(n), -margin, low=-limit, high=limit) <= ALPHA)
        unit = "points" if limit > 1 else "of episodes"
        case = f"fewest cases that pass two identical sides, margin {margin:g} {unit}"
        rows.append(Row(case=case, value=float(fewest), high=float(found), before=str(found)))
    return rows


def _false_passes(kinds: dict[str, tuple[Sampler, str]], margin: float, limit: float, draws: int) -> Iterator[Row]:
    for place, (name, (draw, before)) in enumerate(kinds.items()):
        for n in SIZES:
            samples = draw(np.random.default_rng([place, n]), draws, n)
            passed = float((p_values(samples, -margin, low=-limit, high=limit) <= ALPHA).mean())
            # The error is that of a rate of 5 %: a rate of 0 in so many draws has none of its own.
            error = 1.96 * math.sqrt(max(passed, ALPHA) * (1 - max(passed, ALPHA)) / draws)
            yield Row(case=f"false PASS, {name}, {n} cases", value=passed, error=error, high=ALPHA, before=before)
