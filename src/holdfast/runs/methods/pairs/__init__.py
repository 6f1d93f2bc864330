"""DPO and its kin: a stage that learns from preference pairs."""

from __future__ import annotations

from holdfast.runs.methods.pairs.plan import expect_cost, plan_stage
from holdfast.runs.methods.pairs.train import train_stage
from holdfast.study.kinds import Method
from holdfast.study.stages import StageSection

METHOD = Method(
    name="dpo",
    version=None,
    table=StageSection,
    plan=plan_stage,
    carry_out=train_stage,
    cost=expect_cost,
    cpu_seconds=0.03,
)
