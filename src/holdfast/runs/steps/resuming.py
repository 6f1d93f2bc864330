"""Training that an earlier process began: where it keeps its state, and how it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.store import weights

if TYPE_CHECKING:
    from holdfast.training.dpo.preference import TrainResult

LOOP = "loop"  # in a step's directory: the state of its training and its logs
TRACKER = "HOLDFAST_TRACKER"  # names one of accelerate's trackers, which then gets a stage's numbers too


def resume(scratch: Path, run: Callable[[], list[TrainResult]]) -> list[TrainResult]:
    """Training from the state that an earlier process left, or from the beginning where that cannot be taken up."""
    from holdfast.training.states import UnusableState

    with contextlib.suppress(UnusableState):
        results = run()
        # The writer may have taken weights over and been stopped before it noted them; others may have been damaged.
        if all(weights.is_as_noted(result.path) for result in results):
            return results
    weights.clear_scratch(scratch)
    return run()
