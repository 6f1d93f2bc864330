"""What a trace is, whatever wrote it: a conversation with an agent, its tools, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.exchange.traces.records import clean, refuse_record, to_arguments, to_text
from holdfast.records import Ending, Message, Role, ToolCall, ToolSpec

ROLES: dict[str, Role] = {
    **{"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant"},
    **{"model": "assistant", "ai": "assistant", "tool": "tool", "function": "tool"},
}
CUT_REASONS = frozenset(
    {"length", "max_tokens", "max_output_tokens", "content_filter", "model_context_window_exceeded"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message as it was logged. ``answers`` is the id of the call that a tool's answer belongs to."""

    role: Role
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    answers: str | None = None
    name: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def same(self, other: Said) -> bool:
        """Whether both say the same, whatever stands beside."""
        mine = (self.role, self.text.strip(), [(call.name, call.arguments) for call in self.calls])
        return mine == (other.role, other.text.strip(), [(call.name, call.arguments) for call in other.calls])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One conversation. ``id`` is what its source calls it, ``said`` everything from its opening on.

    ``dialogues`` counts the separate conversations of one trace, of which the longest is kept.
    """

    id: str
    place: str
    source: str
    said: tuple[Said, ...]
    tools: tuple[ToolSpec, ...] = ()
    model: str | None = None
    family: str | None = None
    time: str | None = None
    tokens: int | None = None
    ending: Ending = Ending.FINISHED
    dialogues: int = 1


def read_role(place: str, value: Any) -> Role:
    """Our role. Errors: BadRecord."""
    found = ROLES.get(value) if isinstance(value, str) else None
    if found is None:
        refuse_record(place, f"a message of an unknown role; known are {', '.join(ROLES)}")
    return found


def make_call(name: Any, arguments: Any, identity: Any) -> ToolCall:
    """A call; arguments that are no JSON object stand under ``_raw``."""
    return ToolCall(name=to_text(name), arguments=to_arguments(arguments), id=to_text(identity))


def read_tools(definitions: Any) -> tuple[ToolSpec, ...]:
    """Tools as OpenAI or OpenTelemetry write them; what has no name is left out."""
    found = []
    for one in definitions if isinstance(definitions, list) else ():
        inner = one.get("function", one) if isinstance(one, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            parameters = to_arguments(inner.get("parameters"))
            found.append(
                ToolSpec(
                    name=clean(inner["name"]),
                    description=to_text(inner.get("description")),
                    parameters=parameters if "_raw" not in parameters else {},
                )
            )
    return tuple(found)


def arrange(said: Sequence[Said]) -> tuple[Message, ...]:
    """Our messages: tools' answers in the order of the calls of their turn, under the tools' names."""
    made: list[Message] = []
    names: dict[str, str] = {}
    order: dict[str, int] = {}
    waiting: list[Said] = []

    def flush() -> None:
        waiting.sort(key=lambda one: order.get(one.answers or "", len(order)))
        made.extend(_message(replace(one, name=one.name or names.get(one.answers or ""))) for one in waiting)
        waiting.clear()

    for one in said:
        if one.role == "tool":
            waiting.append(one)
            continue
        flush()
        if one.role == "assistant":
            order = {call.id: place for place, call in enumerate(one.calls) if call.id}
            names |= {call.id: call.name for call in one.calls if call.id}
        made.append(_message(one))
    flush()
    return tuple(made)


def _message(one: Said) -> Message:
    return Message(
        role=one.role,
        content=one.text,
        tool_calls=one.calls,
        name=one.name if one.role == "tool" else None,
        detail=one.detail or None,
    )


def find_ending(said: Sequence[Said], reason: str | None, failed: bool = False) -> Ending:
    """How a conversation ended: ``reason`` is why the model stopped last, ``failed`` that the last request broke.

    One that ends with a call that nobody answered was cut off.
    """
    if failed:
        return Ending.ERROR
    if reason in CUT_REASONS or (said and said[-1].role != "assistant"):
        return Ending.TRUNCATED
    return Ending.TRUNCATED if said and said[-1].calls else Ending.FINISHED
