"""A model that answers by a script, and a judge that gives fixed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.models import Ask, Conversation, Reply
from holdfast.records import Case, Message, Score, ToolCall, Trajectory, content_id

Script = Callable[[Conversation], Message | ToolCall | str | None]


def as_message(said: Message | ToolCall | str) -> Message:
    """What an agent says: a text or a call alone as its message."""
    if isinstance(said, ToolCall):
        return Message(role="assistant", content="", tool_calls=(said,))
    return Message(role="assistant", content=said) if isinstance(said, str) else said


def script_reply(said: Message | ToolCall | str | None) -> Reply:
    """A reply that says a text, makes a call, or (None) cannot be read."""
    if said is None:
        return Reply(message=None, stopped="incoherent", tokens=1, logprob=0.0, raw="")
    message = as_message(said)
    return Reply(message=message, stopped="stop", tokens=1, logprob=0.0, raw=message.content)


@dataclass(slots=True)
class ScriptedModel:
    """A model that answers by a function of the conversation, and remembers what it was asked."""

    script: Script
    asked: list[Conversation] = field(default_factory=list)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """The script's reply to each conversation."""
        self.asked += [ask.conversation for ask in asks]
        return [script_reply(self.script(ask.conversation)) for ask in asks]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedJudge:
    """A judge that gives the values that it was made with; an objective with None is missing, ``reason`` says why."""

    values: Mapping[str, float | None]
    name: str = "fixed"
    reason: str = "fixed"

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that it gives values for."""
        return tuple(self.values)

    @property
    def rubric(self) -> str:
        """An id of its values."""
        return content_id("fixed", dict(self.values))

    def rubric_of(self, objective: str) -> str:
        """The id of its values, one for all objectives."""
        return self.rubric

    def judge(self, case: Case, trajectory: Trajectory) -> tuple[Score, ...]:
        """One score per objective."""
        return tuple(
            Score(
                trajectory_id=trajectory.id,
                judge=self.name,
                objective=objective,
                value=value,
                missing=self.reason if value is None else None,
                rubric=self.rubric,
            )
            for objective, value in self.values.items()
        )
