"""Conversations as Inspect AI's messages, and what a provider answered as a reply.

Ask ─ chat_input ─▶ (Inspect) ─▶ ModelOutput ─ read_output ─▶ Answer, kept as JSON ─ make_reply ─▶ Reply
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ModelOutput,
    ModelUsage,
    ResponseSchema,
)
from inspect_ai.tool import ToolCall as InspectCall
from inspect_ai.tool import ToolInfo, ToolParams
from inspect_ai.util import JSONSchema

from holdfast.models import Reply, SampledToken, Stopped, find_answered
from holdfast.models.calls.native import read_reply
from holdfast.models.calls.spelled import spells_call
from holdfast.models.calls.structured import clean
from holdfast.models.calls.values import keep_arguments
from holdfast.records import JSON, Message, ToolCall, ToolSpec

TOP_LOGPROBS = 20
"""The most alternatives a token that providers give."""

BYTES_PER_TOKEN = 4
"""What a token is taken for where a server does not say how many it used."""

MOST_TOKENS = 2**53 - 1
"""The most that a count of tokens is taken for: larger ones are not exact as numbers of JSON and of SQLite."""

FILTERED = "content_filter"
_STOPPED: Mapping[str, Stopped] = {"max_tokens": "length", "model_length": "context"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider answered, as the ledger keeps it; ``stop`` is Inspect's reason, ``served`` the model named.

    ``native`` says whether calls were asked for as calls or as text. ``calls`` are (name, arguments, id); ``sampled``
    are (token, log-probability, alternatives).
    """

    text: str
    calls: Sequence[tuple[str, Any, str]] = ()
    stop: str
    served: str
    native: bool
    input_tokens: int = 0
    output_tokens: int = 0
    sampled: Sequence[tuple[str, float, Mapping[str, float]]] | None = None


class Garbage(Exception):
    """What came back is no reply."""


# --- to Inspect --------------------------------------------------------------------------------------------------


def chat_input(messages: Sequence[Message]) -> list[ChatMessage]:
    """The messages as Inspect's; every result carries the id of the call that it answers, in their order."""
    made: list[ChatMessage] = []
    waiting: list[ToolCall] = []
    for place, message in enumerate(messages):
        if message.role == "system":
            made.append(ChatMessageSystem(content=message.content))
        elif message.role == "user":
            made.append(ChatMessageUser(content=message.content))
        elif message.role == "assistant":
            waiting = _with_ids(message.tool_calls, place)
            calls = [InspectCall(id=call.id, function=call.name, arguments=dict(call.arguments)) for call in waiting]
            made.append(ChatMessageAssistant(content=message.content, tool_calls=calls or None))
        else:
            unknown = ToolCall(name=message.name or "", arguments={}, id=f"call_{place}")
            called = [call.name for call in waiting]
            call = waiting.pop(find_answered(called, message.name)) if waiting else unknown
            made.append(ChatMessageTool(content=message.content, tool_call_id=call.id, function=call.name))
    return made


def _with_ids(calls: Sequence[ToolCall], place: int) -> list[ToolCall]:
    own = [f"call_{place}_{number}" for number in range(len(calls))]
    ids = [call.id or other for call, other in zip(calls, own, strict=True)]
    ids = own if len(set(ids)) < len(ids) else ids
    return [replace(call, id=identity) for call, identity in zip(calls, ids, strict=True)]


def tool_infos(tools: Sequence[ToolSpec]) -> list[ToolInfo]:
    """The tools as Inspect describes them to providers."""
    told = ((tool, ToolParams.model_validate({"type": "object", **tool.parameters})) for tool in tools)
    return [ToolInfo(name=tool.name, description=tool.description, parameters=given) for tool, given in told]


def response_schema(schema: JSON) -> ResponseSchema:
    """The schema of a reply's text, which servers that can are to enforce."""
    strict = schema.get("type") == "object" and _is_closed(schema)
    return ResponseSchema(name="reply", json_schema=JSONSchema.model_validate(dict(schema)), strict=strict)


def _is_closed(schema: JSON) -> bool:
    """Whether every object in a schema says all that it holds, which providers ask of one that is held strictly."""
    kinds = schema.get("type")
    is_object = "object" in (kinds if isinstance(kinds, list) else [kinds])
    if is_object and schema.get("additionalProperties") is not False:
        return False
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    items = schema.get("items")
    return items != {} and all(map(_is_closed, inner if items is None else [*inner, items]))


