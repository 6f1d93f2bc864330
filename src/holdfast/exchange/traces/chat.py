"""Chat logs: one object for each request or conversation, with ``messages``, or as a pair of request and response.

The request may be a body of any API (``bodies``), and may stand in an HTTP body or a line of a batch file, whose
results are joined by ``custom_id`` (OpenAI: platform.openai.com/docs/guides/batch; Anthropic: message batches).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.exchange.traces.bodies import MESSAGES, Response, find_messages, is_answer, read_request, read_response
from holdfast.exchange.traces.dialogue import UNREAD, Exchange, Intake, Said
from holdfast.exchange.traces.messages import perhaps
from holdfast.exchange.traces.records import BadRecord, read_time, refuse_record
from holdfast.models.calls.structured import clean, find_names

CONVERSATIONS = ("conversation_id", "thread_id", "conversationId", "threadId", "chat_id")
SESSIONS = ("trace_id", "session_id", "sessionId", "traceId", "litellm_session_id", "litellm_trace_id")
# In this order an id names a conversation; that of a session may come again with another.
IDS = (
    *(*CONVERSATIONS, "trace_id", "traceId", "custom_id", "id", "request_id", "requestId", "recordId", "key"),
    *SESSIONS,
)
TIMES = ("timestamp", "created_at", "created", "time", "startTime", "start_time", "createdAt")
FAMILIES = ("family", "task", "agent", "agent_name", "route")
REQUESTS = (
    *("request", "body", "params", "request_body", "requestBody", "input", "inputs", "proxy_server_request"),
    *("full_request", "fullRequest", "modelInput", "req"),
)
RESPONSES = (
    *("response", "response_body", "responseBody", "output", "outputs", "full_response", "fullResponse"),
    *("modelOutput", "res", "completion"),
)
_BODIES = ("body", "inputBodyJson", "outputBodyJson")  # of HTTP, and of Bedrock's invocation logs
BATCH = "custom_id"
_CALLS = ("tool_calls", "toolCalls", "function_call")

Body = Mapping[str, Any]


def is_chat(value: Any) -> bool:
    """Whether a record is a chat: messages, a request that has some, or a line of a batch file."""
    if not isinstance(value, dict):
        return False
    if "messages" in value or isinstance(value.get("conversations"), list):
        return True
    if isinstance(value.get("contents"), list) and find_messages(value) == "contents":
        return True  # Gemini's, as it is kept for tuning
    return _request(value) is not None and (is_batch_request(value) or _response(value) is not None)


def is_batch_request(value: Body) -> bool:
    """Whether a record is a line of a batch's input."""
    return BATCH in value and isinstance(value.get("body", value.get("params")), dict) and "response" not in value


def is_batch_result(value: Any) -> bool:
    """Whether a record is a line of a batch's output."""
    if not isinstance(value, dict) or not isinstance(value.get(BATCH), str):
        return False
    return any(key in value for key in ("response", "result", "error")) and _request(value) is None


def _inner(found: Any) -> Any:
    """What stands in an HTTP body, also as JSON text."""
    if isinstance(found, str) and found.lstrip()[:1] == "{":
        found = perhaps("", found)
    held = found if isinstance(found, dict) else {}
    return next((held[key] for key in _BODIES if isinstance(held.get(key), dict | list)), found)


def _request(value: Body) -> Any:
    """What was asked: the record itself where it holds messages."""
    if value.get("messages") or ("messages" in value and not any(key in value for key in REQUESTS)):
        return value
    for key in REQUESTS:
        found = _inner(value.get(key))
        if isinstance(found, dict) and find_messages(found) is not None:
            return found
    return value if "messages" in value or find_messages(value) is not None else None


def _response(value: Body) -> Any:
    for key in RESPONSES:
        found = _inner(value.get(key))
        if found is not None:
            return value[key] if isinstance(value[key], str) and is_answer(found) else found
    if isinstance(value.get("choices"), list) or isinstance(value.get("candidates"), list):
        return value
    return None


