"""Exports of tracing tools: Langfuse's observations, LangSmith's runs and Weave's calls, each a step of one trace.

Langfuse's blob storage export and public API (langfuse.com/docs, "Blob Storage Export Field Reference"; keys in snake
case in the one and in camel case in the other): ``type`` GENERATION with ``input`` and ``output``, TOOL with the same;
observations are told one an object, or in their trace.

LangSmith's exports (docs.langchain.com/langsmith/run-data-format): ``run_type`` llm, tool, chain …, ``inputs``,
``outputs``, ``trace_id``, ``parent_run_id``, with ``child_runs`` inside or as objects of their own. Weave's calls
(docs.wandb.ai/weave): ``op_name``, ``inputs``, ``output``, ``trace_id``, ``parent_id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast.exchange.traces.bodies import find_messages, read_request, read_response
from holdfast.exchange.traces.chat import CONVERSATIONS, read_chat
from holdfast.exchange.traces.dialogue import Exchange, Intake, Speechless, ToolRun
from holdfast.exchange.traces.messages import perhaps, read_tools
from holdfast.exchange.traces.otlp import get_field
from holdfast.exchange.traces.records import BadRecord, read_object, read_time, refuse_record
from holdfast.models.calls.structured import answer_text, to_text

TYPES = frozenset(
    {"GENERATION", "SPAN", "EVENT", "TOOL", "AGENT", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL"}
)
_KINDS = ("run_type", "op_name")
_MODEL, _TOOL = frozenset({"llm", "chat_model"}), "tool"
_MOST_NESTED = 64  # runs in runs, each a call of the reader in itself

Row = Mapping[str, Any]


def is_langfuse(value: Any) -> bool:
    """Whether a record is an observation, or a trace with observations."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("observations"), list) and ("id" in value or "trace" in value):
        return True
    return _type(value) in TYPES and get_field(value, "traceId") is not None


def _type(row: Row) -> str:
    return str(row.get("type") or "").upper()


def read_langfuse(place: str, value: Row, intake: Intake) -> None:
    """Put an observation, or all of a trace, into ``intake``."""
    for where, row, about in _observations(place, value):
        intake.rows += 1
        unit = to_text(about.get("id"))
        try:
            plain = read_object(where, row)
            unit = to_text(get_field(plain, "traceId")) or unit
            _read_observation(where, plain, about, unit, intake)
        except BadRecord as error:
            intake.lose(error, unit=unit or None)


def _observations(place: str, value: Row) -> Iterator[tuple[str, Any, Row]]:
    """Place, observation and trace of each. Of a trace that tells its observations by id there are none but itself."""
    inner = value.get("observations")
    if not isinstance(inner, list):
        yield place, value, {}
        return
    trace = value["trace"] if isinstance(value.get("trace"), dict) else value
    inner = [] if all(isinstance(entry, str) for entry in inner) else inner
    if not any(isinstance(entry, dict) and _type(entry) == "GENERATION" for entry in inner):
        # A trace whose observations are told by id alone, or that was traced as a whole.
        yield place, {**trace, "type": "GENERATION", "traceId": trace.get("id")}, trace
    for number, entry in enumerate(inner):
        yield f"{place}: observations[{number}]", entry, trace


def _read_observation(place: str, row: Row, about: Row, unit: str, intake: Intake) -> None:
    identity = to_text(row.get("id"))
    if not unit:
        refuse_record(place, "has no traceId")
    intake.parents[unit, identity] = to_text(get_field(row, "parentObservationId"))
    start = read_time(get_field(row, "startTime") or row.get("timestamp"))
    if _type(row) == "TOOL":
        result = None if row.get("output") is None else answer_text(perhaps(place, row["output"]))
        told = {"call": to_text(get_field(row, "toolCallId")), "name": to_text(row.get("name"))}
        intake.runs.append(ToolRun(unit=unit, start=start or 0, arguments=row.get("input"), result=result, **told))
    if _type(row) != "GENERATION":
        return
    if row.get("input") in (None, "") and row.get("output") in (None, ""):
        shape = "observations of type GENERATION without input and output"
        intake.speechless.append(Speechless(unit=unit, span=identity, shape=shape))
        return
    request = read_request(f"{place}: input", row.get("input"))
    response = read_response(f"{place}: output", row.get("output"), request.choices)
    usage = get_field(row, "usageDetails") or row.get("usage")
    tokens = usage.get("output") if isinstance(usage, Mapping) else None
    made = Exchange(
        place=place,
        source="langfuse",
        given=request.said,
        replies=response.choices,
        unit=unit,
        span=identity,
        session=to_text(get_field(row, "sessionId") or get_field(about, "sessionId")) or None,
        names=(unit,),
        start=start,
        time=to_text(get_field(row, "startTime") or row.get("timestamp")) or None,
        tools=request.tools,
        model=to_text(row.get("model") or get_field(row, "providedModelName")) or response.model or request.model,
        family=to_text(get_field(row, "traceName") or about.get("name")) or None,
        tokens=tokens if type(tokens) is int else response.tokens,
        reason=response.reason,
        failed=str(row.get("level") or "").upper() == "ERROR" or response.failed,
    )
    intake.exchanges.append(made)


