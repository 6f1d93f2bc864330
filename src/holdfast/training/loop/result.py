"""What a stage of training gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A saved dose of a stage, with everything counted from the stage's start.

    ``examples`` are pairs or demonstrations with repeats, ``tokens`` those that carried loss, ``losses`` one
    value a step before its update. The drifts are the mean change in nats of a chosen and of a rejected
    trajectory's log-probability since the start, over up to 128 pairs; None for SFT. ``readings`` are what a balance
    measured up to here.
    """

    path: Path
    steps: int
    examples: int
    tokens: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    chosen_drift: float | None = None
    rejected_drift: float | None = None
    readings: tuple[Mapping[str, Any], ...] = ()
    cpu_seconds: float
