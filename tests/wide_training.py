"""What processes that train together are given to do: a preference stage in 64 bits, and an error."""

from __future__ import annotations

from typing import Any

from rounding import in_64_bits

from holdfast.records.errors import StudyError
from holdfast.training.dpo.stage import train_dpo
from holdfast.training.loop.result import TrainResult


def train_wide(**told: Any) -> list[TrainResult]:
    with in_64_bits():
        return train_dpo(**told)


def refuse(message: str) -> None:
    raise StudyError(message)
