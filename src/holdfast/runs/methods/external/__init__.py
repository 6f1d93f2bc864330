"""External: stages that were trained elsewhere, whose checkpoints are opened where they lie."""

from __future__ import annotations

from holdfast.runs.methods.external.opening import open_checkpoints
from holdfast.runs.methods.external.plan import plan_stage
from holdfast.study.kinds import Method
from holdfast.study.stages import ExternalSection

METHOD = Method(
    name="external",
    version=1,
    table=ExternalSection,
    plan=plan_stage,
    carry_out=open_checkpoints,
    cpu_seconds=0.5,
)
