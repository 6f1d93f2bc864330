"""Replies in a template's own format of calls, as messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.models.calls.families import FAMILIES, Family
from holdfast.models.calls.spelled import hide_thoughts, spells_call
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
    hidden = hide_thoughts(text)
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
    found = family.read(text, at, tools) if at >= 0 else None
    if found is None:
        return None
    calls, end = found
    if (family.alone or not family.marks) and (text[:at].strip() or text[end:].strip()):
        return None
    before = text[:at].strip()
    known = [*made, *calls]
    if spells_call(before, tools, known) or spells_call(text[end:], tools, known):
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
    for one in FAMILIES if family is None else (family,):
        calls = [_read_addressed(name, body, tools, one) for name, body in turn.calls] if one.channels else [None]
        if all(calls):
            found = tuple(call for call in calls if call)
            beside = () if one.alone else (*turn.thoughts, *turn.said)
            if (one.alone and turn.said) or spells_call("\n".join(turn.said), tools, [*made, *found]):
                return None
            # What is thought before a call is shown again beside it, where the template has a place for it.
            content = "\n".join(beside).strip()
            return Message(
                role="assistant", content=content, tool_calls=found, detail=turn.detail if one.alone else None
            )
    return None


def _read_addressed(name: str, body: str, tools: Sequence[ToolSpec], family: Family) -> ToolCall | None:
    """The call that a message to a tool is, its name in the header, or in both."""
    found = family.read(body, 0, tools)
    if found is None or len(found[0]) != 1 or body[found[1] :].strip():
        return None
    call = found[0][0]
    if family.marks or call.name not in ("unnamed", name):
        return None
    return ToolCall(name=name, arguments=call.arguments)


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
