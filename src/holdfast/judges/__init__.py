"""Who reads a trajectory: judges turn a case and what was done in it into scores."""

from __future__ import annotations

from typing import Protocol

from holdfast.errors import StudyError
from holdfast.records import Case, Score, Trajectory


class Judge(Protocol):
    """Scores trajectories. ``rubric`` is the id of the rules that it judges by."""

    @property
    def name(self) -> str: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...

    @property
    def rubric(self) -> str: ...

    def judge(self, case: Case, trajectory: Trajectory) -> tuple[Score, ...]:
        """Returns one score per objective; what cannot be judged is a missing score with its reason."""
        ...


def open_judge(name: str, kind: str) -> Judge:
    """The judge that a study calls ``name``. Errors: StudyError for a kind that does not exist."""
    from holdfast.judges.state import StateJudge

    if kind != "state":
        raise StudyError(f"judges.{name}.kind is {kind!r}; kinds that there are: state")
    return StateJudge(name=name)
