"""Spans and log records as requests to models and executions of tools."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from holdfast.exchange.traces.dialects import OUTPUT, Pair, is_told_event, read_offered, read_pairs
from holdfast.exchange.traces.dialogue import UNREAD, Exchange, Intake, Said, Speechless, ToolRun
from holdfast.exchange.traces.messages import perhaps
from holdfast.exchange.traces.otlp import Row
from holdfast.exchange.traces.records import BadRecord, parse_text, refuse_record
from holdfast.models.calls.structured import answer_text, to_text

DETAILS = "gen_ai.client.inference.operation.details"
OPERATION = "gen_ai.operation.name"
_KINDS = (
    *("openinference.span.kind", "traceloop.span.kind", "langfuse.observation.type", "mlflow.spanType"),
    *("ai.operationId", "operation.name", "llm.request.type", "mcp.method.name", "genkit:metadata:subtype"),
)
_TOOL = frozenset({"execute_tool", "tool", "ai.toolcall", "tools/call"})
_OUTER = frozenset(
    {"invoke_agent", "create_agent", "invoke_workflow", "agent", "chain", "workflow", "task", "ai.generatetext"}
    | {"ai.streamtext", "ai.generateobject", "ai.streamobject", "guardrail", "plan"}
)
_AGENT = frozenset({"invoke_agent", "agent", "ai.generatetext", "ai.streamtext"})
_WHOLE = ("all_messages_events", "pydantic_ai.all_messages")  # of an agent's run
_NO_MODEL = frozenset({"embeddings", "embedding", "rerank", "reranker", "retriever", "retrieval", "ai.embed"})
_MODEL = frozenset(
    {"chat", "generate_content", "text_completion", "completion", "completions", "responses", "llm", "generation"}
    | {"chat_model", "generate", "inference", "model"}
)
_MODEL_NAMES = (
    *("gen_ai.response.model", "gen_ai.request.model", "llm.response.model_name", "llm.model_name"),
    *("ai.response.model", "ai.model.id", "langfuse.observation.model.name", "llm.request.model_name", "model_name"),
)
_TOKENS = (
    *("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    *("llm.usage.completion_tokens", "ai.usage.outputTokens", "ai.usage.completionTokens"),
)
_REASONS = (
    *("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "gen_ai.response.stop_reason"),
    *("llm.finish_reason", "llm.response.finish_reason", "llm.response.stop_reason", "ai.response.finishReason"),
    "ai.finishReason",
)
_AGENTS = ("gen_ai.agent.name", "agent.name", "agent_name")
_SESSIONS = (
    *("session.id", "langfuse.session.id", "traceloop.association.properties.session_id"),
    *("traceloop.association.properties.thread_id", "ai.telemetry.metadata.sessionId", "langsmith.trace.session_id"),
)
_CALLS = ("gen_ai.tool.call.id", "ai.toolCall.id", "tool.id", "tool_call.id")
_OWN_NAMES = ("gen_ai.tool.name", "ai.toolCall.name", "mcp.tool.name", "tool.name")
_TOOL_NAMES = (*_OWN_NAMES, "traceloop.entity.name", "genkit:name")
_TOOL_ARGUMENTS = (
    *("gen_ai.tool.call.arguments", "ai.toolCall.args", "tool_arguments", "input.value", "traceloop.entity.input"),
    *("langfuse.observation.input", "mlflow.spanInputs", "gcp.vertex.agent.tool_call_args", "genkit:input"),
    *("mcp.request.argument", "mcp.request.params"),
)
_TOOL_RESULTS = (
    *("gen_ai.tool.call.result", "ai.toolCall.result", "tool_response", "output.value", "traceloop.entity.output"),
    *("langfuse.observation.output", "mlflow.spanOutputs", "gcp.vertex.agent.tool_response", "genkit:output"),
    "mcp.response.value",
)
# Attributes that say nothing of what was spoken, by which a shape is not told.
_PLAIN = re.compile(
    r"^(gen_ai\.(request|usage|response|system$|provider|operation|agent|conversation|token|output\.type)|server\.|http"
    r"|service|openinference|session|user|thread|code|otel|telemetry|process|host|k8s|net|url|error|logfire|metadata"
    r"|llm\.(model_name|token|usage|provider|system|invocation))"
)
# Beginnings of names under which nothing but a request to a model holds messages.
_SPEAKING = ("gen_ai.", "llm.", "ai.prompt", "ai.response", "pydantic_ai", "all_messages_events")
_MOST_NAMES = 6


def _kinds(span: Row) -> set[str]:
    """What kind of work it says that it is, in all words that it has for that."""
    found = (span.attributes.get(key) for key in (OPERATION, *_KINDS))
    plain = {one.strip().strip('"').lower() for one in found if isinstance(one, str) and one}  # MLflow quotes
    return plain | {one.partition(" ")[0] for one in plain}


class SpanCollector:
    """Spans and log records of any number of files, put together by trace and span."""

    def __init__(self) -> None:
        self._traces: dict[str, dict[str, Row]] = {}

    def take(self, row: Row) -> None:
        """One span or log record. Errors: BadRecord."""
        if row.log:
            self._take_log(row)
            return
        span = self._find(row, row.span or row.place)
        span.start, span.name, span.parent = row.start or span.start, row.name or span.name, row.parent or span.parent
        span.attributes |= row.attributes
        span.service = span.service or row.service
        span.failed |= row.failed
        span.dropped += row.dropped
        for time, name, inner in row.events:
            self._take_event(span, time, name, inner)

    def _find(self, row: Row, identity: str) -> Row:
        if not row.trace:
            refuse_record(row.place, "has no traceId")
        span = Row(place=row.place, trace=row.trace, span=identity, start=row.start)
        return self._traces.setdefault(row.trace, {}).setdefault(identity, span)

    def _take_log(self, row: Row) -> None:
        name = row.name
        told = any(key in row.attributes for key in ("gen_ai.input.messages", OUTPUT))
        if not is_told_event(name) and name != DETAILS and not told:
            return
        if not row.trace and row.attributes.get("gen_ai.conversation.id"):
            row.trace = to_text(row.attributes["gen_ai.conversation.id"])
        # A record without a span may stand beside others of its trace; details are a request by themselves.
        span = self._find(row, row.span or (row.place if told or name == DETAILS else ""))
        span.service = span.service or row.service
        if is_told_event(name) and not told:
            inner = row.attributes if row.body is None else {**row.attributes, "body": row.body}
            self._take_event(span, row.start, name, inner)
        else:
            body = row.body if isinstance(row.body, dict) else {}
            span.attributes |= {**row.attributes, **body}

    @staticmethod
    def _take_event(span: Row, time: int, name: str, inner: dict[str, Any]) -> None:
        if name == DETAILS:
            span.attributes |= inner
        elif is_told_event(name):
            key = to_text([time, name, inner])
            if key not in span.seen or not time:  # once, though an exporter that retries sends it again
                span.events.append((time, name, inner))
            span.seen.add(key)

    def finish(self, intake: Intake) -> None:
        """Every request and tool's execution into ``intake``."""
        for spans in self._traces.values():
            told = {name for one in spans.values() if (name := one.attributes.get("gen_ai.conversation.id"))}
            conversation = to_text(next(iter(told))) if len(told) == 1 else None
            intake.parents |= {(span.trace, span.span): span.parent for span in spans.values()}
            for span in spans.values():
                try:
                    _finish(span, spans, conversation, intake)
                except BadRecord as error:
                    intake.lose(error, unit=span.trace)