def read_chat(place: str, value: Body) -> Exchange:
    """The request, or the whole conversation, of one record. Errors: BadRecord."""
    body = _request(value)
    request = read_request(place, body)
    answer = _with_calls(value, _response(value), request.said)
    response = Response()
    if answer is not None and (answer is not value or "choices" in value or "candidates" in value):
        whole = answer if isinstance(answer, Mapping) else {"output": answer}
        status = {key: value[key] for key in ("status", "incomplete_details") if key in value and "output" in value}
        response = read_response(place, {**status, **whole}, request.choices)
    bodies = [one for one in (value, answer, body) if isinstance(one, Mapping)]
    sources = tuple({id(one): one for one in (*bodies, *map(_metadata, bodies)) if one}.values())
    given, replies = request.said, response.choices
    if given and replies and len(replies[0]) > len(given) and _shown(replies[0][: len(given)]) == _shown(given):
        replies = [replies[0][len(given) :], *replies[1:]]  # an agent that returns all messages
    if replies and given and _shown(given[-1:]) == _shown(replies[0]) and given[-1].role == "assistant":
        given = given[:-1]  # a log that adds the reply to what was asked
    if unread := _find_unread(value, [*given, *(replies[0] if replies else [])]):
        beside = Said(role="assistant", detail={UNREAD: unread})
        replies = [[*(replies[0] if replies else []), beside], *replies[1:]]
    reason = value.get("finish_reason")
    return Exchange(
        place=place,
        source="chat",
        given=given,
        replies=replies,
        conversation=_first(CONVERSATIONS, sources),
        session=_first(SESSIONS, sources),
        follows=_first(("previous_response_id",), sources),
        names=tuple(dict.fromkeys(name for key in IDS if (name := _first((key,), sources)) is not None)),
        start=read_time(_first(TIMES, sources)),
        time=_first(TIMES, sources),
        tools=request.tools,
        model=response.model or request.model or _first(("model",), sources),
        family=_first(FAMILIES, (_metadata(value), _metadata(body), value)),
        tokens=response.tokens,
        reason=response.reason or (reason if isinstance(reason, str) else None),
        failed=bool(value.get("error")) or response.failed,
    )


def _with_calls(value: Body, answer: Any, given: list[Said]) -> Any:
    """The response with calls that a row tells beside it, unless what was said holds them."""
    told = {key: value[key] for key in _CALLS if value.get(key)}
    if not told or isinstance(answer, dict | list):
        return answer
    made = read_response("calls", {"role": "assistant", "content": answer, **told}).choices
    names = [call.name for one in made[0] for call in one.calls]
    held = [call.name for one in given for call in one.calls]
    if names and not Counter(names) - Counter(held):
        return answer
    return {"role": "assistant", "content": answer, **told}


_READ = frozenset({*REQUESTS, *RESPONSES, *MESSAGES, *_CALLS, "choices", "candidates", "tools", "functions"})


def _find_unread(value: Body, said: list[Said]) -> list[str]:
    """The keys beside messages that hold calls which no message makes."""
    made = {call.name for one in said for call in one.calls}
    beside = {key: one for key, one in value.items() if key not in _READ}
    return [clean(key) for key, one in beside.items() if not made.issuperset(find_names(key, one))]


def _shown(said: list[Said]) -> list[tuple[str, str, list[str]]]:
    return [(one.role, one.text, [call.name for call in one.calls]) for one in said]


def _metadata(value: Any) -> Body:
    found = value.get("metadata") if isinstance(value, Mapping) else None
    return found if isinstance(found, dict) else {}


def _first(names: tuple[str, ...], places: tuple[Body, ...]) -> str | None:
    """The first value that is a text or a number, by name and then by place."""
    for name in names:
        for one in places:
            found = one.get(name)
            if isinstance(found, str | int | float) and not isinstance(found, bool) and found != "":
                return clean(str(found))
    return None


class Batches:
    """Lines of OpenAI batch files, whose requests and results lie in different files, put together."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[str, Body]] = {}
        self._results: dict[str, tuple[str, Body]] = {}

    def take(self, place: str, value: Body) -> None:
        """A line of either file. Errors: BadRecord where its id was met in the same kind of file."""
        held = self._results if is_batch_result(value) else self._requests
        if held.setdefault(str(value[BATCH]), (place, value))[1] != value:
            refuse_record(place, "another line has the same custom_id", "give each batch's files by themselves")

    def finish(self, intake: Intake) -> None:
        """Each request with its result into ``intake``, or what is missing."""
        for name in sorted(self._requests.keys() | self._results.keys()):
            try:
                intake.exchanges.append(self._join(name))
            except BadRecord as error:
                intake.lose(error)

    def _join(self, name: str) -> Exchange:
        (place, request), (other, result) = (held.get(name, ("", {})) for held in (self._requests, self._results))
        if not place or not other:
            alone, missing, file = ("request", "result", "output") if place else ("result", "request", "input")
            remedy = f"give the batch's {file} file too (they are joined by custom_id)"
            refuse_record(place or other, f"a batch's {alone} without its {missing}", remedy)
        answer = result.get("response")
        if not isinstance(answer, Mapping):
            answer = result.get("result")
        if isinstance(answer, Mapping) and isinstance(answer.get("message"), Mapping) and "type" in answer:
            answer = answer["message"]  # Anthropic's batches
        made = read_chat(place, {**request, "response": answer or {"error": result.get("error") or True}})
        failed = bool(result.get("error")) or made.failed
        return replace(made, names=(str(request[BATCH]), *made.names), failed=failed)
