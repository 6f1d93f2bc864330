"""A row of a user's file as a case: its messages, tools, what tools answer, and what its judges are told."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.records import JSON, Case, Message, ToolSpec, content_id
from holdfast.rollout.worlds.schemas import show
from holdfast.suites.cases.lines import Row
from holdfast.suites.cases.tasks import NOT_RUN

SUITE = "cases"
OPENING = ("prompt", "messages")
MATCHED = ("contains", "not_contains", "calls", "not_calls")
COLUMNS = ("id", *OPENING, "tools", "replies", "benign", "family", "expected", "rubric", *MATCHED)
MOST_ID = 200  # characters of an id or a family
_ROLES = ("system", "user", "assistant")
_PUBLIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what every provider takes for a tool's name
_KINDS = ("string", "integer", "number", "boolean", "array", "object", "null")
# What a model that plays a tool may answer, where the file says nothing of it.
_DECLARED: JSON = {
    "toolkit": "tools",
    "returns": [{"name": "output", "type": "string", "description": "what the tool returns, as text"}],
    "exceptions": [{"name": "ToolError", "description": "the call cannot succeed"}],
}


def make_case(row: Row, number: int) -> Case:
    """The case of a row. Its id is of all that the row says; the user's own stands in ``facts["sample"]``.

    Errors: StudyError.
    """
    row.require_known(COLUMNS)
    messages, tools = read_messages(row), read_tools(row)
    replies = _read_replies(row, tools)
    matched = {key: texts for key in MATCHED if (texts := row.texts(key))}
    _require_tools(row, matched, tools)
    identity = content_id(SUITE, {key: value for key, value in row.values.items() if key != "id"})
    sample = _read_name(row, "id")
    benign, expected, rubric = row.flag("benign"), row.text("expected"), row.text("rubric")
    facts = {
        "sample": sample or identity[:12],
        "author": {key: text for key, text in (("expected", expected), ("rubric", rubric)) if text is not None},
        "match": matched,
        **({"untested": True} if rubric == NOT_RUN else {}),
        **({} if benign is None else {"benign": benign}),
    }
    return Case(
        id=content_id(SUITE, identity, sample),
        suite=SUITE,
        number=number,
        family=_read_name(row, "family") or sample or identity[:12],
        messages=messages,
        tools=tools,
        state=_state_of(tools, replies),
        facts=facts,
    )


def _state_of(tools: Sequence[ToolSpec], replies: Mapping[str, str]) -> JSON:
    """What the world must know: fixed replies, or what a model that plays the tools is told."""
    if not tools:
        return {}
    if replies:
        return {"replies": dict(replies)}
    return {"tools": {tool.name: _DECLARED for tool in tools}, "toolkits": {"tools": "the agent's tools"}}


def needs_player(case: Case) -> bool:
    """Whether a model has to play the tools of a case."""
    return bool(case.tools) and "replies" not in case.state


def _read_name(row: Row, key: str) -> str | None:
    value = row.values.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = row.text(key)
    if text is not None and (len(text) > MOST_ID or not text.isprintable()):
        row.refuse(f"{key!r} is {show(text)}", f"give at most {MOST_ID} printable characters")
    return text


def read_messages(row: Row) -> tuple[Message, ...]:
    """The messages that open the conversation: a prompt, or a list that ends with the user. Errors: StudyError."""
    given = [key for key in OPENING if key in row.values]
    if len(given) != 1:
        found = "'prompt' and 'messages' both stand here" if given else "there is no 'prompt' and no 'messages'"
        row.refuse(found, "give one of them")
    prompt = row.text("prompt")
    if prompt is not None:
        return (Message(role="user", content=prompt),)
    messages = []
    for at, one in enumerate(row.rows("messages")):
        one.require_known(("role", "content"))
        role, content = one.values.get("role"), one.text("content")
        if role not in _ROLES:
            one.refuse(f"'role' is {show(role)}", f"give one of {', '.join(_ROLES)}; calls come from the agent itself")
        if content is None:
            one.refuse("'content' is missing", "give its text")
        if role == "system" and at:
            one.refuse("a system message behind others", "put it first")
        messages.append(Message(role=role, content=content))
    if not messages or messages[-1].role != "user":
        last = messages[-1].role if messages else "nothing"
        row.refuse(f"'messages' end with {last}", "end them with the user's message, which the agent answers")
    return tuple(messages)


def read_tools(row: Row) -> tuple[ToolSpec, ...]:
    """The tools of a row, in the form of OpenAI's functions, with or without the wrapper. Errors: StudyError."""
    tools = [_read_tool(one) for one in row.rows("tools")]
    for name, count in Counter(tool.name for tool in tools).items():
        if count > 1:
            row.refuse(f"two tools are called {show(name)}", "give each its own name")
    return tuple(tools)