def _finish(span: Row, spans: dict[str, Row], conversation: str | None, intake: Intake) -> None:
    kinds = _kinds(span)
    if _is_tool(span):
        above = [spans[one] for one in intake.above(span.trace, span.span) if one in spans]
        if not any(_is_tool(one) and _tool_of(one) == _tool_of(span) for one in above):
            result = span.first(_TOOL_RESULTS)
            run = ToolRun(
                unit=span.trace,
                start=span.start,
                call=to_text(span.first(_CALLS)),
                name=_tool_of(span),
                arguments=span.first(_TOOL_ARGUMENTS),
                result=None if result is None else answer_text(_plain_result(span.place, result)),
            )
            intake.runs.append(run)
        return
    if kinds & _NO_MODEL:
        return
    whole = any(key in span.attributes for key in _WHOLE)
    outer = whole or bool(kinds & _OUTER and not kinds & _MODEL)
    model = not outer and bool(kinds & _MODEL or span.first(_MODEL_NAMES) is not None)
    read = model or outer or any(key.startswith(_SPEAKING) for key in span.attributes)
    try:
        pairs = read_pairs(span.place, span.attributes if read else {}, span.events, outer=not model)
    except BadRecord:
        if not outer:
            raise
        pairs = []  # the requests to its model tell the same
    for number, pair in enumerate(pairs):
        intake.exchanges.append(_make(span, pair, conversation, outer=outer, last=number == len(pairs) - 1))
    if not pairs and not span.failed and (model or kinds & _AGENT):
        intake.speechless.append(Speechless(unit=span.trace, span=span.span, shape=_describe(span), outer=not model))


