"""Langfuse's exports: observations, one an object, or a trace with its observations.

Of the blob storage export and the public API (langfuse.com/docs, "Blob Storage Export Field Reference"; keys in snake
case in the one and in camel case in the other): ``type`` GENERATION with ``input`` and ``output``, TOOL with the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.exchange.traces.bodies import read_request, read_response
from holdfast.exchange.traces.dialogue import Exchange, Intake, Speechless, ToolRun
from holdfast.exchange.traces.messages import perhaps
from holdfast.exchange.traces.otlp import get_field
from holdfast.exchange.traces.records import BadRecord, read_object, refuse_record
from holdfast.exchange.traces.times import read_time
from holdfast.models.calls.structured import answer_text, to_text

TYPES = frozenset(
    {"GENERATION", "SPAN", "EVENT", "TOOL", "AGENT", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL"}
)

Row = Mapping[str, Any]


def is_langfuse(value: Any) -> bool:
    """Whether a record is an observation, a trace with observations, or a page of them."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("observations"), list) and ("id" in value or "trace" in value):
        return True
    if isinstance(value.get("data"), list) and isinstance(next(iter(value["data"]), None), dict):
        return is_langfuse(value["data"][0])
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
            _read(where, plain, about, unit, intake)
        except BadRecord as error:
            intake.lose(error, unit=unit or None)


def _observations(place: str, value: Row) -> Iterator[tuple[str, Any, Row]]:
    """Place, observation and trace of each. Of a trace that tells its observations by id there are none but itself."""
    if isinstance(value.get("data"), list):
        for number, one in enumerate(value["data"]):
            where = f"{place}: data[{number}]"
            yield from _observations(where, one) if isinstance(one, dict) else [(where, one, {})]
        return
    inner = value.get("observations")
    if not isinstance(inner, list):
        yield place, value, {}
        return
    found = value["trace"] if isinstance(value.get("trace"), dict) else value
    inner = [] if all(isinstance(one, str) for one in inner) else inner
    if not any(isinstance(one, dict) and _type(one) == "GENERATION" for one in inner):
        # A trace whose observations are told by id alone, or that was traced as a whole.
        yield place, {**found, "type": "GENERATION", "traceId": found.get("id")}, found
    for number, one in enumerate(inner):
        yield f"{place}: observations[{number}]", one, found


def _read(place: str, row: Row, about: Row, unit: str, intake: Intake) -> None:
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
    exchange = Exchange(
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
    intake.exchanges.append(exchange)
