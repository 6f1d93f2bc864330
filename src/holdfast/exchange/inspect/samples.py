"""Cases, episodes and scores ↔ what an Inspect sample holds of them.

A sample that holdfast wrote carries in its metadata, under ``holdfast``, what messages do not say: the case's state and
facts, the ending, the world's end. A score that holdfast gave names its judge, objective and rubric in its metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from inspect_ai.scorer import Score as InspectScore
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.types import StrictBool, StrictFloat, StrictInt, StrictStr

from holdfast.exchange.inspect.messages import storable
from holdfast.exchange.scales import describe
from holdfast.records import Case, Checkpoint, Ending, Message, Score, StageRecord, ToolSpec, Trajectory

OWN = "holdfast"
_EPISODE = ("rollout", "calls", "invalid_calls", "tokens", "world_after", "detail")
_JUDGED = ("judge", "objective", "rubric", "repeat", "label", "missing")
TOP = 3.0
MOST = 2**63 - 1  # that the store counts to

Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Whole = Annotated[int, Field(strict=True, ge=-MOST, le=MOST)]
Name = Annotated[str, Field(strict=True, min_length=1)]
Text = Annotated[str, Field(strict=True)]


def _require_storable(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and storable(value) != value:
        raise ValueError("holds what cannot be stored (a number too large, or half a character)")
    return value


Object = Annotated[dict[str, Any], AfterValidator(_require_storable)]
Plain = StrictBool | StrictInt | StrictFloat | StrictStr | None
Axes = Annotated[dict[str, Plain], AfterValidator(_require_storable)]  # tables are sorted and grouped by their values


class _Row(BaseModel):
    """What holdfast wrote into a log, held against its types and ranges before anything is made of it."""

    model_config = ConfigDict(extra="forbid")


class _CaseRow(_Row):
    id: Name
    suite: Text
    number: Count
    family: Text
    opening: Count
    tools: list[tuple[Name, Text, Object]]
    state: Object
    facts: Object


class _EpisodeRow(_Row):
    ending: Ending
    rollout: Count
    calls: Count
    invalid_calls: Count
    tokens: Count | None
    world_after: Object | None
    detail: Object | None


class _ScoreRow(BaseModel):
    judge: Name
    objective: Name
    rubric: Text
    repeat: Count
    label: Text | None
    missing: Name | None


class _StageRow(_Row):
    name: Name
    method: Text
    objectives: list[Text]
    settings: Object = {}
    steps: Count | None = None
    pairs: Count | None = None
    data: Text | None = None


class _CheckpointRow(_Row):
    id: Name
    base: Name
    stages: list[_StageRow] = []
    start: list[_StageRow] = []
    axes: Axes = {}
    split_seed: Whole | None = None
    train_seed: Whole | None = None
    parent_id: Text | None = None
    path: Text | None = None
    digest: Text | None = None
    model: Text | None = None
    source: Text | None = None


class _SplitRows(_Row):
    splits: list[tuple[Whole, Name]] = []


Row = TypeVar("Row", bound=BaseModel)


def _check(kind: type[Row], row: Any, what: str) -> Row:
    """A row of the kind. Errors: ValueError with the first thing that is wrong, in few words."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        shown = describe(first["input"])
        raise ValueError(f"{what}{'.' if place else ''}{place} is {shown}: {first['msg']}") from None


def describe_case(case: Case) -> dict[str, Any]:
    """What ``read_case`` needs besides the sample's messages."""
    names = {name: getattr(case, name) for name in ("id", "suite", "number", "family")}
    tools = [[tool.name, tool.description, tool.parameters] for tool in case.tools]
    return {**names, "opening": len(case.messages), "tools": tools, "state": case.state, "facts": case.facts}


def read_case(row: Any, messages: Sequence[Message]) -> Case:
    """The case of a sample that holdfast wrote. Errors: ValueError where it did not."""
    made = _check(_CaseRow, row, "case")
    if made.opening > len(messages):
        raise ValueError(f"case.opening is {made.opening}: the sample has {len(messages)} messages")
    tools = tuple(ToolSpec(name=n, description=d, parameters=p) for n, d, p in made.tools)
    fields = {**dict(made), "messages": tuple(messages[: made.opening]), "tools": tools}
    return Case(**{name: value for name, value in fields.items() if name != "opening"})


def read_splits(row: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The split seeds and parts of a sample that holdfast wrote. Errors: ValueError."""
    return list(_check(_SplitRows, {"splits": row.get("splits", [])}, "").splits)


def read_checkpoint(row: Any) -> Checkpoint:
    """The checkpoint of a log that holdfast exported, without its weights. Errors: ValueError where it did not."""
    made = _check(_CheckpointRow, row, "checkpoint")
    stages, start = (
        tuple(StageRecord(**{**dict(stage), "objectives": tuple(stage.objectives)}) for stage in stages)
        for stages in (made.stages, made.start)
    )
    return Checkpoint(**{**dict(made), "stages": stages, "start": start, "path": None})


def describe_episode(trajectory: Trajectory) -> dict[str, Any]:
    """What an episode is besides its messages."""
    return {"ending": trajectory.ending.value, **{name: getattr(trajectory, name) for name in _EPISODE}}


def read_episode(row: Any, case: Case, messages: Sequence[Message]) -> Trajectory:
    """An episode that ``describe_episode`` described, without ids. Errors: ValueError."""
    made = _check(_EpisodeRow, row, "episode")
    return Trajectory(
        id="",
        case_id=case.id,
        checkpoint_id="",
        messages=tuple(messages[len(case.messages) :]),
        ending=made.ending,
        world_before=case.state if made.world_after is not None else None,
        **{name: getattr(made, name) for name in _EPISODE},
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
    """The score that ``to_score`` was given, or None where another scorer gave it. Errors: ValueError."""
    row = score.metadata or {}
    if not set(_JUDGED) <= set(row):
        return None
    made = _check(_ScoreRow, {name: row[name] for name in _JUDGED}, "score")
    if made.missing is not None:
        reply = (score.explanation or "").partition("\n\n")[2] or None
        return Score(trajectory_id=trajectory_id, value=None, reply=reply, **dict(made))
    value: Any = score.value
    if not (type(value) in (int, float) and 0.0 <= value <= TOP):
        raise ValueError(f"a score of {made.judge} is {describe(value)}, which is none from 0 to 3")
    reply = None if score.explanation == made.label else score.explanation
    return Score(trajectory_id=trajectory_id, value=float(value), reply=reply, **dict(made))