def _read_tool(row: Row) -> ToolSpec:
    if "function" in row.values:
        row.require_known(("type", "function"))
        if row.values.get("type", "function") != "function" or not isinstance(row.values["function"], dict):
            row.refuse("a tool that is no function", 'write {"type": "function", "function": {"name": …}}')
        row = Row(place=f"{row.place}.function", values=row.values["function"])
    row.require_known(("name", "description", "parameters", "strict"))
    name = row.text("name")
    if name is None or not _PUBLIC_NAME.fullmatch(name):
        row.refuse(f"'name' is {show(name)}", "use at most 64 letters, digits, _ and -")
    schema = row.values.get("parameters", {"type": "object", "properties": {}})
    if problem := _find_flaw(schema, "parameters"):
        row.refuse(problem, "give a JSON schema of type object")
    if schema.get("type") != "object":
        row.refuse(f"parameters.type is {show(schema.get('type'))}", "give a JSON schema of type object")
    return ToolSpec(name=name, description=str(row.values.get("description") or ""), parameters=schema)


def _find_flaw(schema: Any, place: str) -> str | None:
    """The first thing in a schema by which no argument could be checked, or None."""
    if not isinstance(schema, dict):
        return f"{place} is {show(schema)}"
    kinds = schema.get("type", [])
    known = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(known, list) or any(kind not in _KINDS for kind in known):
        return f"{place}.type is {show(kinds)}"
    for key, kind in (("required", list), ("enum", list), ("properties", dict)):
        if not isinstance(schema.get(key, kind()), kind):
            return f"{place}.{key} is {show(schema[key])}"
    if not all(isinstance(name, str) for name in schema.get("required", ())):
        return f"{place}.required is {show(schema['required'])}"
    inner = [(f"{place}.properties.{name}", one) for name, one in schema.get("properties", {}).items()]
    inner += [(f"{place}.items", schema["items"])] if "items" in schema else []
    return next((found for at, one in inner if (found := _find_flaw(one, at))), None)


def _read_replies(row: Row, tools: Sequence[ToolSpec]) -> dict[str, str]:
    """What each tool answers, whatever its arguments: a text, or JSON that is written as one."""
    given = row.values.get("replies")
    if "replies" not in row.values:
        return {}
    names = [tool.name for tool in tools]
    if not isinstance(given, dict) or not names:
        found = "'replies' without 'tools'" if isinstance(given, dict) else f"'replies' is {show(given)}"
        row.refuse(found, "give the text that each tool answers, by the tool's name")
    for name, text in given.items():
        if name not in names:
            row.refuse(f"'replies' has {show(name)}, which is no tool of this case", f"there are: {', '.join(names)}")
        if not isinstance(text, str | dict | list):
            row.refuse(f"replies.{name} is {show(text)}", "give a text, or a JSON object or list")
    if lacking := [name for name in names if name not in given]:
        row.refuse(f"'replies' has nothing for {', '.join(lacking)}", "give a reply for each tool, or for none")
    return {
        name: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for name, text in given.items()
    }


def _require_tools(row: Row, matched: Mapping[str, Sequence[str]], tools: Sequence[ToolSpec]) -> None:
    """Calls that are matched are of tools that the case has: of any other none can be made."""
    names = [tool.name for tool in tools]
    for key in ("calls", "not_calls"):
        for name in matched.get(key, ()):
            if name not in names:
                known = f"there are: {', '.join(names)}" if names else "the case has no tools"
                row.refuse(f"{key!r} names {show(name)}, which is no tool of this case", known)
