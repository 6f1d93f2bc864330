"""Messages and tools of a row of data as ours, strictly: what would be learnt wrongly is refused, with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.exchange.datasets.rows import parse_value
from holdfast.exchange.traces.records import refuse_record
from holdfast.models.calls.structured import read_arguments
from holdfast.models.calls.values import keep_arguments
from holdfast.records import Case, Message, Role, ToolCall, ToolSpec, content_id

SHAREGPT = "write it as messages: from as role (human as user, gpt as assistant), value as content"
SUITE = "file"  # of the cases that are made of rows
UNCOUNTED = "uncounted"  # in a message's detail: its tokens are read, and not learnt from
_ROLES: Mapping[str, Role] = {
    **{"system": "system", "developer": "system", "user": "user", "assistant": "assistant"},
    **{"tool": "tool", "function": "tool"},
}
_CALLS = ("tool_calls", "function_call")
# What an agent said beside its content, which would be left out of what is learnt.
_UNREAD = ("reasoning_content", "reasoning", "thinking", "refusal", "audio")
# A list of messages that was written as a text, as JSON or as Python shows it; an agent's answer may be another list.
_LISTED = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
_ROLE = re.compile(rf"""["'](?:role|from)["']\s*:\s*["'](?:{"|".join(_ROLES)}|human|gpt)["']""")


def read_turns(place: str, value: Any, *, whole: bool = True) -> list[Message]:
    """The messages of a list, or the one that stands alone. Errors: BadRecord.

    A tool's result answers a call of the turn before it, and arguments are JSON objects. Of what is not ``whole``, such
    as a side that was rejected, a turn may be empty, and arguments may be a text, which is what an agent wrote.
    """
    value = parse_value(place, value) if is_listed(value) else [value] if isinstance(value, dict) else value
    if not isinstance(value, list) or not value:
        refuse_record(place, "no list of messages")
    turns: list[Message] = []
    asked: list[ToolCall] = []  # the calls of the last turn
    waiting: list[ToolCall] = []  # those of them that nobody has answered
    ranks: list[int] = []  # among the calls, of the results that stand last in ``turns``
    for number, one in enumerate(value):
        where = f"{place}[{number}]"
        before = list(waiting)
        message = _read_turn(where, one, waiting, whole=whole)
        if message.role == "tool":
            (answered,) = (call for call in before if not any(call is other for other in waiting))
            # Templates that write no ids tell results by their order, which is that of the calls.
            rank = next(number for number, call in enumerate(asked) if call is answered)
            turns.insert(len(turns) - sum(other > rank for other in ranks), message)
            ranks.append(rank)
            continue
        if waiting and whole:
            refuse_record(where, f"the call of {waiting[0].name} before it has no result")
        asked, waiting, ranks = list(message.tool_calls), list(message.tool_calls), []
        turns.append(message)
    # Ids are drawn anew whenever something is recorded: what differs by them alone is the same.
    return [_without_ids(one) if one.tool_calls else one for one in turns]


def _without_ids(message: Message) -> Message:
    return replace(message, tool_calls=tuple(replace(call, id="") for call in message.tool_calls))


def is_listed(value: Any) -> bool:
    """Whether a value is a text that lists messages."""
    return isinstance(value, str) and _LISTED.match(value) is not None and _ROLE.search(value) is not None


def _read_turn(place: str, one: Any, waiting: list[ToolCall], *, whole: bool) -> Message:
    if not isinstance(one, dict):
        refuse_record(place, f"expected a message, found {type(one).__name__}")
    role = _ROLES.get(one["role"]) if isinstance(one.get("role"), str) else None
    if role is None and "from" in one and "value" in one:
        refuse_record(place, "a message in ShareGPT's form", SHAREGPT)
    if role is None:
        refuse_record(place, f"role is {one.get('role')!r:.40}; known are {', '.join(_ROLES)}", "write one of them")
    text = _text(place, one.get("content"))
    if role == "tool":
        return Message(role=role, content=text, name=_answered(place, one, waiting).name)
    calls = _calls(place, one, whole=whole) if role == "assistant" else ()
    if role != "assistant" and any(one.get(key) for key in _CALLS):
        refuse_record(place, f"a call in a turn of the {role}", "calls are the agent's")
    unread = next((key for key in _UNREAD if one.get(key)), None)
    if unread is not None:
        refuse_record(
            place, f"{unread} is not read", "write what the agent is to say into content, or take the key out"
        )
    if not text.strip() and not calls and role != "system" and (whole or role == "user"):
        refuse_record(place, f"an empty turn of the {'agent' if role == 'assistant' else role}")
    weight = one.get("weight")
    if weight is not None and (role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)):
        refuse_record(place, f"weight is {weight!r:.40}", "give 0 or 1, to an agent's message")
    return Message(role=role, content=text, tool_calls=calls, detail={UNCOUNTED: True} if weight == 0 else None)


