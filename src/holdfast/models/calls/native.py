"""Replies as messages: in a template's own format of calls, or in a text format for models and servers without one.

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
from dataclasses import dataclass

from holdfast.models import chat_tools
from holdfast.models.calls.families import FAMILIES, Family, read_json_call, read_to_end
from holdfast.models.calls.spelled import spells_call, without_thoughts
from holdfast.models.calls.values import Unreadable, skip_blanks
from holdfast.records import Message, ToolCall, ToolSpec

_HEADER = re.compile(r"\s*(?:to=|<\|channel\|>|<\|start\|>)")


def read_native(
    text: str, tools: Sequence[ToolSpec], family: Family | None = None, made: Sequence[ToolCall] = ()
) -> Message | None:
    """The message that a text in a family's format spells, or None where it cannot be read.

    Without ``family`` any family's format is read. Thinking between marks such as ``<think>`` is kept as text and never
    read as a call. Text after the calls, which agents make up results in, is cut. What looks like a call and is none of
    this family makes the reply unreadable, and so does a call in the text beside. Arguments that are no JSON object
    stand under ``_raw``, and a tool that is not offered is still called, for the world to refuse. ``made`` are calls of
    the conversation so far, of which a text may tell. Without ``tools`` every text is an answer.
    """
    if "<think>" in text.rpartition("</think>")[2]:
        return None  # the reply ended while the agent was thinking
    if MESSAGE in text and (family is None or family.channels):
        return _read_channels(text, tools, family, made)
    if family is not None and family.channels and _HEADER.match(text):
        return None  # a header without its message
    if not tools:
        return Message(role="assistant", content=text.strip())
    hidden = without_thoughts(text, " ")
    for one in FAMILIES if family is None else (family,):
        if not one.channels and (message := _read_calls(text, hidden, tools, one, made)) is not None:
            return message
    return None if spells_call(text, tools, made) else Message(role="assistant", content=text.strip())


def _read_calls(
    text: str, hidden: str, tools: Sequence[ToolSpec], family: Family, made: Sequence[ToolCall]
) -> Message | None:
    """The message with its calls; None where there are none, or what is there cannot be read."""
    if family.marks:
        at = min((place for mark in family.marks if (place := hidden.find(mark)) >= 0), default=-1)
    else:
        at = len(hidden) - len(hidden.lstrip())
    try:
        calls, end = family.read(text, at, tools) if at >= 0 else ([], 0)
    except Unreadable:
        return None
    before, after, known = text[:at].strip(), text[end:], [*made, *calls]
    if not calls or ((family.alone or not family.marks) and (before or after.strip())):
        return None
    if spells_call(before, tools, known) or spells_call(after, tools, known):
        return None
    return Message(role="assistant", content=before, tool_calls=tuple(calls))


def _read_channels(
    text: str, tools: Sequence[ToolSpec], family: Family | None, made: Sequence[ToolCall]
) -> Message | None:
    """The message of a reply in channels: its calls with what was thought before, or its answer."""
    turn = read_turn(text)
    if turn is None or (turn.calls and not tools):
        return None
    if not turn.calls:
        answer = "\n".join(turn.said).strip()
        if not turn.said or (tools and spells_call(answer, tools, made)):
            return None
        return Message(role="assistant", content=answer, detail=turn.detail)
    for one in (one for one in FAMILIES if one.channels) if family is None else (family,):
        try:
            calls = tuple(_read_addressed(name, body, tools, one) for name, body in turn.calls)
        except Unreadable:
            continue
        if (one.alone and turn.said) or spells_call("\n".join(turn.said), tools, [*made, *calls]):
            return None
        # What is thought before a call is shown again beside it, where the template has a place for it.
        content = "" if one.alone else "\n".join((*turn.thoughts, *turn.said)).strip()
        return Message(role="assistant", content=content, tool_calls=calls, detail=turn.detail if one.alone else None)
    return None


def _read_addressed(name: str, body: str, tools: Sequence[ToolSpec], family: Family) -> ToolCall:
    """The call that a message to a tool is, its name in the header, or in both. Errors: Unreadable."""
    calls, end = family.read(body, 0, tools)
    if len(calls) != 1 or calls[0].name not in ("unnamed", name) or body[end:].strip():
        raise Unreadable("more than the call that its header tells")
    return ToolCall(name=name, arguments=calls[0].arguments)


# --- replies in channels ------------------------------------------------------------------------------------------
#     <|channel|>analysis<|message|>…<|end|><|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}
#     to=self<|message|>…<|eom|><|start|>assistant to=NAME<|message|><atem:function_calls>…</atem:function_calls>
# Source: OpenAI's harmony format (gpt-oss), that of Muse Glimmer, and the templates of both in TRL 1.16.

MESSAGE = "<|message|>"
_END = re.compile(r"<\|(?:end|call|return|eom|eot)\|>")
_RECIPIENT = re.compile(r"(?<!\w)to=([\w.\-]{1,128})")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A reply by whom it speaks to: thoughts, what is said to the user, and (recipient, text) of each call."""

    thoughts: tuple[str, ...]
    said: tuple[str, ...]
    calls: tuple[tuple[str, str], ...]

    @property
    def detail(self) -> dict[str, str] | None:
        """The thoughts, as a message keeps what nobody is shown again."""
        return {"thinking": "\n".join(self.thoughts)} if self.thoughts else None


