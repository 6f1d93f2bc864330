"""Messages, tool calls and tools ↔ Inspect's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import orjson
from inspect_ai.model import ChatMessage, ChatMessageAssistant, Content, ContentToolUse
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolInfo

from holdfast.models.calls.structured import clean, read_arguments
from holdfast.models.remote.inspect_chat import chat_input
from holdfast.records import Message, ToolCall, ToolSpec

DETAIL = "detail"
LEFT_OUT, UNREAD = "left_out", "unread"
# Inspect's notes of a provider's compaction and of a model that stepped in for another.
_KNOWN_DATA = frozenset({"compaction_metadata", "fallback_metadata"})
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
    message's ``detail``, which also names content of other kinds: ``left_out`` what an agent shows or is shown, and
    ``unread`` what may be a call. A tool that the provider itself ran is a call with its result, in its place in what
    the agent wrote.
    """
    return tuple(made for message in _in_call_order(messages) for made in _from_inspect(message))


def _in_call_order(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Results that arrived in another order than the calls of their turn, put into that order."""
    calls: list[str] = []
    for are_results, group in groupby(messages, key=lambda one: one.role == "tool"):
        if are_results:
            order = {call: place for place, call in enumerate(calls)}
            yield from sorted(group, key=lambda one: order.get(one.tool_call_id or "", len(order)))
            continue
        for message in group:
            calls = [call.id for call in message.tool_calls or ()] if message.role == "assistant" else calls
            yield message


def _from_inspect(message: ChatMessage) -> Iterator[Message]:
    noted = (message.metadata or {}).get(DETAIL)
    detail: dict[str, Any] = dict(noted) if isinstance(noted, Mapping) else {}
    if message.role == "assistant":
        yield from _from_assistant(message, detail)
        return
    if not isinstance(message.content, str):
        others = [part.type for part in message.content if part.type not in ("text", "reasoning")]
        detail |= {LEFT_OUT: others} if others else {}
    text, name = message.text, None
    if message.role == "tool":
        name = clean(message.function) if message.function else None
        if message.error is not None:
            text = message.error.message or text
            detail["error"] = message.error.type
    yield Message(role=message.role, content=clean(text), name=name, detail=storable(detail) if detail else None)


def _from_assistant(message: ChatMessageAssistant, detail: Mapping[str, Any]) -> Iterator[Message]:
    """An agent's message, cut after each tool that its provider ran so that the result follows its call."""
    made_up = (message.metadata or {}).get(_IDS_MADE) or ()
    given = enumerate(message.tool_calls or ())
    calls = [_read_call(call, "" if number in made_up else call.id) for number, call in given]
    if isinstance(message.content, str):
        yield _said(message.content, calls, detail)
        return
    parts: list[Content] = []
    for are_served, group in groupby(message.content, key=lambda part: part.type == "tool_use"):
        held = list(group)
        if are_served:
            yield from _served(parts, held, detail)
        parts = [] if are_served else held
    if parts or calls or not message.content:
        yield _said(parts, calls, detail)


def _served(parts: Sequence[Content], served: Sequence[ContentToolUse], detail: Mapping[str, Any]) -> Iterator[Message]:
    """What an agent said, the tools that its provider ran then, and what they gave."""
    calls = [
        ToolCall(name=clean(one.name), arguments=read_arguments(one.arguments), id=clean(one.id)) for one in served
    ]
    yield _said(parts, calls, detail, served=[one.tool_type for one in served])
    for one in served:
        failed = {"error": clean(one.error)} if one.error else None
        yield Message(role="tool", content=clean(one.error or one.result), name=clean(one.name), detail=failed)


def _said(
    content: str | Sequence[Content], calls: Sequence[ToolCall], detail: Mapping[str, Any], **notes: Any
) -> Message:
    """An agent's message; its parts make the text that Inspect's own ``text`` makes of them."""
    text = content if isinstance(content, str) else ChatMessageAssistant(content=list(content)).text
    found = {**detail, **({} if isinstance(content, str) else _notes_on(content)), **notes}
    kept = storable(found) if found else None
    return Message(role="assistant", content=clean(text), tool_calls=tuple(calls), detail=kept)


def _notes_on(parts: Sequence[Content]) -> dict[str, Any]:
    """Reasoning, and the kinds of content that are no text: what is shown, and what may be a call."""
    notes: dict[str, Any] = {}
    if reasoning := [part.reasoning for part in parts if part.type == "reasoning"]:
        notes["reasoning"] = "\n".join(reasoning)
    others = [part for part in parts if part.type not in ("text", "reasoning")]
    # A provider's own data is known where it is what Inspect notes of it.
    unread = [part for part in others if part.type == "data" and not (part.data and set(part.data) <= _KNOWN_DATA)]
    if left := [part.type for part in others if part not in unread]:
        notes[LEFT_OUT] = left
    if unread:
        kinds = (part.data.get("type") for part in unread)
        notes[UNREAD] = [f"data of type {kind}"[:80] if isinstance(kind, str) else "data" for kind in kinds]
    return notes


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


def storable(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value where the store gives it back as it is; else its text under ``_raw`` (NaN, a long integer)."""
    try:
        kept: Any = orjson.loads(orjson.dumps(value))
    except TypeError:
        kept = None
    return kept if kept == value else {_RAW: clean(repr(value))}
