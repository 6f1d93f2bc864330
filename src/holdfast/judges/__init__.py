"""Who reads a trajectory: judges turn a case and what was done in it into scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from holdfast.models import Ask, Conversation, Reply
from holdfast.records import Case, Message, Score, Trajectory, content_id
from holdfast.records.errors import ProviderError, StudyError
from holdfast.rollout.dialogues import Dialogue, Speakers, hold
from holdfast.study.kinds import Judge, JudgeKind, kind_of
from holdfast.study.sections import JudgeTable

__all__ = ["Judge", "JudgeKind", "JudgeTable", "check_case", "judge_all", "make_ask", "make_score", "open_judge", "put"]


def open_judge(name: str, section: JudgeTable, *, model: str | None = None) -> Judge:
    """The judge that a study calls ``name``.

    ``model`` identifies the model behind the study's name for it, where that says more than the name. Errors:
    StudyError naming the place in the study.
    """
    kind = kind_of(section)
    if kind.needs == "model" and section.model is None:
        raise StudyError(f"judges.{name}.model is missing; give the model that reads the trajectories")
    return kind.open(name, section, model)


def judge_all(
    judge: Judge, episodes: Iterable[tuple[Case, Trajectory]], speakers: Speakers
) -> list[tuple[Score, ...] | ProviderError]:
    """The scores of every episode, in order, or the outage of the judge's model that kept them from being made."""
    judged = [judge.judge(case, trajectory) for case, trajectory in episodes]
    answers = iter(hold([scores for scores in judged if not isinstance(scores, tuple)], speakers))
    return [scores if isinstance(scores, tuple) else next(answers) for scores in judged]


def check_case(case: Case, trajectory: Trajectory) -> None:
    """Raises ValueError where the trajectory is of another case."""
    if trajectory.case_id != case.id:
        raise ValueError(f"trajectory {trajectory.id} is of case {trajectory.case_id}, not of {case.id}")


def make_ask(
    purpose: str,
    rubric: str,
    question: tuple[Message, ...],
    trajectory: Trajectory,
    number: tuple[int, int],
    **more: Any,
) -> Ask:
    """What a judge that is a model is asked by a rubric of that id; ``number`` tells repeats and attempts apart."""
    seed = content_id(purpose, rubric, trajectory.id, number)
    rng, replicate = np.random.default_rng(int(seed, 16)), (trajectory.rollout, *number)
    return Ask(speaker="judge", conversation=Conversation(messages=question), rng=rng, replicate=replicate, **more)


def put(ask: Ask) -> Dialogue[Reply | str]:
    """The reply, or the reason of a missing score where there is none to this request. Errors: ProviderError."""
    try:
        return (yield ask)
    except ProviderError as error:
        if not error.is_data:
            raise
        return f"provider_{error.fault}"


def make_score(
    judge: Judge,
    trajectory: Trajectory,
    objective: str,
    value: float | None = None,
    *,
    missing: str | None = None,
    label: str | None = None,
    reply: str | None = None,
    repeat: int = 0,
) -> Score:
    """The judge's score of a trajectory, in 0..3, or ``missing`` with its reason."""
    return Score(
        trajectory_id=trajectory.id,
        judge=judge.name,
        objective=objective,
        value=value,
        missing=missing,
        label=label,
        reply=reply,
        rubric=judge.rubric_of(objective),
        repeat=repeat,
    )
