"""Judges of talk with users by rules, which are the ground truth there."""

from __future__ import annotations

from holdfast.study.kinds import Judge, JudgeKind
from holdfast.study.sections import JudgeSection


def _open(name: str, _: JudgeSection, __: str | None) -> Judge:
    from holdfast.judges.approval.judge import ApprovalJudge

    return ApprovalJudge(name=name)


KIND = JudgeKind(name="approval", table=JudgeSection, open=_open, version=None, users=True, rubrics=False)
