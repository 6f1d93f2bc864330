"""Judges of talk with users by rules, which are the ground truth there."""

from __future__ import annotations

from holdfast.judges import JudgeKind
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.study.sections import JudgeSection

KIND = JudgeKind(
    name="approval",
    table=JudgeSection,
    open=lambda name, _, __: ApprovalJudge(name=name),
    version=None,
    users=True,
    rubrics=False,
)
