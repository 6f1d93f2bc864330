"""OpenAI chat logs: one object a line, with ``messages`` or as a pair of request and response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.exchange.traces.dialogue import Said, Trace, find_ending, make_call, read_role, read_tools
from holdfast.exchange.traces.records import clean, refuse_record, to_text
from holdfast.records import content_id

IDS = ("trace_id", "conversation_id", "session_id", "thread_id", "custom_id", "id", "request_id")
TIMES = ("timestamp", "created_at", "created", "time")
FAMILIES = ("family", "task", "agent", "agent_name", "route")


def is_chat(value: Any) -> bool:
    """Whether a record is a chat: messages, or a request that has some."""
    return isinstance(value, dict) and ("messages" in value or "messages" in _request(value))


def _request(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was asked, also where it stands in an HTTP body."""
    found = value.get("request")
    if isinstance(found, dict) and isinstance(found.get("body"), dict):
        found = found["body"]
    return found if isinstance(found, dict) else {}


def _response(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found = value.get("response")
    if isinstance(found, dict) and isinstance(found.get("body"), dict):
        found = found["body"]
    return found if isinstance(found, dict) else value


def read_chat(place: str, value: Mapping[str, Any]) -> Trace:
    """The conversation of one record. Errors: BadRecord."""
    request = value if "messages" in value else _request(value)
    response = _response(value)
    messages = request["messages"]
    if not isinstance(messages, list) or not messages:
        refuse_record(place, "messages is no list of messages")
    said = [read_message(f"{place}: messages[{number}]", one) for number, one in enumerate(messages)]
    reason = response.get("finish_reason")
    choices = response.get("choices")
    if isinstance(choices, list) and choices:
        choice = choices[0]
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            refuse_record(place, "choices[0] has no message")
        said.append(read_message(f"{place}: choices[0]", {"role": "assistant", **choice["message"]}))
        reason = choice.get("finish_reason")
    found = (value, response, request)
    usage = response.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tools = request.get("tools", request.get("functions"))
    model = _first(("model",), (response, request, value))
    return Trace(
        id=_first(IDS, found) or content_id("chat", messages, choices),
        place=place,
        source="chat",
        said=tuple(said),
        tools=read_tools(tools),
        model=model,
        family=_first(FAMILIES, (_metadata(value), _metadata(request), value)),
        time=_first(TIMES, found),
        tokens=tokens if type(tokens) is int else None,
        ending=find_ending(said, reason if isinstance(reason, str) else None, failed=bool(value.get("error"))),
    )


def _metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found = value.get("metadata")
    return found if isinstance(found, dict) else {}


def _first(names: tuple[str, ...], places: tuple[Mapping[str, Any], ...]) -> str | None:
    """The first value that is a text or a number, by name and then by place."""
    for name in names:
        for one in places:
            found = one.get(name)
            if isinstance(found, str | int | float) and not isinstance(found, bool) and found != "":
                return clean(str(found))
    return None


def read_message(place: str, one: Any) -> Said:
    """One message in OpenAI's form. Errors: BadRecord."""
    if not isinstance(one, dict):
        refuse_record(place, f"expected a message, found {type(one).__name__}")
    role = read_role(place, one.get("role"))
    text, detail = read_content(place, one.get("content"))
    if isinstance(one.get("refusal"), str) and not text:
        text = clean(one["refusal"])
    reasoning = one.get("reasoning_content", one.get("reasoning"))
    if isinstance(reasoning, str) and reasoning:
        detail["reasoning"] = clean(reasoning)
    return Said(
        role=role,
        text=text,
        calls=tuple(_read_calls(place, one)) if role == "assistant" else (),
        answers=to_text(one.get("tool_call_id")) or None,
        name=to_text(one.get("name")) or None,
        detail=detail,
    )


def _read_calls(place: str, one: Mapping[str, Any]) -> list[Any]:
    calls = one.get("tool_calls") or []
    if not isinstance(calls, list):
        refuse_record(place, "tool_calls is no list")
    legacy = one.get("function_call")
    given = [*calls, {"function": legacy}] if isinstance(legacy, dict) else calls
    made = []
    for call in given:
        inner = (call.get("function") or call.get("custom") or call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            refuse_record(place, "a tool call has no name")
        arguments = inner.get("arguments", inner.get("input"))
        made.append(make_call(inner["name"], arguments, call.get("id")))
    return made


def read_content(place: str, content: Any) -> tuple[str, dict[str, Any]]:
    """Text of a message's content, and what else it holds by type. Errors: BadRecord."""
    if content is None or isinstance(content, str):
        return to_text(content), {}
    if not isinstance(content, list):
        refuse_record(place, f"content is {type(content).__name__}, neither text nor a list of parts")
    texts, others = [], []
    for part in content:
        inner = part.get("text", part.get("content")) if isinstance(part, dict) else part
        if isinstance(inner, str):
            texts.append(clean(inner))
        else:
            others.append(to_text(part.get("type")) if isinstance(part, dict) else type(part).__name__)
    return "\n".join(texts), {"left_out": others} if others else {}
