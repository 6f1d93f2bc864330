"""OpenTelemetry's GenAI telemetry as OTLP/JSON: spans, and log records beside them.

A conversation is one trace. Its requests are read from ``gen_ai.input.messages``, ``gen_ai.output.messages`` and
``gen_ai.system_instructions`` (JSON text or structured, on the span or on an event
``gen_ai.client.inference.operation.details``), or from events: ``gen_ai.user.message`` … ``gen_ai.choice``, as span
events or as log records. Tools' answers that no later request repeats are taken from ``execute_tool`` spans.
(Semantic conventions for generative AI, opentelemetry.io/docs/specs/semconv/gen-ai.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.exchange.traces.chat import read_content
from holdfast.exchange.traces.dialogue import Said, Trace, find_ending, make_call, read_role, read_tools
from holdfast.exchange.traces.records import BadRecord, clean, parse, read_object, refuse_record, to_text
from holdfast.records import ToolSpec

ERROR_STATUS = (2, "STATUS_CODE_ERROR", "ERROR")
DETAILS = "gen_ai.client.inference.operation.details"
CHOICE = "gen_ai.choice"
EVENT_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
INPUT, OUTPUT, SYSTEM = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"
TOOLS, OPERATION = "gen_ai.tool.definitions", "gen_ai.operation.name"
WRAPPERS = {"resourceSpans": ("scopeSpans", "spans"), "resourceLogs": ("scopeLogs", "logRecords")}

Attributes = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class _Request:
    """What one span and the log records beside it say of one request to a model, or of one tool's execution."""

    place: str
    start: int
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[int, str, Any]] = field(default_factory=list)
    failed: bool = False
    service: str | None = None


def is_otel(value: Any) -> bool:
    """Whether a record is OTLP/JSON."""
    return isinstance(value, dict) and any(key in value for key in WRAPPERS)


# --- OTLP ---------------------------------------------------------------------------------------------------------


def decode(place: str, value: Any) -> Any:
    """The plain value of an OTLP ``AnyValue``. Errors: BadRecord."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        refuse_record(place, f"expected an OTLP value, found {type(value).__name__}")
    kind, inner = next(iter(value.items()))
    if kind == "intValue":
        return _whole(place, inner)
    if kind == "arrayValue":
        return [decode(place, one) for one in _listed(place, read_object(place, inner).get("values", []))]
    if kind == "kvlistValue":
        return decode_attributes(place, read_object(place, inner).get("values", []))
    if kind in ("stringValue", "boolValue", "doubleValue", "bytesValue"):
        return inner
    return refuse_record(place, "an OTLP value of an unknown kind")


def decode_attributes(place: str, given: Any) -> dict[str, Any]:
    """OTLP's list of keys and values as a dictionary; a dictionary stays as it is. Errors: BadRecord."""
    if isinstance(given, dict):
        return given
    found = {}
    for one in _listed(place, given or []):
        if not isinstance(one, dict) or not isinstance(one.get("key"), str):
            refuse_record(place, "an attribute has no key")
        found[one["key"]] = decode(place, one.get("value"))
    return found


def _listed(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        refuse_record(place, f"expected a list, found {type(value).__name__}")
    return value


def _whole(place: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return refuse_record(place, "an intValue is no whole number")


def _time(place: str, row: Mapping[str, Any], *names: str) -> int:
    return next((_whole(place, row[name]) for name in names if row.get(name) not in (None, "", 0, "0")), 0)


def _rows(place: str, value: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any], Attributes]]:
    """Place, row and resource attributes of every span or log record."""
    scopes, rows = WRAPPERS[key]
    for r, resource in enumerate(_listed(place, value.get(key, []))):
        if not isinstance(resource, dict):
            refuse_record(place, f"{key}[{r}] is no object")
        about = decode_attributes(place, read_object(place, resource.get("resource")).get("attributes"))
        for scope in _listed(place, resource.get(scopes, resource.get("instrumentationLibrarySpans", []))):
            for number, row in enumerate(_listed(place, scope.get(rows, []) if isinstance(scope, dict) else None)):
                if not isinstance(row, dict):
                    refuse_record(place, f"{rows}[{number}] is no object")
                yield f"{place}: {rows}[{number}]", row, about


