"""Judges of single-turn questions by what kind of reply was given."""

from __future__ import annotations

from holdfast.study.kinds import Judge, JudgeKind
from holdfast.study.sections import JudgeSection


def _open(name: str, _: JudgeSection, __: str | None) -> Judge:
    from holdfast.judges.probes.judge import ProbeJudge

    return ProbeJudge(name=name)


KIND = JudgeKind(name="probes", table=JudgeSection, open=_open, version=None)
