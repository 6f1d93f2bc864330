"""Tool calls as text: a format for models and servers without calls of their own, and a reader of common native ones.

    <calls>
    {"name": "search", "arguments": {"query": "tea"}}
    </calls>

One block holds one call a line, and generation stops at its end, so what a tool answers is never written by the agent:

    <results>
    <result name="search">...</result>
    </results>

A final answer is text without a call. What could be a call and could be an answer is read as neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from holdfast.models import chat_tools
from holdfast.records import Message, ToolCall, ToolSpec

_OPEN, _CLOSE, _RESULTS, _RESULTS_CLOSE = "<calls>", "</calls>", "<results>", "</results>"
STOP: tuple[str, ...] = (_CLOSE, _RESULTS)
"""Generation stops where the text holds one of these."""

NATIVE_STOP: tuple[str, ...] = ("<tool_response>", "[TOOL_RESULTS]")
"""The same for models that call tools in their template's own format, which ends a call by ending the turn."""

_INSTRUCTIONS = """\
# Tools
You can use the tools below. Each is described by a JSON object: its name, what it does and a JSON schema of its \
arguments.

{specifications}

To use a tool, end your reply with a block in exactly this form, and write nothing after it:

{open}
{{"name": "NAME_OF_THE_TOOL", "arguments": {{"ARGUMENT": "VALUE"}}}}
{close}

A block may hold several calls, one a line; they are carried out in their order. The next message gives you their \
results between {results} and {results_close}; never write results yourself. A reply without such a block is your \
final answer."""


def describe_tools(tools: Sequence[ToolSpec]) -> str:
    """Instructions and specifications for a system message; empty where there are no tools."""
    if not tools:
        return ""
    specifications = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in chat_tools(tools))
    return _INSTRUCTIONS.format(
        specifications=specifications, open=_OPEN, close=_CLOSE, results=_RESULTS, results_close=_RESULTS_CLOSE
    )


# --- conversations as text -------------------------------------------------------------------------------------


def render(messages: Iterable[Message], tools: Sequence[ToolSpec] = ()) -> tuple[Message, ...]:
    """A conversation as plain system, user and assistant messages, the tools described in the system message.

    Results become a user message, all of one turn together; a user's message beside them joins it, since many
    templates want roles to alternate. The rendering of the first messages begins the rendering of all, as long as the
    cut is not between a result and its neighbours.
    """
    out: list[Message] = []
    results_last = False
    for place, message in enumerate(messages):
        if message.role == "system" and place == 0:
            text = "\n\n".join(filter(None, (message.content, describe_tools(tools))))
            out.append(Message(role="system", content=text))
            continue
        if not out and tools:
            out.append(Message(role="system", content=describe_tools(tools)))
        if message.role == "tool":
            shown = _render_result(message)
            if results_last and out[-1].content.endswith(_RESULTS_CLOSE):
                _replace_last(out, f"{out[-1].content.removesuffix(_RESULTS_CLOSE)}{shown}\n{_RESULTS_CLOSE}")
                continue
            text = f"{_RESULTS}\n{shown}\n{_RESULTS_CLOSE}"
            if out and out[-1].role == "user":
                _replace_last(out, f"{out[-1].content}\n\n{text}")
            else:
                out.append(Message(role="user", content=text))
            results_last = True
        elif message.role == "user" and results_last:
            _replace_last(out, f"{out[-1].content}\n\n{message.content}")
        else:
            text = _render_calls(message) if message.tool_calls else message.content
            out.append(Message(role=message.role, content=text))
            results_last = False
    return tuple(out)


def _replace_last(out: list[Message], content: str) -> None:
    out[-1] = Message(role=out[-1].role, content=content)


def _render_calls(message: Message) -> str:
    lines = [
        # No argument may spell a marker, at which generation would stop.
        json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False).replace("<", "\\u003c")
        for call in message.tool_calls
    ]
    return "\n".join(filter(None, (message.content, _OPEN, *lines, _CLOSE)))


def _render_result(message: Message) -> str:
    # A result cannot end its own block and speak as somebody else.
    text = re.sub(r"<(/?results?\b)", r"<\\\1", message.content)
    name = (message.name or "").replace('"', "'")
    return f'<result name="{name}">{text}</result>'


# --- replies as messages ---------------------------------------------------------------------------------------


def read_reply(text: str, tools: Sequence[ToolSpec]) -> Message | None:
    """The message that a sampled text spells, or None where it cannot be read.

    Text after the calls is cut, so that results that an agent made up are not part of its message. The end marker of
    the block may be missing, as servers leave out the text that they stopped at. Arguments that are no JSON object
    stand under ``_raw``, and a tool that is not offered is still called, for the world to refuse. Without ``tools``
    every text is an answer.
    """
    if not tools:
        return Message(role="assistant", content=text.strip())
    before, opened, rest = text.partition(_OPEN)
    if _CLOSE in before or _RESULTS in before:
        return None
    if not opened:
        return Message(role="assistant", content=text.strip())
    calls: list[ToolCall] = []
    while True:
        block, closed, rest = rest.partition(_CLOSE)
        found = _read_objects(block, "arguments")
        if not found:
            return None
        calls += found
        rest = rest.lstrip()
        if not closed or not rest.startswith(_OPEN):
            return Message(role="assistant", content=before.strip(), tool_calls=tuple(calls))
        rest = rest.removeprefix(_OPEN)


