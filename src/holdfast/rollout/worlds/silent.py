"""A world without tools: whatever is called, there is no such tool, and nothing changes."""

from __future__ import annotations

import numpy as np

from holdfast.records import JSON, Case, ToolCall
from holdfast.rollout.worlds import Answer

NO_TOOL = "there are no tools here"


class SilentSession:
    """One episode in which every call is refused."""

    __slots__ = ()

    def answer(self, call: ToolCall) -> Answer:
        """Returns the refusal; no call is valid."""
        return Answer(text=NO_TOOL, valid=False)

    def snapshot(self) -> JSON:
        """Returns the empty state."""
        return {}


class SilentWorld:
    """Where single-turn questions are asked."""

    def start(
        self, case: Case, *, rng: np.random.Generator | None = None, replicate: tuple[int, ...] = (0,)
    ) -> SilentSession:
        """Returns a session; all are alike."""
        return SilentSession()
