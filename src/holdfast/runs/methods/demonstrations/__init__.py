"""SFT: a stage that imitates episodes, of scripted agents, of the run itself, or from a file."""

from __future__ import annotations

from holdfast.runs.methods.demonstrations.plan import plan_stage
from holdfast.runs.methods.demonstrations.train import train_stage
from holdfast.study.kinds import Method
from holdfast.study.stages import DemonstrationSection

METHOD = Method(
    name="sft",
    version=1,
    table=DemonstrationSection,
    plan=plan_stage,
    carry_out=train_stage,
    cpu_seconds=0.05,
)