# --- from Inspect ------------------------------------------------------------------------------------------------


def read_output(output: ModelOutput, *, native: bool, sent_bytes: int) -> Answer:
    """What the provider answered. Errors: Garbage where that is no single reply."""
    if output.error:
        raise Garbage(output.error)
    if len(output.choices) != 1:
        raise Garbage(f"{len(output.choices)} choices where one was asked for")
    choice = output.choices[0]
    text = clean(choice.message.text)
    usage = output.usage
    if usage is None and choice.stop_reason in (FILTERED, "model_length"):
        # The request was turned down: the text is the server's message, not the model's.
        text, input_tokens, output_tokens = "", 0, 0
    else:
        input_tokens, output_tokens = _count_tokens(usage, sent_bytes, len(text.encode()))
    return Answer(
        text=text,
        calls=[
            (clean(call.function), _read_arguments(call), clean(call.id)) for call in choice.message.tool_calls or ()
        ],
        stop=choice.stop_reason,
        served=clean(output.model),
        native=native,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        sampled=_read_sampled(choice.logprobs),
    )


def _count_tokens(usage: ModelUsage | None, sent_bytes: int, said_bytes: int) -> tuple[int, int]:
    """Tokens read, those of a cache too, and written, of which none is below 0 or beyond ``MOST_TOKENS``.

    What a server says that is no count is taken for the bytes of what was sent and said: a bill of less than nothing
    would stand against what was spent. The counts of what was read are made of each other: one that is none spoils all.
    """
    read, written = [-(-sent_bytes // BYTES_PER_TOKEN)], -(-said_bytes // BYTES_PER_TOKEN)
    if usage is not None:
        told = [usage.input_tokens, usage.input_tokens_cache_read or 0, usage.input_tokens_cache_write or 0]
        read = told if all(map(_is_count, told)) else read
        written = usage.output_tokens if _is_count(usage.output_tokens) else written
    return min(sum(map(int, read)), MOST_TOKENS), min(int(written), MOST_TOKENS)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _read_arguments(call: InspectCall) -> Any:
    if call.parse_error is not None:
        # Inspect leaves the text of unreadable arguments in the error alone.
        told = call.parse_error.partition("\n\n")[2] or call.parse_error
        return {"_raw": clean(told.rpartition("\n\nError details: ")[0] or told)}
    # What JSON cannot hold (NaN, Infinity) would come back from the ledger as something else.
    return keep_arguments(call.arguments)


def _read_sampled(logprobs: Any) -> list[tuple[str, float, dict[str, float]]] | None:
    """The tokens, or None where any of their numbers is none: half a distribution would make a wrong score."""
    if logprobs is None or not logprobs.content:
        return None
    sampled = []
    for token in logprobs.content:
        top = {clean(one.token): float(one.logprob) for one in token.top_logprobs or ()}
        if not all(math.isfinite(value) and value <= 0 for value in (token.logprob, *top.values())):
            return None
        sampled.append((clean(token.token), float(token.logprob), top))
    return sampled


def make_reply(answer: Answer, tools: Sequence[ToolSpec], made: Sequence[ToolCall] = ()) -> Reply:
    """The reply that an answer is, the text format of calls read.

    A call that the server's parser left in the text was never handed over, and one that came unasked has no place in
    the text format: either makes the reply incoherent. ``made`` are the calls of the conversation so far.
    """
    stopped, message = _STOPPED.get(answer.stop, "stop"), None
    calls = tuple(ToolCall(name=name, arguments=arguments, id=identity) for name, arguments, identity in answer.calls)
    if stopped == "stop":
        lost = not calls and answer.stop == "tool_calls"
        if not answer.native:
            message = None if calls else read_reply(answer.text, tools, made)
        elif not tools or not (lost or spells_call(answer.text, tools, [*made, *calls])):
            message = Message(role="assistant", content=answer.text, tool_calls=calls)
        stopped = "incoherent" if message is None else "stop"
    sampled = None
    if answer.sampled is not None:
        sampled = tuple(SampledToken(text=text, logprob=value, top=top) for text, value, top in answer.sampled)
    return Reply(
        message=message,
        stopped=stopped,
        tokens=answer.output_tokens,
        logprob=None if sampled is None else math.fsum(token.logprob for token in sampled),
        raw=answer.text,
        sampled=sampled,
    )