_QWEN, _QWEN_CLOSE, _MISTRAL, _LLAMA = "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"
_NAMED = re.compile(r"\s*([\w.\-]+)\s*(?:\[ARGS\])?\s*(?=\{)")


def read_native(text: str, tools: Sequence[ToolSpec]) -> Message | None:
    """The message that a text in a template's own format spells, or None where it cannot be read.

    Known are ``<tool_call>{…}</tool_call>`` (Qwen, Hermes), ``{"name": …, "parameters": …}`` as the whole reply (Llama
    3.1) and ``[TOOL_CALLS]`` (Mistral). Text after the calls is cut in the first, and makes the others unreadable.
    Thinking between ``<think>`` and ``</think>`` is kept as text and never read as a call. Otherwise as ``read_reply``.
    """
    thought, thinking, spoken = text.rpartition("</think>")
    if "<think>" in spoken:
        return None
    if not tools:
        return Message(role="assistant", content=text.strip())
    thought += thinking
    kinds = [marker for marker in (_QWEN, _MISTRAL, _LLAMA) if marker in spoken]
    if len(kinds) > 1 or (not kinds and _QWEN_CLOSE in spoken):
        return None
    if kinds == [_QWEN]:
        return _read_qwen(thought, spoken)
    if kinds == [_MISTRAL]:
        before, _, rest = spoken.partition(_MISTRAL)
        return _call_message(thought + before, _read_mistral(rest))
    before, tagged, rest = spoken.rpartition(_LLAMA)
    if calls := _read_objects(rest, "parameters", separator=";"):
        return _call_message(thought + before, calls)
    names = "|".join(re.escape(tool.name) for tool in tools)
    if tagged or re.search(rf'"(?:name|function)"\s*:\s*"(?:{names})"', spoken):
        return None
    return Message(role="assistant", content=text.strip())


def _read_qwen(thought: str, spoken: str) -> Message | None:
    before, _, rest = spoken.partition(_QWEN)
    calls: list[ToolCall] = []
    while True:
        block, closed, rest = rest.partition(_QWEN_CLOSE)
        found = _read_objects(block, "arguments")
        if not closed or not found or len(found) > 1:
            return None
        calls += found
        rest = rest.lstrip()
        if not rest.startswith(_QWEN):
            return _call_message(thought + before, calls)
        rest = rest.removeprefix(_QWEN)


def _read_mistral(text: str) -> list[ToolCall] | None:
    """Calls as a JSON list, or each as a name with its arguments behind."""
    if text.lstrip().startswith("["):
        try:
            listed, end = _DECODER.raw_decode(text.lstrip())
        except (ValueError, RecursionError):
            return None
        calls = [_read_call(one, "arguments") for one in listed]
        return None if text.lstrip()[end:].strip() or None in calls else [call for call in calls if call]
    calls = []
    for part in text.split(_MISTRAL):
        named = _NAMED.match(part)
        if named is None:
            return None
        try:
            arguments, end = _DECODER.raw_decode(part, named.end())
        except (ValueError, RecursionError):
            return None
        if part[end:].strip():
            return None
        calls.append(ToolCall(name=named[1], arguments=_keep(arguments)))
    return [call for call in calls if call]


def _call_message(before: str, calls: list[ToolCall] | None) -> Message | None:
    return Message(role="assistant", content=before.strip(), tool_calls=tuple(calls)) if calls else None


# --- JSON --------------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)


def _read_objects(text: str, key: str, separator: str = "") -> list[ToolCall] | None:
    """The calls that a text consists of, one JSON object after the other; None for anything else."""
    calls: list[ToolCall] = []
    rest = text.strip()
    while rest:
        try:
            found, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        call = _read_call(found, key)
        if call is None:
            return None
        calls.append(call)
        rest = rest[end:].lstrip(f"{separator} \t\r\n")
    return calls or None


def _read_call(found: Any, key: str) -> ToolCall | None:
    if not isinstance(found, dict) or set(found) - {"type", "id"} != {"name", key}:
        return None
    name = found["name"]
    # Half a surrogate pair cannot be stored.
    if not isinstance(name, str) or not name or not _storable(name):
        return None
    return ToolCall(name=name, arguments=_keep(found[key]))


def _keep(arguments: Any) -> dict[str, Any]:
    """The arguments, or their text under ``_raw`` where they are no JSON object that the store gives back as it was."""
    if isinstance(arguments, dict) and _storable(arguments):
        return arguments
    return {"_raw": arguments if isinstance(arguments, str) and _storable(arguments) else json.dumps(arguments)}


def _storable(value: Any) -> bool:
    try:
        return bool(orjson.loads(orjson.dumps(value)) == value)
    except (ValueError, TypeError, RecursionError):
        return False