# --- collecting ---------------------------------------------------------------------------------------------------


class Collector:
    """Spans and log records of any number of files, put together by trace."""

    def __init__(self) -> None:
        self._traces: dict[str, dict[str, _Request]] = {}

    def take(self, place: str, value: Mapping[str, Any]) -> Iterator[BadRecord | None]:
        """One OTLP document: for each span and log record None, or what is wrong with it. Errors: BadRecord."""
        for key, take in (("resourceSpans", self._take_span), ("resourceLogs", self._take_log)):
            for where, row, about in _rows(place, value, key):
                try:
                    take(where, row, about)
                except BadRecord as error:
                    yield error
                else:
                    yield None

    def _request(self, where: str, row: Mapping[str, Any], start: int) -> _Request:
        trace, span = row.get("traceId"), row.get("spanId")
        if not isinstance(trace, str) or not trace:
            refuse_record(where, "has no traceId")
        requests = self._traces.setdefault(clean(trace).lower(), {})
        return requests.setdefault(str(span), _Request(place=where, start=start))

    def _take_span(self, where: str, row: Mapping[str, Any], about: Attributes) -> None:
        attributes = decode_attributes(where, row.get("attributes"))
        start = _time(where, row, "startTimeUnixNano")
        request = self._request(where, row, start)
        request.start = start or request.start
        request.attributes |= attributes
        request.service = request.service or to_text(about.get("service.name")) or None
        request.failed |= read_object(where, row.get("status")).get("code") in ERROR_STATUS
        for event in _listed(where, row.get("events") or []):
            if isinstance(event, dict):
                inner = decode_attributes(where, event.get("attributes"))
                time, name = _time(where, event, "timeUnixNano"), to_text(event.get("name"))
                self._take_event(where, request, time, name, inner)

    def _take_log(self, where: str, row: Mapping[str, Any], about: Attributes) -> None:
        attributes = decode_attributes(where, row.get("attributes"))
        name = to_text(row.get("eventName") or attributes.get("event.name"))
        time = _time(where, row, "timeUnixNano", "observedTimeUnixNano")
        if name not in EVENT_ROLES and name not in (CHOICE, DETAILS):
            return
        request = self._request(where, row, time)
        request.service = request.service or to_text(about.get("service.name")) or None
        body = decode(where, row.get("body"))
        self._take_event(where, request, time, name, attributes if body is None else {**attributes, "body": body})

    @staticmethod
    def _take_event(where: str, request: _Request, time: int, name: str, inner: dict[str, Any]) -> None:
        if name == DETAILS:
            request.attributes |= inner
        elif (name in EVENT_ROLES or name == CHOICE) and (time, name, inner) not in request.events:
            request.events.append((time, name, inner))  # once, though an exporter that retries sends it again

    def traces(self) -> Iterator[Trace | BadRecord]:
        """Every conversation, by trace id, or what keeps it from being read; traces without a message are passed by."""
        for identity in sorted(self._traces):
            requests = sorted(self._traces[identity].values(), key=lambda one: one.start)
            try:
                made = _make_trace(identity, requests)
            except BadRecord as error:
                yield error
                continue
            if made is not None:
                yield made


