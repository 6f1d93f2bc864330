"""Messages of any provider as ours: roles, text, calls and answers, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.exchange.traces.dialogue import LEFT_OUT, SERVED, UNREAD, UNTOLD, Said
from holdfast.exchange.traces.records import BadRecord, parse_text, refuse_record
from holdfast.models.calls import structured
from holdfast.models.calls.structured import NAMES, Part, clean, to_text
from holdfast.records import Role, ToolCall, ToolSpec

ROLES: dict[str, Role] = {
    **{"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant"},
    **{"model": "assistant", "ai": "assistant", "chatbot": "assistant", "agent": "assistant", "tool": "tool"},
    **{"function": "tool", "ipython": "tool", "observation": "tool", "gpt": "assistant", "bot": "assistant"},
    **{"tool_response": "tool", "function_response": "tool", "tool_result": "tool", "toolresult": "tool"},
}
_CALL_OF_ANSWER = ("tool_call_id", "tool_use_id", "toolCallId", "toolUseId", "call_id", "id")
_SUFFIXES = ("messagechunk", "message")  # of LangChain's classes


def read_role(place: str, value: Any) -> Role:
    """Our role. Errors: BadRecord."""
    found = _find_role(value)
    if found is None:
        refuse_record(place, f"a message of an unknown role; known are {', '.join(ROLES)}")
    return found


def _find_role(value: Any) -> Role | None:
    plain = value.strip().lower().rpartition(".")[2] if isinstance(value, str) else ""
    for suffix in _SUFFIXES:
        plain = plain.removesuffix(suffix)
    return ROLES.get(plain)


def _structured(place: str, value: Any) -> Any:
    """A structured value, also where it was written as JSON text. Errors: BadRecord."""
    is_json = isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
    return parse_text(place, value) if is_json else value


def perhaps(place: str, value: Any) -> Any:
    """A structured value where the text is JSON of one, else the text."""
    try:
        return _structured(place, value)
    except BadRecord:
        return value


def read_messages(place: str, value: Any, role: Role | None = None) -> list[Said]:
    """A list of messages and items, JSON text of one, or one alone; a text is one message of ``role``.

    Errors: BadRecord.
    """
    if value is None:
        return []
    if isinstance(value, str) and role is not None:
        value = perhaps(place, value)
        if isinstance(value, str):
            return [Said(role=role, text=clean(value))] if value else []
    value = _structured(place, value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        refuse_record(place, "messages are neither a list nor JSON of one")
    if len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain writes one list for each prompt of a batch
    return [said for number, one in enumerate(value) for said in read_message(f"{place}[{number}]", one, role)]


def read_message(place: str, message: Any, role: Role | None = None) -> list[Said]:
    """One message or item; one with several tools' answers becomes as many messages. Errors: BadRecord."""
    if isinstance(message, str) and role is not None:
        return [Said(role=role, text=clean(message))]
    is_pair = isinstance(message, list) and len(message) == 2 and all(isinstance(part, str) for part in message)
    if is_pair and _find_role(message[0]):
        message = {"role": message[0], "content": message[1]}  # LangChain's pairs
    if not isinstance(message, dict):
        refuse_record(place, f"expected a message, found {type(message).__name__}")
    message = _unwrap(message)
    given = message.get("role")
    if given is None and (typed := _find_role(message.get("type"))) is not None:
        return _by_role(message, typed)
    if given is None and message.get("type", "message") != "message":
        # An item of the Responses API that is no message: a call, an answer or reasoning.
        parts = structured.read_part(message)
        if parts and all(part.kind == "answer" for part in parts):
            return [_answer(part, message) for part in parts]
        return _speak("assistant", parts, message)
    return _by_role(message, role if given is None and role is not None else read_role(place, given))


def _unwrap(message: dict[str, Any]) -> dict[str, Any]:
    """LangChain's serialised objects, and what stands under ``data`` or ``message`` alone."""
    kwargs, path = message.get("kwargs"), message.get("id")
    if isinstance(kwargs, dict) and isinstance(path, list) and path and _find_role(path[-1]):
        return {"type": path[-1], **{key: value for key, value in kwargs.items() if key != "type"}}
    if isinstance(message.get("data"), dict) and _find_role(message.get("type")) and "content" in message["data"]:
        return {**message["data"], "type": message["type"]}
    if isinstance(message.get("from"), str) and "role" not in message and "value" in message:  # ShareGPT's
        key = "function_call" if message["from"] in ("function_call", "tool_call") else "content"
        return {"role": "assistant" if key != "content" else message["from"], key: message["value"]}
    content = message.get("content")
    if isinstance(content, dict) and "parts" in content:
        return {**{key: value for key, value in message.items() if key != "content"}, **content}  # Gemini's
    inner = message.get("message")
    if isinstance(inner, dict) and "role" not in message and ("role" in inner or "kwargs" in inner):
        return _unwrap(inner)
    return message


def _by_role(one: dict[str, Any], role: Role) -> list[Said]:
    if role == "tool":
        return _tool(one)
    if role == "assistant":
        return _speak(role, structured.read_message_parts(one), one)
    return _speak(role, structured.read_parts(one.get("content", one.get("parts"))), one)


def _name(one: Mapping[str, Any]) -> str | None:
    return next((clean(one[key]) for key in NAMES if isinstance(one.get(key), str) and one[key]), None)


