"""What a quantity is where a curve reaches a level that was declared beforehand: arms at matched reward or KL.

Arms that train differently fast are compared where they are equally good, or equally far from their start, and not at
equal steps. The first checkpoint of a noisy curve at or above a level lies there by luck, and the more often a curve is
checked and the slower it rises, the earlier it does. So a rising curve is fitted to all checkpoints first (isotonic
regression: the least squares among curves that never fall), and the level is read on that. Nothing is extrapolated: an
arm whose curve does not reach a level has no value there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.records.arrays import Floats
from holdfast.stats.contrasts import mean_interval
from holdfast.stats.resample import Interval, row_means

NOT_REACHED = "not reached"
NOT_HELD = "reached at single checkpoints, not by the rising curve fitted to all"
BEFORE_TRAINING = "reached before training"
NOT_MEASURED = "not measured where the level is reached"
NO_CURVE = "no curve to reach a level"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLevel:
    """A quantity where the fitted curve crosses a level.

    ``value`` is None where ``reached`` is false or the quantity was not measured around the crossing. ``reason`` says
    why there is no value, or what to know of the one there is ("reached before training"); else it is None.
    """

    value: float | None
    reached: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """A quantity at a level over seeds: the mean of those that have a value there, ``reached`` of ``total`` of them.

    ``value`` is None where none has one. ``interval`` is Student's t over seeds, only where every seed has a value and
    there are at least 3: seeds that reach a level are not a sample of all of them. ``caveats`` say what is missing.
    """

    value: float | None
    interval: Interval | None
    reached: int
    total: int
    caveats: tuple[str, ...] = ()


def at_level(quantity: Floats, guide: Floats, level: float) -> AtLevel:
    """The ``quantity`` where the ``guide``, a curve of reward or KL at the same checkpoints, reaches ``level``.

    Both have shape (checkpoints,), in order of training and with the start as the first; NaN was not measured. Levels
    are reached from below, on the rising curve that is fitted to the guide (``rising_blocks``): each of its steps is
    the mean of neighbouring checkpoints, the quantity is averaged over the same ones, and both are straight between
    steps. A guide that never falls is its own fit. One that falls back counts with what comes later: where single
    checkpoints lie above the level and the fitted curve does not, it is not reached, and the reason says so. A fitted
    curve that starts at or above the level gives its first step's quantity, with a reason.

    Errors: ValueError for shapes that differ and for a level that is not a number.
    """
    values, along = (np.asarray(one, dtype=np.float64) for one in (quantity, guide))
    if values.shape != along.shape or values.ndim != 1:
        raise ValueError(f"two curves over the same checkpoints are needed, not {values.shape} and {along.shape}")
    if not np.isfinite(level):
        raise ValueError(f"a level is a number, not {level}")
    there = np.isfinite(along)
    if not there.any():
        return AtLevel(value=None, reached=False, reason=NO_CURVE)
    values, along = values[there], along[there]
    blocks = rising_blocks(along)
    fitted = np.array([along[block].mean() for block in blocks])
    above = fitted >= level
    if not above.any():
        reason = NOT_HELD if (along >= level).any() else NOT_REACHED
        return AtLevel(value=None, reached=False, reason=reason)
    first = int(np.argmax(above))
    before, value = (float(row_means(values[blocks[place]])) for place in (max(first - 1, 0), first))
    low, high = float(fitted[max(first - 1, 0)]), float(fitted[first])
    if first and high != level:
        share = (level - low) / (high - low)
        # A mean with weights stays between its ends, which start + share · difference may leave by rounding.
        value = (1 - share) * before + share * value
    if not np.isfinite(value):
        return AtLevel(value=None, reached=True, reason=NOT_MEASURED)
    return AtLevel(value=value, reached=True, reason=None if first else BEFORE_TRAINING)


def rising_blocks(curve: Floats) -> list[slice]:
    """The steps of the isotonic regression of a ``curve`` (points,), as slices of it: their means rise strictly or tie.

    Pool adjacent violators (Ayer et al. 1955), all points of equal weight: neighbours that fall are averaged until
    none does. The means are the curve that never falls with the least squared distance from the points.
    """
    blocks: list[tuple[float, int]] = []  # sum and size
    for value in np.asarray(curve, dtype=np.float64).tolist():
        total, size = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            before, points = blocks.pop()
            total, size = total + before, size + points
        blocks.append((total, size))
    ends = np.cumsum([size for _, size in blocks]).tolist()
    return [slice(end - size, end) for end, (_, size) in zip(ends, blocks, strict=True)]


def over_seeds(by_seed: Sequence[AtLevel]) -> OverSeeds:
    """The mean over seeds of a quantity at a level, with an interval only where no seed is missing."""
    values = np.array([one.value for one in by_seed if one.value is not None])
    reached = sum(one.reached for one in by_seed)
    reasons = {one.reason for one in by_seed}
    some = NOT_REACHED if not reached else f"{NOT_REACHED} by {len(by_seed) - reached} of {len(by_seed)} seeds"
    holds = {
        some: reached < len(by_seed),
        NOT_HELD: NOT_HELD in reasons,
        NOT_MEASURED: len(values) < reached,
        BEFORE_TRAINING: BEFORE_TRAINING in reasons,
    }
    return OverSeeds(
        value=float(values.mean()) if len(values) else None,
        interval=mean_interval(values) if len(values) == len(by_seed) else None,
        reached=reached,
        total=len(by_seed),
        caveats=tuple(caveat for caveat, true in holds.items() if true),
    )