def _make_trace(identity: str, requests: Sequence[_Request]) -> Trace | None:
    threads: list[list[Said]] = []
    told = [(one, read_request(one)) for one in requests]
    told = [(one, whole) for one, whole in told if whole]
    # What an agent's own span says of a conversation stands in the requests to its model too.
    inner = [(one, whole) for one, whole in told if one.attributes.get(OPERATION) != "invoke_agent"]
    told = inner or told
    for _, whole in told:
        for thread in threads:
            if _extends(whole, thread):
                thread[:] = whole
                break
            if _extends(thread, whole):
                break
        else:
            threads.append(whole)
    if not threads:
        return None
    said = max(threads, key=len)
    said += _unanswered(said, requests)
    speaking = [one for one, _ in told]
    reasons = [_reason(one) for one in speaking]
    last = speaking[-1]
    found: dict[str, Any] = {}
    for one in requests:
        found |= {key: value for key, value in one.attributes.items() if value not in (None, "")}
    tokens = [one.attributes.get("gen_ai.usage.output_tokens") for one in speaking]
    counted = [one for one in tokens if type(one) is int]
    return Trace(
        id=identity,
        place=requests[0].place,
        source="otel",
        said=tuple(said),
        tools=_tools(requests),
        model=to_text(found.get("gen_ai.response.model") or found.get("gen_ai.request.model")) or None,
        family=to_text(found.get("gen_ai.agent.name")) or last.service,
        time=str(requests[0].start) if requests[0].start else None,
        tokens=sum(counted) if counted else None,
        ending=find_ending(said, next((one for one in reversed(reasons) if one), None), failed=last.failed),
        dialogues=len(threads),
    )


def _extends(longer: Sequence[Said], shorter: Sequence[Said]) -> bool:
    """Whether one conversation begins with the other."""
    return len(longer) >= len(shorter) and all(a.same(b) for a, b in zip(longer, shorter, strict=False))


def _tools(requests: Iterable[_Request]) -> tuple[ToolSpec, ...]:
    for one in requests:
        found = read_tools(_structured(one.place, one.attributes.get(TOOLS)))
        if found:
            return found
    return ()


def _unanswered(said: Sequence[Said], requests: Iterable[_Request]) -> list[Said]:
    """Answers, from the tools' own spans, to calls that no message answers."""
    answered = {one.answers for one in said if one.role == "tool"}
    open_calls = [call for one in said for call in one.calls if call.id and call.id not in answered]
    results = {
        to_text(one.attributes.get("gen_ai.tool.call.id")): one
        for one in requests
        if "gen_ai.tool.call.result" in one.attributes
    }
    return [
        Said(
            role="tool",
            text=to_text(results[call.id].attributes["gen_ai.tool.call.result"]),
            answers=call.id,
            name=call.name,
        )
        for call in open_calls
        if call.id in results
    ]


# --- messages -----------------------------------------------------------------------------------------------------


def read_request(request: _Request) -> list[Said]:
    """The conversation that one request sent and got, or nothing where the telemetry holds no message."""
    place, attributes = request.place, request.attributes
    before = [
        Said(role="system", text=text)
        for text in _system_texts(place, _structured(place, attributes.get(SYSTEM)))
        if text
    ]
    given = _messages(place, _structured(place, attributes.get(INPUT)))
    answers = _messages(place, _structured(place, attributes.get(OUTPUT)))[:1]  # one message for each choice
    if given or answers:
        has_system = any(one.role == "system" for one in given)
        return [*([] if has_system else before), *given, *answers]
    said = [_read_event(place, name, inner) for _, name, inner in sorted(request.events, key=lambda one: one[0])]
    return [*before, *(one for one in said if one is not None)]


