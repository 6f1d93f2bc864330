"""The ways to make checkpoints of others: stages by their methods, a folder each.

What a stage method of another package needs stands here too.
"""

from __future__ import annotations

from holdfast.runs.plan.settings import StageSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Emit, Finished
from holdfast.runs.steps.reading import weights_of
from holdfast.study.kinds import Method
from holdfast.study.stages import RewardSection, StageSection, StageTable, TrainingSection

__all__ = [
    "Emit",
    "Finished",
    "Method",
    "RewardSection",
    "StageSection",
    "StageSettings",
    "StageTable",
    "Step",
    "TrainingSection",
    "weights_of",
]
