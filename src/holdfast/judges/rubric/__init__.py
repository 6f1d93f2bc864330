"""Judges that are models and read a trajectory by a rubric."""

from __future__ import annotations

from holdfast.judges import JudgeKind
from holdfast.judges.rubric.judge import RubricJudge
from holdfast.judges.rubric.parsing import PARSERS
from holdfast.judges.rubric.scales import DEFAULTS, find_rubric
from holdfast.study.sections import JudgeSection


def _open(name: str, section: JudgeSection, model: str | None) -> RubricJudge:
    given = section.rubrics or dict.fromkeys(DEFAULTS, "default")
    rubrics = {
        objective: find_rubric(text, objective, f"judges.{name}.rubrics.{objective}")
        for objective, text in given.items()
    }
    asking = section.model_dump(include={"repeats", "temperature", "max_tokens", "logprobs"})
    parser = PARSERS[section.parser]
    return RubricJudge(name=name, model=model or section.model or "", rubrics=rubrics, parser=parser, **asking)


KIND = JudgeKind(name="rubric", table=JudgeSection, open=_open, version=None, needs="model")