def _structured(place: str, value: Any) -> Any:
    """A structured value, also where it was written as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        return parse(place, value.encode("utf-8", "replace"))
    return value


def _perhaps(place: str, value: Any) -> Any:
    """A structured value where the text is JSON of one, else the text."""
    try:
        return _structured(place, value)
    except BadRecord:
        return value


def _system_texts(place: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [clean(value)]
    return [read_content(place, [part])[0] for part in value] if isinstance(value, list) else []


def _messages(place: str, value: Any) -> list[Said]:
    if value is None:
        return []
    if not isinstance(value, list):
        refuse_record(place, "messages are neither a list nor JSON of one")
    return [said for one in value for said in _read_message(place, one)]


def _read_message(place: str, one: Any) -> list[Said]:
    """A message of parts; one with several tools' answers becomes as many messages."""
    if not isinstance(one, dict):
        refuse_record(place, f"expected a message, found {type(one).__name__}")
    role = read_role(place, one.get("role"))
    parts = one.get("parts", one.get("content"))
    if isinstance(parts, str):
        parts = [{"type": "text", "content": parts}]
    texts, calls, answers, detail = [], [], [], dict[str, Any]()
    for part in _listed(place, parts if parts is not None else []):
        if not isinstance(part, dict):
            refuse_record(place, f"expected a part of a message, found {type(part).__name__}")
        kind = part.get("type")
        if kind == "text":
            texts.append(to_text(part.get("content", part.get("text"))))
        elif kind == "tool_call":
            calls.append(make_call(part.get("name"), part.get("arguments"), part.get("id")))
        elif kind == "tool_call_response":
            text = to_text(part.get("response", part.get("result")))
            answers.append(Said(role="tool", text=text, answers=to_text(part.get("id")) or None))
        elif kind == "reasoning":
            detail["reasoning"] = "\n".join(filter(None, [detail.get("reasoning"), to_text(part.get("content"))]))
        else:
            detail.setdefault("left_out", []).append(to_text(kind))
    if answers and not texts and not calls:
        return answers
    said = Said(
        role=role,
        text="\n".join(texts),
        calls=tuple(calls) if role == "assistant" else (),
        name=to_text(one.get("name")) or None,
        detail=detail,
    )
    return [said, *answers]


def _body(place: str, inner: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says: its body, its content attribute, or its attributes themselves."""
    body = _perhaps(place, inner.get("body", inner.get("gen_ai.event.content")))
    if isinstance(body, dict):
        return {**{key: value for key, value in inner.items() if key not in ("body", "gen_ai.event.content")}, **body}
    return dict(inner) if body is None else {**inner, "content": body}


def _read_event(place: str, name: str, inner: Mapping[str, Any]) -> Said | None:
    body = _body(place, inner)
    message = _perhaps(place, body.get("message")) if name == CHOICE else body
    if name == CHOICE and body.get("index") not in (None, 0, "0"):
        return None
    if not isinstance(message, dict):
        message = {"content": message}
    role = read_role(place, message.get("role") or EVENT_ROLES.get(name, "assistant"))
    calls = _perhaps(place, message.get("tool_calls", body.get("tool_calls"))) or []
    text, detail = read_content(place, _plain_content(place, message.get("content")))
    made = []
    for call in _listed(place, calls):
        inside = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inside, dict) or not isinstance(inside.get("name"), str):
            refuse_record(place, "a tool call has no name")
        made.append(make_call(inside["name"], inside.get("arguments"), call.get("id")))
    answers = to_text(message.get("id", message.get("tool_call_id"))) or None
    said = Said(role=role, text=text, calls=tuple(made), detail=detail)
    return replace(said, answers=answers, name=to_text(message.get("name")) or None) if role == "tool" else said


def _plain_content(place: str, content: Any) -> Any:
    """Content as text or parts; any other structure as JSON text."""
    if isinstance(content, str) and content.lstrip()[:2] in ("[{", "[]"):
        content = _perhaps(place, content)
    return to_text(content) if isinstance(content, dict | int | float) else content


def _reason(request: _Request) -> str | None:
    """Why the model stopped in one request."""
    place, attributes = request.place, request.attributes
    answers = _structured(place, attributes.get(OUTPUT))
    if isinstance(answers, list) and answers and isinstance(answers[0], dict) and answers[0].get("finish_reason"):
        return to_text(answers[0]["finish_reason"])
    reasons = _structured(place, attributes.get("gen_ai.response.finish_reasons"))
    if isinstance(reasons, list) and reasons:
        return to_text(reasons[0])
    for _, name, inner in request.events:
        if name == CHOICE:
            return to_text(_body(place, inner).get("finish_reason")) or None
    return None
