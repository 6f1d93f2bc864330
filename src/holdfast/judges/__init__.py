"""Who reads a trajectory: judges turn a case and what was done in it into scores."""

from __future__ import annotations

from holdfast.records.errors import StudyError
from holdfast.study.kinds import Judge, JudgeKind, kind_of
from holdfast.study.sections import JudgeTable

__all__ = ["Judge", "JudgeKind", "JudgeTable", "open_judge"]


def open_judge(name: str, section: JudgeTable, *, model: str | None = None) -> Judge:
    """The judge that a study calls ``name``.

    ``model`` identifies the model behind the study's name for it, where that says more than the name. Errors:
    StudyError naming the place in the study.
    """
    kind = kind_of(section)
    if kind.needs == "model" and section.model is None:
        raise StudyError(f"judges.{name}.model is missing; give the model that reads the trajectories")
    return kind.open(name, section, model)
