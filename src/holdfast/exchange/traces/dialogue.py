"""What a trace is, whatever wrote it: requests to a model, put together to conversations with an agent.

Readers of all shapes put them into an ``Intake``, which counts what could not be read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from holdfast.exchange.traces.records import BadRecord
from holdfast.records import Ending, Role, ToolCall, ToolSpec

LEFT_OUT, UNREAD, SERVED = "left_out", "unread", "served"
"""Keys of a message's detail: kinds of data that are no text, of what could not be read, and calls of the provider."""
UNTOLD = {"result": "not told"}
"""The detail of an answer that its provider does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message as it was logged. ``answers`` is the id of the call that a tool's answer belongs to.

    ``served`` are the places in ``calls`` of those that the provider carried out itself.
    """

    role: Role
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    answers: str | None = None
    name: str | None = None
    served: tuple[int, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One request to a model with its reply, or a whole conversation that was recorded at once.

    ``replies`` are the choices, of which the first is the reply; ``given`` is everything before. ``unit`` is the trace
    that the request belongs to and ``span`` its id in it, ``conversation`` what its source calls its conversation,
    ``session`` an id that may hold several conversations, and ``names`` are ids for this request, the best first.
    ``follows`` is the id of the request whose reply it goes on from, where it does not repeat what was said.
    ``start`` is in ns. ``outer`` says that an agent's own span told it: the requests to its model tell the same.
    """

    place: str
    source: str
    given: list[Said]
    replies: list[list[Said]]
    unit: str | None = None
    span: str = ""
    conversation: str | None = None
    session: str | None = None
    follows: str | None = None
    names: tuple[str, ...] = ()
    start: int | None = None
    time: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    family: str | None = None
    agent: str | None = None
    tokens: int | None = None
    reason: str | None = None
    failed: bool = False
    outer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """One execution of a tool as its own span tells it; what is not told is empty, the result None."""

    unit: str
    start: int
    call: str = ""
    name: str = ""
    arguments: Any = None
    result: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One conversation. ``id`` is what its source calls it, ``said`` everything from its opening on.

    ``dialogues`` counts the separate conversations of one trace: the calls of all of them stand in ``said``. ``broken``
    says why it cannot be read as a whole: such a conversation is incoherent.
    """

    id: str
    source: str
    said: tuple[Said, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    family: str | None = None
    time: str | None = None
    tokens: int | None = None
    ending: Ending = Ending.FINISHED
    dialogues: int = 1
    broken: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speechless:
    """A span of a request to a model whose messages could not be read; ``shape`` says what it has instead.

    An ``outer`` one is of an agent, whose requests may be told by others.
    """

    unit: str
    span: str
    shape: str
    outer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something of a file that could not be read: a row, or a line that may have held several.

    ``lines`` is how many rows a lost line may have held, 0 for a row; ``unit`` is the trace that a row belongs to,
    where that is known. ``silent`` says that it was read, but that no agent says anything in it.
    """

    error: BadRecord
    lines: float = 0.0
    unit: str | None = None
    silent: bool = False


@dataclass(slots=True)
class Intake:
    """Requests, tools' executions and what was left out, of any number of files.

    ``rows`` counts spans, log records and chat records that were met, ``flaws`` attributes and keys beside messages
    that were left out for what stood in them.
    """

    strict: bool = False
    exchanges: list[Exchange] = field(default_factory=list)
    runs: list[ToolRun] = field(default_factory=list)
    speechless: list[Speechless] = field(default_factory=list)
    parents: dict[tuple[str, str], str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    rows: int = 0
    flaws: Counter[str] = field(default_factory=Counter)

    def lose(self, error: BadRecord, *, lines: float = 0.0, unit: str | None = None, silent: bool = False) -> None:
        """Count what cannot be read. Errors: the error itself if ``strict``."""
        if self.strict:
            raise error
        self.lost.append(Lost(error=error, lines=lines, unit=unit, silent=silent))

    def above(self, unit: str, span: str) -> list[str]:
        """The spans around a span of a trace, the nearest first."""
        found: list[str] = []
        while (span := self.parents.get((unit, span), "")) and span not in found:
            found.append(span)
        return found
