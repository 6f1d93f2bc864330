"""A preference stage in 64 bits, in the shape that processes which train together can load by name."""

from __future__ import annotations

from typing import Any

from rounding import in_64_bits

from holdfast.training.preference import TrainResult
from holdfast.training.stages import train_dpo


def train_wide(**told: Any) -> list[TrainResult]:
    with in_64_bits():
        return train_dpo(**told)
