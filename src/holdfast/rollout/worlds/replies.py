"""The world of a user's own cases: tools with one fixed reply each, tools that a model plays, or none at all.

A case's ``state`` says which: with ``replies`` (tool name → text) every call that the tool's schema allows gets that
text, whatever its arguments; with ``tools`` it is that of the emulated world; else there are no tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.records import JSON, Case, ToolCall
from holdfast.rollout.worlds import Answer, Session, SilentSession
from holdfast.rollout.worlds.emulated import EmulatedWorld
from holdfast.rollout.worlds.schemas import refuse_call


class RepliesSession:
    """One episode in which every tool has a fixed reply."""

    def __init__(self, case: Case) -> None:
        self._tools = {tool.name: tool.parameters for tool in case.tools}
        self._replies: JSON = case.state["replies"]
        self._calls: list[dict[str, Any]] = []

    def answer(self, call: ToolCall) -> Answer:
        """Returns the tool's reply; an unknown tool or arguments that its schema does not allow are invalid."""
        told = refuse_call(self._tools, call)
        if told is not None:
            return Answer(text=told, valid=False)
        self._calls.append({"tool": call.name, "arguments": call.arguments})
        return Answer(text=str(self._replies[call.name]), valid=True)

    def snapshot(self) -> JSON:
        """Returns ``calls``, each with tool and arguments."""
        return {"calls": [dict(call) for call in self._calls]}


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesWorld:
    """Answers the calls of own cases; ``temperature`` and ``max_tokens`` are those of a model that plays tools."""

    temperature: float = 0.0
    max_tokens: int = 2048

    def start(
        self, case: Case, *, rng: np.random.Generator | None = None, replicate: tuple[int, ...] = (0,)
    ) -> Session:
        """Returns a fresh session of the case, of the kind that its state asks for."""
        if not case.tools:
            return SilentSession()
        if "replies" in case.state:
            return RepliesSession(case)
        played = EmulatedWorld(mode="standard", temperature=self.temperature, max_tokens=self.max_tokens)
        return played.start(case, rng=rng, replicate=replicate)
