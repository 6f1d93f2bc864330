"""What processes that train together are given to do: a stage in 64 bits, an error, and an end that aborts."""

from __future__ import annotations

import atexit
import os
from typing import Any

from rounding import in_64_bits

from holdfast.records.errors import StudyError
from holdfast.training.dpo.stage import train_dpo
from holdfast.training.loop.stage import TrainResult


def train_wide(**told: Any) -> list[TrainResult]:
    with in_64_bits():
        return train_dpo(**told)


def refuse(message: str) -> None:
    raise StudyError(message)


def abort_afterwards() -> str:
    """Done, in a process whose libraries abort as it ends, as those of distributed training have."""
    atexit.register(os.abort)
    return "done"
