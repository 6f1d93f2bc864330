"""What a quantity is where a curve first reaches a level that was declared beforehand: arms at matched reward or KL.

Arms that train differently fast are compared where they are equally good, or equally far from their start, and not at
equal steps. Nothing is extrapolated: an arm that does not reach a level has no value there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.stats.contrasts import MIN_SEEDS, t_quantile

Floats = NDArray[np.float64]

NOT_REACHED = "not reached"
BEFORE_TRAINING = "reached before training"
NOT_MEASURED = "not measured where the level is reached"
NO_CURVE = "no curve to reach a level"


@dataclass(frozen=True, slots=True, kw_only=True)
class AtLevel:
    """A quantity at the first crossing of a level.

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
    interval: tuple[float, float] | None
    reached: int
    total: int
    caveats: tuple[str, ...] = ()


def at_level(quantity: Floats, guide: Floats, level: float) -> AtLevel:
    """The ``quantity`` where the ``guide``, a curve of reward or KL at the same checkpoints, first reaches ``level``.

    Both have shape (checkpoints,), in order of training and with the start as the first; NaN was not measured. Levels
    are reached from below. The crossing lies between the last checkpoint before it and the first at or above the level,
    among those where the guide was measured, and both curves are taken as straight in between. A guide that falls back
    and rises again counts where it first arrives: what comes later, also a fall below the level, changes nothing. Noise
    on the guide makes that early rather than late. A guide that starts at or above the level gives the start's
    quantity, with a reason. Errors: ValueError for shapes that differ and for a level that is not a number.
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
    above = along >= level
    if not above.any():
        return AtLevel(value=None, reached=False, reason=NOT_REACHED)
    first = int(np.argmax(above))
    if first == 0:
        return _reached(float(values[0]), BEFORE_TRAINING)
    low, high = float(along[first - 1]), float(along[first])
    if high == level:
        return _reached(float(values[first]))
    share = (level - low) / (high - low)
    # A mean with weights stays between its ends, which start + share · difference may leave by rounding.
    return _reached(float((1 - share) * values[first - 1] + share * values[first]))


def _reached(value: float, reason: str | None = None) -> AtLevel:
    """The value at a crossing, or that it was not measured there."""
    if np.isfinite(value):
        return AtLevel(value=value, reached=True, reason=reason)
    return AtLevel(value=None, reached=True, reason=NOT_MEASURED)


def over_seeds(found: Sequence[AtLevel]) -> OverSeeds:
    """The mean over seeds of a quantity at a level, with an interval only where no seed is missing."""
    values = np.array([one.value for one in found if one.value is not None])
    reached = sum(one.reached for one in found)
    caveats = []
    if reached < len(found):
        caveats.append(NOT_REACHED if not reached else f"{NOT_REACHED} by {len(found) - reached} of {len(found)} seeds")
    if len(values) < reached:
        caveats.append(NOT_MEASURED)
    if any(one.reason == BEFORE_TRAINING for one in found):
        caveats.append(BEFORE_TRAINING)
    interval = None
    if len(values) == len(found) and len(values) >= MIN_SEEDS:
        half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1) / np.sqrt(len(values)))
        interval = (float(values.mean()) - half, float(values.mean()) + half)
    return OverSeeds(
        value=float(values.mean()) if len(values) else None,
        interval=interval,
        reached=reached,
        total=len(found),
        caveats=tuple(caveats),
    )
