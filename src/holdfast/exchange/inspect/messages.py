"""Messages, tool calls and tools ↔ Inspect's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from inspect_ai.model import ChatMessage
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolInfo

from holdfast.models.inspect_chat import chat_input
from holdfast.records import Message, ToolCall, ToolSpec

DETAIL = "detail"
# Inspect links results to calls by id; this names the calls of a message whose ids were made for the log.
_IDS_MADE = "ids_made"
_RAW = "_raw"


def to_inspect(messages: Sequence[Message]) -> list[ChatMessage]:
    """Inspect's messages, every tool message linked to the call that it answers; ``detail`` is metadata."""
    made = chat_input(messages)
    for theirs, ours in zip(made, messages, strict=True):
        notes: dict[str, Any] = {} if ours.detail is None else {DETAIL: dict(ours.detail)}
        if made_up := [number for number, call in enumerate(ours.tool_calls) if not call.id]:
            notes[_IDS_MADE] = made_up
        theirs.metadata = notes or None
    return made


def from_inspect(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Our messages, tool results in the order of their calls.

    Text stays as the agent saw it: a failed call's error stands in place of its result. Reasoning goes into a
    message's ``detail``, which also names content of other kinds.
    """
    return tuple(_from_inspect(message) for message in _in_call_order(messages))


def _in_call_order(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Results that arrived in another order than the calls of their turn, put into that order."""
    order: dict[str, int] = {}
    results: list[ChatMessage] = []
    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        yield from sorted(results, key=lambda one: order.get(one.tool_call_id or "", len(order)))
        results = []
        if message.role == "assistant":
            order = {call.id: place for place, call in enumerate(message.tool_calls or ())}
        yield message
    yield from sorted(results, key=lambda one: order.get(one.tool_call_id or "", len(order)))


def _from_inspect(message: ChatMessage) -> Message:
    detail: dict[str, Any] = dict((message.metadata or {}).get(DETAIL) or {})
    if not isinstance(message.content, str):
        reasoning = [part.reasoning for part in message.content if part.type == "reasoning"]
        others = [part.type for part in message.content if part.type not in ("text", "reasoning")]
        detail |= {"reasoning": "\n".join(reasoning)} if reasoning else {}
        detail |= {"left_out": others} if others else {}
    text, name = message.text, None
    calls: tuple[ToolCall, ...] = ()
    if message.role == "tool":
        name = clean(message.function) if message.function else None
        if message.error is not None:
            text = message.error.message or text
            detail["error"] = message.error.type
    elif message.role == "assistant":
        made_up = (message.metadata or {}).get(_IDS_MADE) or ()
        calls = tuple(
            _read_call(call, "" if number in made_up else call.id)
            for number, call in enumerate(message.tool_calls or ())
        )
    return Message(
        role=message.role, content=clean(text), tool_calls=calls, name=name, detail=storable(detail) if detail else None
    )


def _read_call(call: InspectCall, identity: str) -> ToolCall:
    """Our tool call; arguments that could not be read stand under ``_raw``, for the world to refuse."""
    unreadable = call.parse_error is not None and _RAW not in call.arguments
    arguments = {**call.arguments, _RAW: call.parse_error} if unreadable else call.arguments
    return ToolCall(name=clean(call.function), arguments=storable(arguments), id=clean(identity))


def from_tool_info(tools: Iterable[ToolInfo]) -> tuple[ToolSpec, ...]:
    """Our tools."""
    return tuple(
        ToolSpec(
            name=clean(tool.name),
            description=clean(tool.description),
            parameters=storable(tool.parameters.model_dump(mode="json", by_alias=True, exclude_none=True)),
        )
        for tool in tools
    )


def clean(text: str) -> str:
    """The text, with half surrogate pairs, which cannot be stored, replaced."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def storable(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value where the store gives it back as it is; else its text under ``_raw`` (NaN, a long integer)."""
    try:
        kept: Any = orjson.loads(orjson.dumps(value))
    except TypeError:
        kept = None
    return kept if kept == value else {_RAW: clean(repr(value))}
