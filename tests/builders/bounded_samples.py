"""Differences child − parent on [−3, 3] whose mean is exactly −MARGIN: where a gate must not pass but for its level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from holdfast.records.arrays import Floats
from holdfast.stats.bounded import exact_lower

Sampler = Callable[[np.random.Generator, tuple[int, int]], Floats]
MARGIN = 0.25
# Shares of the scores 0 to 3: as skewed as a published safe agent's, and of an agent that has lost MARGIN points.
PARENT, CHILD = (0.12, 0.20, 0.25, 0.43), (0.20, 0.22, 0.22, 0.36)


def _pick(values: tuple[float, ...], shares: tuple[float, ...]) -> Sampler:
    return lambda rng, shape: rng.choice(np.array(values), size=shape, p=shares)


def _skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.choice(4, size=shape, p=CHILD) - rng.choice(4, size=shape, p=PARENT).astype(np.float64)


def _clustered(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """What a case keeps over its rollouts, and the mean of four rollouts that also vary by themselves."""
    cases = rng.choice([-1.0, 0.0, 1.0], size=shape, p=[0.2, 0.6, 0.2])
    rollouts = rng.choice([-1.0, 0.0, 1.0], size=(4, *shape), p=[0.3, 0.4, 0.3]).mean(axis=0)
    return np.asarray(cases + rollouts - MARGIN)


def _rarer(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Five cases in a hundred fall by three points; all others move a little."""
    rest = (3 * 0.05 - MARGIN) / 0.95 + rng.uniform(-0.1, 0.1, size=shape)
    return np.where(rng.random(shape) < 0.05, -3.0, rest)


def _heavy(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    rest = -MARGIN / 0.9 + rng.choice([-0.25, 0.25], size=shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([-3.0, 3.0], size=shape), rest)


AT_THE_MARGIN: dict[str, Sampler] = {
    "symmetric": _pick((-1.25, -0.25, 0.75), (0.25, 0.5, 0.25)),
    "rare and severe": _pick((-3.0, 0.0), (1 / 12, 11 / 12)),
    "rarer, with noise": _rarer,
    "only the ends": _pick((-3.0, 3.0), (3.25 / 6, 2.75 / 6)),
    "skewed scores": _skewed,
    "uniform": lambda rng, shape: rng.uniform(-1.25, 0.75, size=shape),
    "clustered rollouts": _clustered,
    "heavy tails": _heavy,
    "drops in a tenth": _pick((-2.5, 0.0), (0.1, 0.9)),
    "rare and large gains": _pick((3.0, -1.0), (0.1875, 0.8125)),
}


def exact_upper(events: int, n: int, alpha: float) -> float:
    """The Clopper–Pearson upper bound of a share: what the lower one leaves of the other events."""
    return 1 - exact_lower(n - events, n, alpha)