def is_run(value: Any) -> bool:
    """Whether a record is a run of LangSmith or a call of Weave."""
    return isinstance(value, dict) and "inputs" in value and any(isinstance(value.get(key), str) for key in _KINDS)


def read_run(place: str, value: Row, intake: Intake) -> None:
    """Put a run and those inside it into ``intake``."""
    for where, row in _each_run(place, value, 0):
        intake.rows += 1
        try:
            _read_run(where, row, to_text(row.get("trace_id") or value.get("trace_id") or value.get("id")), intake)
        except BadRecord as error:
            intake.lose(error, unit=to_text(row.get("trace_id") or value.get("id")) or None)


def _each_run(place: str, row: Row, depth: int) -> Iterator[tuple[str, Row]]:
    yield place, row
    inner = row.get("child_runs")
    if depth >= _MOST_NESTED and inner:
        refuse_record(place, f"runs nested deeper than {_MOST_NESTED}")
    for number, one in enumerate(inner if isinstance(inner, list) else []):
        if isinstance(one, dict):
            yield from _each_run(f"{place}: child_runs[{number}]", one, depth + 1)


def _read_run(place: str, row: Row, unit: str, intake: Intake) -> None:
    identity = to_text(row.get("id"))
    if not unit:
        refuse_record(place, "has no trace_id")
    intake.parents[unit, identity] = to_text(row.get("parent_run_id") or row.get("parent_id"))
    started = next((row[key] for key in ("start_time", "started_at") if row.get(key)), None)
    start = read_time(started)
    given, reply = perhaps(place, row.get("inputs")), perhaps(place, row.get("outputs", row.get("output")))
    kind = to_text(row.get("run_type")).lower()
    if kind == _TOOL:
        inner = given["input"] if isinstance(given, dict) and set(given) == {"input"} else given
        answer = reply["output"] if isinstance(reply, dict) and set(reply) == {"output"} else reply
        result = None if answer is None else answer_text(answer)
        name = to_text(row.get("name"))
        intake.runs.append(ToolRun(unit=unit, start=start or 0, name=name, arguments=inner, result=result))
        return
    spoken = find_messages(given) is not None
    model = kind in _MODEL or ("op_name" in row and spoken)
    if not spoken:
        if model and not row.get("error"):
            keys = ", ".join(map(str, list(given)[:5])) if isinstance(given, dict) else type(given).__name__
            shape = f"runs of type {kind} without readable messages: inputs {keys or 'are empty'}"
            intake.speechless.append(Speechless(unit=unit, span=identity, shape=shape))
        return
    try:
        made = read_chat(place, {"request": given, "response": reply})
    except BadRecord:
        if model:
            raise
        return  # what goes through a chain may be anything; the requests to its models tell the same
    extra = row.get("extra")
    about = extra if isinstance(extra, Mapping) else {}
    offered, metadata = (about.get(key) for key in ("invocation_params", "metadata"))
    names = metadata if isinstance(metadata, Mapping) else {}
    conversation = next((to_text(names[key]) for key in (*CONVERSATIONS, "session_id") if names.get(key)), None)
    made = replace(
        made,
        source="runs",
        unit=unit,
        span=identity,
        names=(unit,),
        conversation=conversation,
        session=None,
        start=start,
        time=to_text(started) or None,
        tools=made.tools or read_tools(offered.get("tools") if isinstance(offered, Mapping) else None),
        family=to_text(row.get("name") or row.get("op_name")) or None,
        failed=made.failed or bool(row.get("error") or row.get("exception")),
        outer=not model,
    )
    intake.exchanges.append(made)
