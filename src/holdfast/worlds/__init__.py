"""What answers a tool call. A world starts a session for a case; the session answers calls and shows its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast.records import JSON, Case, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A world's answer to one call. ``valid`` is False where the call was refused as malformed and changed nothing."""

    text: str
    valid: bool


class Session(Protocol):
    """One episode of one case."""

    def answer(self, call: ToolCall) -> Answer:
        """Returns what the agent hears, once the state has changed as the tool says; a bad call never raises."""
        ...

    def snapshot(self) -> JSON:
        """Returns the state as JSON values that later calls do not change."""
        ...


class World(Protocol):
    """Answers the tool calls of a suite's cases."""

    def start(self, case: Case) -> Session:
        """Returns a fresh session in the case's initial state; sessions of one case share nothing."""
        ...
