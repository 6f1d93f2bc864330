"""Cases, episodes and scores ↔ what an Inspect sample holds of them.

A sample that holdfast wrote carries in its metadata, under ``holdfast``, what messages do not say: the case's state and
facts, the ending, the world's end. A score that holdfast gave names its judge, objective and rubric in its metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from inspect_ai.scorer import Score as InspectScore

from holdfast.exchange.inspect.messages import clean
from holdfast.records import Case, Ending, Message, Score, ToolSpec, Trajectory

OWN = "holdfast"
_EPISODE = ("rollout", "calls", "invalid_calls", "tokens", "world_after", "detail")
_JUDGED = ("judge", "objective", "rubric", "repeat", "label", "missing")
JUDGE_PREFIX = "inspect:"
TOP = 3.0
# What Inspect's own scorers mean by letters, and by words for yes and no, on our scale.
_GRADES: Mapping[str, float] = {
    **dict.fromkeys(("C", "yes", "true"), TOP),
    **dict.fromkeys(("I", "no", "false"), 0.0),
    "P": TOP / 2,
}


def describe_case(case: Case) -> dict[str, Any]:
    """What ``read_case`` needs besides the sample's messages."""
    return {
        "id": case.id,
        "suite": case.suite,
        "number": case.number,
        "family": case.family,
        "opening": len(case.messages),
        "tools": [[tool.name, tool.description, tool.parameters] for tool in case.tools],
        "state": case.state,
        "facts": case.facts,
    }


def read_case(row: Mapping[str, Any], messages: Sequence[Message]) -> Case:
    """The case of a sample that holdfast wrote. Errors: LookupError, TypeError, ValueError where it did not."""
    return Case(
        id=str(row["id"]),
        suite=str(row["suite"]),
        number=int(row["number"]),
        family=str(row["family"]),
        messages=tuple(messages[: row["opening"]]),
        tools=tuple(ToolSpec(name=n, description=d, parameters=p) for n, d, p in row["tools"]),
        state=row["state"],
        facts=row["facts"],
    )


def describe_episode(trajectory: Trajectory) -> dict[str, Any]:
    """What an episode is besides its messages."""
    return {"ending": trajectory.ending.value, **{name: getattr(trajectory, name) for name in _EPISODE}}


def read_episode(row: Mapping[str, Any], case: Case, messages: Sequence[Message]) -> Trajectory:
    """An episode that ``describe_episode`` described, without ids. Errors: LookupError, TypeError, ValueError."""
    return Trajectory(
        id="",
        case_id=case.id,
        checkpoint_id="",
        messages=tuple(messages[len(case.messages) :]),
        ending=Ending(row["ending"]),
        world_before=case.state if row["world_after"] is not None else None,
        **{name: row[name] for name in _EPISODE},
    )


def to_score(score: Score) -> InspectScore:
    """Inspect's score: a missing one is unscored, never 0; the judge's reply is its explanation."""
    metadata = {name: getattr(score, name) for name in _JUDGED}
    if score.value is None:
        told = f"missing: {score.missing}" + (f"\n\n{score.reply}" if score.reply else "")
        return InspectScore.unscored(reason=score.missing, explanation=told, metadata=metadata)
    explanation = score.reply or score.label
    return InspectScore(value=score.value, answer=score.label, explanation=explanation, metadata=metadata)


def read_own_score(score: InspectScore, trajectory_id: str) -> Score | None:
    """The score that ``to_score`` was given, or None where another scorer gave it. Errors: ValueError, TypeError."""
    row = score.metadata or {}
    if not set(_JUDGED) <= set(row):
        return None
    value = None if row["missing"] is not None else _number(score.value)
    if row["missing"] is None and value is None:
        raise ValueError(f"a score of {row['judge']} is {score.value!r}, which is none from 0 to 3")
    reply = score.explanation
    if value is None:
        reply = (score.explanation or "").partition("\n\n")[2] or None
    elif reply == row["label"]:
        reply = None
    return Score(trajectory_id=trajectory_id, value=value, reply=reply, **{name: row[name] for name in _JUDGED})


def read_scores(
    name: str, score: InspectScore, trajectory_id: str, rubric: str
) -> tuple[list[Score], dict[str, Any] | None]:
    """What another scorer's score says on our scale, and its value where it says nothing.

    The judge is ``inspect:NAME``. The objective is the scorer's own name, or each key where its value has several.
    Numbers from 0 to 3 are taken as they are, yes and no (``C`` and ``I``, true and false) as 3 and 0, ``P`` as 1.5;
    an unscored sample is a missing score.
    """
    parts = score.value if isinstance(score.value, Mapping) else {name.rsplit("/", 1)[-1]: score.value}
    found, left = [], {}
    for objective, value in parts.items():
        grade = _number(value)
        unscored = value is None or (isinstance(value, float) and math.isnan(value))
        if grade is None and not unscored:
            left[objective] = value
            continue
        found.append(
            Score(
                trajectory_id=trajectory_id,
                judge=f"{JUDGE_PREFIX}{clean(name)}",
                objective=clean(objective),
                value=grade,
                missing=clean(str(score.reason or "unscored")) if unscored else None,
                label=value if isinstance(value, str) else None,
                reply=clean(score.explanation) if score.explanation else None,
                rubric=rubric,
            )
        )
    return found, {name: left} if left else None


def _number(value: object) -> float | None:
    """A value on our scale, or None where it has no place on it."""
    if isinstance(value, bool):
        return TOP if value else 0.0
    if isinstance(value, str):
        return _GRADES.get(value, _GRADES.get(value.lower()))
    if isinstance(value, int | float) and 0 <= value <= TOP:
        return float(value)
    return None
