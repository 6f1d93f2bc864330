"""Tool calls as text: a format for models and servers without calls of their own.

    <calls>
    {"name": "search", "arguments": {"query": "tea"}}
    </calls>

One block holds one call a line, and generation stops at its end, so what a tool answers is never written by the agent:

    <results>
    <result name="search">...</result>
    </results>

A final answer is text without a call, of this format or of any other: what could be a call and could be an answer is
read as neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from holdfast.models import chat_tools
from holdfast.models.calls.families import Family, read_json_call, read_to_end
from holdfast.models.calls.native import read_native
from holdfast.models.calls.values import skip_blanks
from holdfast.records import Message, ToolCall, ToolSpec

_OPEN, _CLOSE, _RESULTS, _RESULTS_CLOSE = "<calls>", "</calls>", "<results>", "</results>"
STOP: tuple[str, ...] = (_CLOSE, _RESULTS)
"""Generation stops where the text holds one of these."""

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
            # A result cannot end its own block and speak as somebody else.
            result = re.sub(r"<(/?results?\b)", r"<\\\1", message.content)
            name = (message.name or "").replace('"', "'")
            shown = f'<result name="{name}">{result}</result>'
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
            # No argument may spell a marker, at which generation would stop.
            lines = [
                json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
                for call in message.tool_calls
            ]
            block = [_OPEN, *(line.replace("<", "\\u003c") for line in lines), _CLOSE] if lines else []
            text = "\n".join(filter(None, (message.content, *block))) if block else message.content
            out.append(Message(role=message.role, content=text))
            results_last = False
    return tuple(out)


def _replace_last(out: list[Message], content: str) -> None:
    out[-1] = Message(role=out[-1].role, content=content)


# --- replies as messages ---------------------------------------------------------------------------------------


def read_reply(text: str, tools: Sequence[ToolSpec], made: Sequence[ToolCall] = ()) -> Message | None:
    """The message that a sampled text spells, or None where it cannot be read.

    As ``native.read_native`` reads the formats of families: text after the calls is cut, so that results that an agent
    made up are not part of its message, and a call in any other form, or one that is only thought of, is not read. The
    end marker of the block may be missing, as servers leave out the text that they stopped at. Without ``tools`` every
    text is an answer.
    """
    if not tools:
        return Message(role="assistant", content=text.strip())
    message = read_native(text, tools, _FAMILY, made)
    return None if message is not None and _RESULTS in message.content else message


def _read_blocks(text: str, at: int, tools: Sequence[ToolSpec]) -> tuple[list[ToolCall], int] | None:
    calls: list[ToolCall] = []
    while text.startswith(_OPEN, at):
        at += len(_OPEN)
        closed = text.find(_CLOSE, at)
        found = read_to_end(read_json_call, text[at : closed if closed >= 0 else None], 0, tools)
        if not found:
            return None
        calls += found
        at = skip_blanks(text, closed + len(_CLOSE)) if closed >= 0 else len(text)
    return calls, at


_FAMILY = Family(name="text", marks=(_OPEN,), read=_read_blocks, stops=STOP)
