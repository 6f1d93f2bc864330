"""Who reads a trajectory: judges turn a case and what was done in it into scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from holdfast.records import Case, Score, Trajectory
from holdfast.records.errors import StudyError
from holdfast.rollout.dialogues import Dialogue

if TYPE_CHECKING:
    from holdfast.judges.rating.judge import RatingJudge
    from holdfast.judges.rubric.judge import RubricJudge
    from holdfast.study.sections import JudgeSection


class Judge(Protocol):
    """Scores trajectories. Every score carries the id of the rules that it was given by."""

    @property
    def name(self) -> str: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...

    def rubric_of(self, objective: str) -> str:
        """The id of all that its scores of an objective depend on besides the episode."""
        ...

    def judge(self, case: Case, trajectory: Trajectory) -> tuple[Score, ...] | Dialogue[tuple[Score, ...]]:
        """One score per objective and repeat, at once or by a dialogue with speaker "judge".

        What cannot be judged is a missing score with its reason.
        """
        ...


def open_judge(name: str, section: JudgeSection, *, model: str | None = None) -> Judge:
    """The judge that a study calls ``name``.

    ``model`` identifies the model behind the study's name for it, where that says more than the name. Errors:
    StudyError naming the place in the study.
    """
    if section.kind == "state":
        from holdfast.judges.state import StateJudge

        return StateJudge(name=name)
    if section.kind == "probes":
        from holdfast.judges.probes.judge import ProbeJudge

        return ProbeJudge(name=name)
    if section.kind == "rules":
        from holdfast.judges.rules.judge import read_rules

        return read_rules(section.rules or {}, name=name, place=f"judges.{name}.rules")
    if section.kind == "approval":
        from holdfast.judges.approval.judge import ApprovalJudge

        return ApprovalJudge(name=name)
    if section.kind == "rating":
        return _open_rating_judge(name, section, model)
    return _open_rubric_judge(name, section, model)


def _open_rating_judge(name: str, section: JudgeSection, model: str | None) -> RatingJudge:
    from holdfast.judges.rating.judge import RatingJudge

    if section.model is None:
        raise StudyError(f"judges.{name}.model is missing; give the model that rates the episodes")
    return RatingJudge(
        name=name,
        model=model or section.model,
        repeats=section.repeats,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
    )


def _open_rubric_judge(name: str, section: JudgeSection, model: str | None) -> RubricJudge:
    from holdfast.judges.rubric.judge import RubricJudge
    from holdfast.judges.rubric.parsing import PARSERS
    from holdfast.judges.rubric.scales import DEFAULTS, find_rubric

    if section.model is None:
        raise StudyError(f"judges.{name}.model is missing; give the model that reads the trajectories")
    given = section.rubrics or dict.fromkeys(DEFAULTS, "default")
    return RubricJudge(
        name=name,
        model=model or section.model,
        rubrics={
            objective: find_rubric(text, objective, f"judges.{name}.rubrics.{objective}")
            for objective, text in given.items()
        },
        parser=PARSERS[section.parser],
        repeats=section.repeats,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
        logprobs=section.logprobs,
    )
