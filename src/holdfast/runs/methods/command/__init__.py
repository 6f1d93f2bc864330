"""A stage that a program of the user's own carries out: it is given a model and data, and leaves a model."""

from __future__ import annotations

from holdfast.runs.methods.command.plan import plan_stage
from holdfast.runs.methods.command.train import train_stage
from holdfast.study.command import CommandSection
from holdfast.study.kinds import Method

METHOD = Method(
    name="command",
    version=1,
    table=CommandSection,
    plan=plan_stage,
    carry_out=train_stage,
    cpu_seconds=30.0,
)