def _tool(one: dict[str, Any]) -> list[Said]:
    """A tool's message: one answer, or a part for each."""
    content = one.get("content", one.get("parts"))
    parts = structured.read_parts(content) if isinstance(content, list) else []
    if any(part.kind == "answer" for part in parts):
        return [_answer(part, one) for part in parts if part.kind == "answer"]
    identity = next((to_text(one[key]) for key in _CALL_OF_ANSWER if one.get(key)), None)
    text = "\n".join(part.text for part in parts if part.text) or structured.answer_text(content)
    others = [part.type for part in parts if not part.text]
    detail = {LEFT_OUT: others} if others else {}
    return [Said(role="tool", text=text, answers=identity, name=_name(one), detail=detail)]


def _answer(part: Part, one: Mapping[str, Any]) -> Said:
    name = part.name or (_name(one) if "tool" in str(one.get("role", "")) else None)
    return Said(role="tool", text=part.text, answers=part.answers or None, name=name or None)


def _speak(role: Role, parts: list[Part], message: Mapping[str, Any]) -> list[Said]:
    """Messages from parts in their order: an answer ends what was said before it."""
    made: list[Said] = []
    texts: list[Part] = []

    def flush() -> None:
        if texts:
            made.append(_join(role, texts, message))
            texts.clear()

    for part in parts:
        if part.kind == "answer":
            flush()
            made.append(_answer(part, message))
        elif part.kind == "call" and role != "assistant":
            texts.append(Part(kind="unread", type=part.type, suspect=True))
        else:
            if part.kind == "text" and part.text and any(other.served for other in texts):
                flush()
            texts.append(part)
    flush()
    return merge_replies(made) or [Said(role=role, name=_name(message))]


def _join(role: Role, parts: list[Part], message: Mapping[str, Any]) -> Said:
    calls = [(part.call, part.served) for part in parts if part.call is not None]
    others = [part for part in parts if part.kind == "data" or (part.kind == "unread" and not part.suspect)]
    unread = [part for part in parts if part.kind == "unread" and part.suspect and role == "assistant"]
    detail = {
        "reasoning": "\n".join(part.text for part in parts if part.kind == "reasoning" and part.text),
        LEFT_OUT: [clean(part.type) for part in others],
        UNREAD: [clean(part.type) for part in unread],
        SERVED: [call.name for call, served in calls if served],
    }
    return Said(
        role=role,
        text="\n".join(part.text for part in parts if part.kind == "text" and part.text),
        calls=tuple(call for call, _ in calls),
        name=_name(message),
        served=tuple(place for place, (_, served) in enumerate(calls) if served),
        detail={key: value for key, value in detail.items() if value},
    )


def merge_replies(said: list[Said]) -> list[Said]:
    """Messages of one agent that stand together, as one: output items are the parts of one reply.

    What is said after a call that the provider carried out was said when that was answered, though nobody tells how.
    """
    made: list[Said] = []
    for one in said:
        before = made[-1] if made else None
        if before is None or not one.role == before.role == "assistant":
            made.append(one)
        elif one.text and before.calls and len(before.served) == len(before.calls):
            made += [*(untold(call) for call in before.calls), one]
        else:
            made[-1] = _merge(before, one)
    return made


def untold(call: ToolCall) -> Said:
    """The answer to a call that the provider carried out without telling its result."""
    return Said(role="tool", name=call.name, answers=call.id or None, detail=dict(UNTOLD))


def _merge(first: Said, second: Said) -> Said:
    detail = {**first.detail, **second.detail}
    for key in (LEFT_OUT, UNREAD, SERVED):
        if key in first.detail and key in second.detail:
            detail[key] = [*first.detail[key], *second.detail[key]]
    if "reasoning" in first.detail and "reasoning" in second.detail:
        detail["reasoning"] = f"{first.detail['reasoning']}\n{second.detail['reasoning']}"
    return replace(
        first,
        text="\n".join(filter(None, (first.text, second.text))),
        calls=(*first.calls, *second.calls),
        served=(*first.served, *(place + len(first.calls) for place in second.served)),
        detail=detail,
    )


_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "schema")
# Keys under which tools stand, and what must stand there.
_WRAPPERS: dict[str, type] = {
    **{"function_declarations": object, "functionDeclarations": object, "tools": list},
    **{"function": dict, "toolSpec": dict, "tool": dict, "custom": dict, "json_schema": object},
}


def read_tools(definitions: Any) -> tuple[ToolSpec, ...]:
    """Tools as any provider writes them; what has no name is left out."""
    tools: dict[str, ToolSpec] = {}
    for definition in _each_tool(definitions):
        name = next((definition[key] for key in NAMES if isinstance(definition.get(key), str)), None)
        if not name or name in tools:
            continue
        schema = next((definition[key] for key in _SCHEMAS if definition.get(key) is not None), None)
        if isinstance(schema, dict) and set(schema) == {"json"}:
            schema = schema["json"]
        if isinstance(schema, dict) and "jsonSchema" in schema:
            schema = schema["jsonSchema"]
        parameters = structured.read_arguments(schema)
        parameters = {} if "_raw" in parameters else parameters
        description = to_text(definition.get("description"))
        tools[name] = ToolSpec(name=clean(name), description=description, parameters=parameters)
    return tuple(tools.values())


def _each_tool(definitions: Any) -> list[dict[str, Any]]:
    value = perhaps("tools", definitions)
    if isinstance(value, dict):
        wrapped = [value[key] for key, kind in _WRAPPERS.items() if key in value and isinstance(value[key], kind)]
        if wrapped:
            return _each_tool(wrapped[0])
        if any(isinstance(value.get(key), str) for key in NAMES):
            return [value]
        # By name, as the AI SDK and MCP clients keep them.
        tools = ((name, inner) for name, inner in value.items() if isinstance(inner, dict))
        return [{"name": name, **inner} for name, inner in tools if not inner.keys().isdisjoint(_SCHEMAS)]
    return [one for inner in value for one in _each_tool(inner)] if isinstance(value, list) else []