def _is_tool(span: Row) -> bool:
    """Whether it is the execution of a tool: by its kind, or as it names a tool and is of no other kind."""
    kinds = _kinds(span)
    told = bool(kinds & _TOOL) or span.name.startswith(("execute_tool ", "tools/call "))
    return told or (span.first(_OWN_NAMES) is not None and not kinds & (_MODEL | _OUTER | _NO_MODEL))


def _tool_of(span: Row) -> str:
    return to_text(span.first(_TOOL_NAMES)) or span.name.removeprefix("execute_tool ").removeprefix("tools/call ")


def _describe(span: Row) -> str:
    """A span's shape in words: what it says that it is, and the names of its other attributes."""
    operation = span.attributes.get(OPERATION)
    kind = next((f"{key} {span.attributes[key]}" for key in _KINDS if span.attributes.get(key)), None)
    told = f"{OPERATION} {operation}" if operation else kind or "a model's name"
    names = [re.sub(r"\.\d+(?=\.|$)", ".N", key) for key in span.attributes if not _PLAIN.match(key)]
    found = [name for name, _ in Counter(names).most_common() if name not in _KINDS and name not in _MODEL_NAMES]
    shown = ", ".join(found[:_MOST_NAMES]) + (" …" if found[_MOST_NAMES:] else "")
    content = f"attributes {shown}" if shown else "content is not captured"
    return f"spans of a model ({told}) without readable messages: {content}"


def _make(span: Row, pair: Pair, conversation: str | None, *, outer: bool, last: bool) -> Exchange:
    request, response = pair
    reason = perhaps(span.place, span.first(_REASONS))
    reason = next(iter(reason), None) if isinstance(reason, list) else reason
    tokens = span.first(_TOKENS)
    agent = span.first(_AGENTS)
    replies = response.choices
    if span.dropped and replies:
        cut = {UNREAD: [f"{span.dropped} attributes dropped at a limit"]}
        replies = [[*replies[0], Said(role="assistant", detail=cut)], *replies[1:]]
    return Exchange(
        place=span.place,
        source="otel",
        given=request.said,
        replies=replies,
        unit=span.trace,
        span=span.span,
        conversation=conversation,
        session=to_text(span.first(_SESSIONS)) or None,
        names=(span.trace,),
        start=span.start or None,
        time=str(span.start) if span.start else None,
        tools=read_offered(span.place, span.attributes) or request.tools,
        model=to_text(span.first(_MODEL_NAMES)) or response.model or request.model,
        family=to_text(agent) or span.service,
        agent=to_text(agent) or None,
        tokens=tokens if type(tokens) is int else response.tokens,
        reason=response.reason or (reason if isinstance(reason, str) and last else None),
        failed=span.failed and last,
        outer=outer,
    )


def _plain_result(place: str, value: Any) -> Any:
    """A result as it was, where it was written as JSON text."""
    if isinstance(value, str) and value[:1] == value[-1:] == '"':
        try:
            return parse_text(place, value)
        except BadRecord:
            return value
    return perhaps(place, value)
