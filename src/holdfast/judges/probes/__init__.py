"""Judges of single-turn questions by what kind of reply was given."""

from __future__ import annotations

from holdfast.judges import JudgeKind
from holdfast.judges.probes.judge import ProbeJudge
from holdfast.study.sections import JudgeSection

KIND = JudgeKind(name="probes", table=JudgeSection, open=lambda name, _, __: ProbeJudge(name=name), version=None)
