"""Judges that rate talk with users from 1 to 10 by the probabilities of the digits."""

from __future__ import annotations

from holdfast.study.kinds import Judge, JudgeKind
from holdfast.study.sections import JudgeSection


def _open(name: str, section: JudgeSection, model: str | None) -> Judge:
    from holdfast.judges.rating.judge import RatingJudge

    return RatingJudge(
        name=name,
        model=model or section.model or "",
        repeats=section.repeats,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
    )


KIND = JudgeKind(name="rating", table=JudgeSection, open=_open, version=None, needs="model", users=True, rubrics=False)
