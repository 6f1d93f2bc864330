"""What was asked and what was done: cases, messages, trajectories, scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

JSON = Mapping[str, Any]
SCALE_ROUNDING = 1e-9  # of a declared range: sums of shares miss its ends by so much
Role = Literal["system", "user", "assistant", "tool"]


def content_id(*parts: object) -> str:
    """A 32-digit id of JSON-able parts: the same parts give the same id everywhere."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=list)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as it is shown to an agent; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that an agent made. ``arguments`` that were no JSON object stand under the key ``_raw``."""

    name: str
    arguments: JSON
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message. A tool's answer has role ``tool`` and the tool's name.

    ``detail`` holds what the agent never saw, such as an emulator's reasoning behind an answer.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    detail: JSON | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test case.

    ``messages`` open the conversation; ``state`` is the world's initial state, hidden parts included;
    ``facts`` says what is true of the case for judges and splits (family, hazard, objects, twin).
    ``number`` is unique within the suite.
    """

    id: str
    suite: str
    number: int
    family: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    state: JSON = field(default_factory=dict)
    facts: JSON = field(default_factory=dict)


class Ending(str, Enum):
    """How an episode ended."""

    FINISHED = "finished"
    TRUNCATED = "truncated"  # a reply was cut off at its limit, or the conversation outgrew the model
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    INCOHERENT = "incoherent"  # the agent's reply could not be read as a message or a call
    ERROR = "error"  # the infrastructure failed: never scored


CUT_OFF = frozenset({Ending.TRUNCATED, Ending.TURN_LIMIT, Ending.TOKEN_LIMIT, Ending.TIME_LIMIT})
"""The endings at a limit, of whatever kind: how the episode would have gone on is not known."""


class Flag(str, Enum):
    """What the audit found in a trajectory. ``holdfast.rollout.audit`` says which of them make it unfit."""

    INVENTED_RESULT = "invented_result"  # the last message holds a call and its result, both written by the agent
    INVENTED_MIDWAY = "invented_midway"  # the same in an earlier message
    NO_CALL = "no_call"  # no tool was ever executed
    CLAIMED_WITHOUT_CALL = "claimed_without_call"  # no tool was executed although the agent wrote calls
    TRUNCATED = "truncated"
    OUT_OF_MEMORY = "out_of_memory"
    LOOP = "loop"
    NOTHING_DONE = "nothing_done"
    INVALID_CALL = "invalid_call"  # at least one call was refused by the world as malformed
    INCOHERENT = "incoherent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What one agent did in one case: the messages after the case's own, and the world before and after.

    ``calls`` counts tool calls that the world executed, ``invalid_calls`` those that it refused as
    malformed, ``tokens`` the agent's own tokens (None where unknown).
    """

    id: str
    case_id: str
    checkpoint_id: str
    rollout: int
    messages: tuple[Message, ...]
    ending: Ending
    flags: tuple[Flag, ...] = ()
    world_before: JSON | None = None
    world_after: JSON | None = None
    calls: int = 0
    invalid_calls: int = 0
    tokens: int | None = None
    detail: JSON | None = None

    def without_texts(self) -> Trajectory:
        """The trajectory without what a store keeps as its text: messages and worlds."""
        return replace(self, messages=(), world_before=None, world_after=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A judge's reading of a trajectory: ``value`` in 0..3, or the reason that it is ``missing``.

    Exactly one of the two is None. ``rubric`` identifies prompt, schema and parser; scores under
    different rubrics are never pooled.
    """

    trajectory_id: str
    judge: str
    objective: str
    value: float | None
    missing: str | None = None
    label: str | None = None
    reply: str | None = None
    rubric: str = ""
    repeat: int = 0

    def __post_init__(self) -> None:
        if (self.value is None) == (self.missing is None):
            raise ValueError("a score has either a value or the reason that it is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What the values of a scorer from elsewhere mean, as its source or the user says it; nothing of it is guessed.

    ``key`` is the name of the value in the log (the scorer's own, or a key where it gives several), ``scorer`` and
    ``task`` limit it to one scorer or task, None to none. Values lie between ``low`` and ``high`` in the scorer's own
    unit, and ``sign`` is 1 where the high end is good, -1 where it is bad. ``severe`` is the value from which on,
    towards the bad end, an episode is a severe event; None where nobody says, so that severe events cannot be counted.
    ``source`` says who declared it.
    """

    objective: str
    key: str
    sign: Literal[1, -1]
    low: float
    high: float
    scorer: str | None = None
    task: str | None = None
    severe: float | None = None
    unit: str = ""
    source: str = ""

    def to_points(self, value: float) -> float:
        """A value between ``low`` and ``high`` on our scale: 0 worst, 3 best. Errors: ValueError for any other.

        What a sum of shares is beyond an end by rounding is that end: ten times 0.1 and one over is still 1.
        """
        slack = SCALE_ROUNDING * (self.high - self.low)
        if not self.low - slack <= value <= self.high + slack:
            raise ValueError(f"{value:.15g} lies outside [{self.low:.15g}, {self.high:.15g}]")
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return 3.0 * (share if self.sign > 0 else 1.0 - share)
