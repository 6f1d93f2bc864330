"""What a trace is, whatever wrote it: requests to a model, put together to conversations with an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