def _text(place: str, content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        refuse_record(place, f"content is {type(content).__name__}", "give a text, or a list of parts that are texts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            refuse_record(place, f"content has a part of type {kind!r:.40}, which is no text", "leave the row out")
        texts.append(part["text"])
    return "".join(texts)


def _calls(place: str, one: Mapping[str, Any], *, whole: bool) -> tuple[ToolCall, ...]:
    listed = one.get("tool_calls") or []
    if one.get("function_call"):
        if listed:
            refuse_record(place, "holds tool_calls and a function_call", "write all calls as tool_calls")
        listed = [{"function": one["function_call"]}]
    if not isinstance(listed, list):
        refuse_record(place, "tool_calls is no list")
    return tuple(_call(f"{place}.tool_calls[{number}]", call, whole=whole) for number, call in enumerate(listed))


def _call(place: str, value: Any, *, whole: bool) -> ToolCall:
    value = value if isinstance(value, dict) else {}
    inner, name = _named(value)
    if not name:
        refuse_record(place, "a call without the name of a tool")
    given = inner.get("arguments")
    arguments = keep_arguments(given) if isinstance(given, dict) else read_arguments(given)
    if not whole and isinstance(given, str) and not given.strip():
        arguments = {"_raw": given}  # what an agent wrote, and no call without arguments
    if whole and "_raw" in arguments:
        refuse_record(
            place, f"arguments of {name!r:.60} are no JSON object with numbers of 64 bits and keys that differ"
        )
    return ToolCall(name=name, arguments=arguments, id=_identity(place, value.get("id")))


def _identity(place: str, value: Any) -> str:
    """The id of a call, empty where it has none."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        refuse_record(place, f"an id of a call is {type(value).__name__}", "write ids as texts")
    return "" if value is None else str(value)


def _named(value: Any) -> tuple[Mapping[str, Any], str]:
    """What describes a call or a tool, bare or under ``function``, and its name, empty where it has none."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    return (inner, name) if isinstance(inner, dict) and isinstance(name, str) else ({}, "")


def _answered(place: str, one: Mapping[str, Any], waiting: list[ToolCall]) -> ToolCall:
    """The call that a result answers, taken from those that wait: by its id, else by its tool's name, else the next."""
    identity, name = _identity(place, one.get("tool_call_id")), one.get("name")
    known = [call.id for call in waiting]
    if identity and any(known):
        at = known.index(identity) if identity in known else None
    else:
        named = [number for number, call in enumerate(waiting) if not name or call.name == name]
        at = next(iter(named), None)
    if at is None:
        told = f" {identity or name!r:.60}" if identity or name else ""
        refuse_record(place, f"a tool's result{told} that answers no call of the turn before it")
    return waiting.pop(at)


def read_tools(place: str, row: Mapping[str, Any]) -> tuple[ToolSpec, ...]:
    """The tools of a row: a list as OpenAI's API takes it, JSON text of one, or nothing. Errors: BadRecord."""
    if row.get("tools") and row.get("functions"):
        refuse_record(place, "holds tools and functions", "write all of them as tools")
    value = row.get("tools") or row.get("functions") or []
    value = (parse_value(f"{place}: tools", value) or []) if isinstance(value, str) else value
    if not isinstance(value, list):
        refuse_record(f"{place}: tools", f"expected a list, found {type(value).__name__}")
    found: dict[str, ToolSpec] = {}
    for number, one in enumerate(value):
        where = f"{place}: tools[{number}]"
        inner, name = _named(parse_value(where, one) if isinstance(one, str) else one)
        if not name:
            refuse_record(where, "a tool without a name")
        if name in found:
            refuse_record(where, f"the tool {name!r:.60} stands twice")
        schema = inner.get("parameters") or {}
        if not isinstance(schema, dict) or not isinstance(schema.get("properties") or {}, dict):
            refuse_record(where, "parameters are no JSON schema")
        told = inner.get("description") or ""
        if not isinstance(told, str):
            refuse_record(where, f"its description is {type(told).__name__}", "give a text")
        found[name] = ToolSpec(name=name, description=told, parameters=schema)
    return tuple(found.values())


def make_case(name: str, number: int, opening: Sequence[Message], tools: tuple[ToolSpec, ...]) -> Case:
    """A case that opens so; its family are those of one system message and the same tools."""
    systems = [message.content for message in opening if message.role == "system"]
    family = content_id(systems, [[tool.name, tool.description, tool.parameters] for tool in tools])
    return Case(id=name, suite=SUITE, number=number, family=family, messages=tuple(opening), tools=tools)
