"""What answers a tool call. A world starts a session for a case; the session answers calls and shows its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from holdfast.records import JSON, Case, Message, ToolCall
from holdfast.rollout.dialogues import Dialogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A world's answer to one call. ``valid`` is False where the call was refused as malformed and changed nothing.

    ``detail`` is what stands behind the text and the agent never sees.
    """

    text: str
    valid: bool
    detail: JSON | None = None


class Session(Protocol):
    """One episode of one case."""

    def answer(self, call: ToolCall) -> Answer | Dialogue[Answer]:
        """Returns what the agent hears, once the state has changed as the tool says; a bad call never raises.

        Where a model plays the tools, a dialogue with it that ends in the answer. Errors: ProviderError.
        """
        ...

    def snapshot(self) -> JSON:
        """Returns the state as JSON values that later calls do not change."""
        ...


@runtime_checkable
class Conversing(Session, Protocol):
    """A session with a user who may go on talking."""

    def hear(self, message: Message) -> str | None:
        """Returns what the user says to a message that would close the episode, or None: it ends."""
        ...


class World(Protocol):
    """Answers the tool calls of a suite's cases."""

    def start(
        self, case: Case, *, rng: np.random.Generator | None = None, replicate: tuple[int, ...] = (0,)
    ) -> Session:
        """Returns a fresh session in the case's initial state; sessions of one case share nothing.

        ``rng`` and ``replicate`` are those of its requests where a model plays the tools.
        """
        ...


NO_TOOL = "there are no tools here"


class SilentSession:
    """One episode in which every call is refused, whatever is called, and nothing changes."""

    def answer(self, call: ToolCall) -> Answer:
        """Returns the refusal; no call is valid."""
        return Answer(text=NO_TOOL, valid=False)

    def snapshot(self) -> JSON:
        """Returns the empty state."""
        return {}


class SilentWorld:
    """A world without tools, where single-turn questions are asked."""

    def start(
        self, case: Case, *, rng: np.random.Generator | None = None, replicate: tuple[int, ...] = (0,)
    ) -> SilentSession:
        """Returns a session; all are alike."""
        return SilentSession()
