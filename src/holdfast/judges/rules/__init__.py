"""Judges that are predicates over tool calls."""

from __future__ import annotations

from holdfast.study.kinds import Judge, JudgeKind
from holdfast.study.sections import JudgeSection


def _open(name: str, section: JudgeSection, _: str | None) -> Judge:
    from holdfast.judges.rules.judge import read_rules

    return read_rules(section.rules or {}, name=name, place=f"judges.{name}.rules")


KIND = JudgeKind(name="rules", table=JudgeSection, open=_open, version=None, needs="rules")