def read_turn(text: str) -> Turn | None:
    """The messages of a reply by their headers; None where a header cannot be read."""
    thoughts: list[str] = []
    said: list[str] = []
    calls: list[tuple[str, str]] = []
    for part in _END.split(text):
        header, message, body = part.partition(MESSAGE)
        if not message:
            if header.strip():
                return None
            continue
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient and recipient[1] not in ("self", "user"):
            calls.append((recipient[1].removeprefix("functions."), body))
        elif (recipient and recipient[1] == "self") or (channel and channel[1] == "analysis"):
            thoughts.append(body)
        elif recipient or (channel and channel[1] in ("final", "commentary")):
            said.append(body)
        else:
            return None
    return Turn(thoughts=tuple(thoughts), said=tuple(said), calls=tuple(calls))


# --- the text format ----------------------------------------------------------------------------------------------

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
                begun = out[-1].content.removesuffix(_RESULTS_CLOSE)
                out[-1] = Message(role="user", content=f"{begun}{shown}\n{_RESULTS_CLOSE}")
                continue
            text = f"{_RESULTS}\n{shown}\n{_RESULTS_CLOSE}"
            before = f"{out.pop().content}\n\n" if out and out[-1].role == "user" else ""
            out.append(Message(role="user", content=before + text))
            results_last = True
        elif message.role == "user" and results_last:
            out[-1] = Message(role="user", content=f"{out[-1].content}\n\n{message.content}")
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


def read_reply(text: str, tools: Sequence[ToolSpec], made: Sequence[ToolCall] = ()) -> Message | None:
    """The message that a sampled text spells, or None where it cannot be read.

    As ``read_native`` reads the formats of families: text after the calls is cut, so that results that an agent
    made up are not part of its message, and a call in any other form, or one that is only thought of, is not read. The
    end marker of the block may be missing, as servers leave out the text that they stopped at. Without ``tools`` every
    text is an answer.
    """
    if not tools:
        return Message(role="assistant", content=text.strip())
    message = read_native(text, tools, _FAMILY, made)
    return None if message is not None and _RESULTS in message.content else message


def _read_blocks(text: str, at: int, tools: Sequence[ToolSpec]) -> tuple[list[ToolCall], int]:
    calls: list[ToolCall] = []
    while text.startswith(_OPEN, at):
        at += len(_OPEN)
        closed = text.find(_CLOSE, at)
        block = read_to_end(read_json_call, text[at : closed if closed >= 0 else None], 0, tools)
        if not block:
            raise Unreadable("an empty block")
        calls += block
        at = skip_blanks(text, closed + len(_CLOSE)) if closed >= 0 else len(text)
    return calls, at


_FAMILY = Family(name="text", marks=(_OPEN,), read=_read_blocks, stops=STOP)
