"""Spans and log records out of whatever holds them, as rows of one form.

OTLP/JSON of collectors and SDKs (``resourceSpans``, ``resourceLogs``; opentelemetry-proto), with names in snake case as
protobuf's own printers may write them, Grafana Tempo's ``batches``, older ``instrumentationLibrarySpans``, and spans as
objects of their own: what console exporters, Arize Phoenix and Logfire write, Jaeger's ``spans`` and Zipkin's.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.exchange.traces.dialogue import Intake
from holdfast.exchange.traces.records import BadRecord, Flaw, find_flaw, read_object, read_time, refuse_record
from holdfast.models.calls.structured import clean, to_text

ERROR_STATUS = (2, "2", "STATUS_CODE_ERROR", "ERROR", "StatusCode.ERROR")
# The lists of resources, of scopes in them, and of rows in those.
RESOURCES = ("resourceSpans", "resource_spans", "resourceLogs", "resource_logs", "batches")
_SCOPES = (
    *("scopeSpans", "scope_spans", "scopeLogs", "scope_logs", "instrumentationLibrarySpans"),
    *("instrumentation_library_spans", "instrumentationLibraryLogs", "instrumentation_library_logs", "ilSpans"),
)
_WRAPPERS = ("trace", "data")  # of Tempo, and of MLflow's traces
_ROWS = ("spans", "logRecords", "log_records", "logs")
# Of these attributes a conversation is made: one that cannot be read costs its span.
_SPEAKING = re.compile(
    r"messages|prompt|completion|gen_ai\.(tool|system_instructions|event)|llm\.|^ai\.|events|input|output|request_data"
    r"|response_data|message|tool"
)

Attributes = dict[str, Any]
Event = tuple[int, str, Attributes]  # time in ns, name, attributes
_ATTRIBUTES = ("attributes", "tags", "spanAttributes", "SpanAttributes")


@dataclass(slots=True, kw_only=True)
class Row:
    """A span or log record: ids in hex, ``start`` in ns (0 where not told), ``events`` as time, name and attributes.

    ``log`` says that it is a log record, whose ``name`` is that of its event and which may have a ``body``. ``dropped``
    counts attributes that the SDK dropped at a limit. Several rows of one span become one (``spans``); ``seen`` are the
    events that it has.
    """

    place: str
    trace: str
    span: str = ""
    parent: str = ""
    name: str = ""
    start: int = 0
    attributes: Attributes = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    failed: bool = False
    service: str | None = None
    log: bool = False
    body: Any = None
    dropped: int = 0
    seen: set[str] = field(default_factory=set)

    def first(self, names: Iterable[str]) -> Any:
        """The first attribute of these that is there."""
        return next((self.attributes[name] for name in names if self.attributes.get(name) not in (None, "")), None)


def is_spans(value: Any) -> bool:
    """Whether a record holds spans or log records, or is one."""
    if not isinstance(value, dict):
        return False
    if any(isinstance(value.get(key), list) for key in RESOURCES) or _is_span(value):
        return True
    lists = (value[key][:3] for key in ("spans", "data") if isinstance(value.get(key), list))
    return any(is_spans(value.get(key)) for key in _WRAPPERS) or any(any(map(is_spans, held)) for held in lists)


def _is_span(value: Mapping[str, Any]) -> bool:
    value = _unflatten(value)
    return any(_are_attributes(get_field(value, key)) for key in _ATTRIBUTES) and bool(_identity_of(value, "trace"))


def _unflatten(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of Phoenix' data frames, whose columns are named ``context.trace_id`` and ``attributes.NAME``."""
    if "context.trace_id" not in row:
        return row
    made = {key: value for key, value in row.items() if not key.startswith(("attributes.", "context."))}
    for whole in ("attributes", "context"):
        columns = ((key, one) for key, one in row.items() if key.startswith(f"{whole}.") and one is not None)
        made[whole] = {key.removeprefix(f"{whole}."): one for key, one in columns}
    return made


def _are_attributes(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) and "key" in one for one in value)
    return isinstance(value, dict)


def read_rows(place: str, value: Mapping[str, Any], intake: Intake, *, flawed: bool = False) -> Iterator[Row]:
    """Every span and log record of a record; what cannot be read is told to ``intake``. Errors: BadRecord."""
    for where, row, about, log in _find(place, value):
        intake.rows += 1
        unit = None
        try:
            if not isinstance(row, dict):
                refuse_record(where, "is no object")
            unit = read_identity(_identity_of(row, "trace")) or None
            yield _read(where, row, about, intake, flawed=flawed, log=log)
        except BadRecord as error:
            intake.lose(error, unit=unit)


def _find(place: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any, Attributes, bool]]:
    """Place, row, attributes of its resource, and whether it is a log record."""
    if _is_span(value) and not any(isinstance(value.get(key), list) for key in ("spans", *RESOURCES)):
        yield place, _unflatten(value), {}, False
        return
    for key in _WRAPPERS:
        if isinstance(value.get(key), dict):
            yield from _find(place, value[key])
    for key in ("spans", "data"):
        for number, one in enumerate(value[key] if isinstance(value.get(key), list) else []):
            where = f"{place}: {key}[{number}]"
            yield from _find(where, one) if is_spans(one) else [(where, one, {}, False)]
    for key in RESOURCES:
        if key in value:
            yield from _of_resources(place, key, _listed(place, value[key] or []))


def _of_resources(place: str, key: str, resources: list[Any]) -> Iterator[tuple[str, Any, Attributes, bool]]:
    for r, resource in enumerate(resources):
        if not isinstance(resource, dict):
            refuse_record(place, f"{key}[{r}] is no object")
        about = decode_attributes(place, read_object(place, resource.get("resource")).get("attributes"))
        for scopes in _SCOPES:
            for scope in _listed(place, resource.get(scopes) or []):
                held = scope if isinstance(scope, dict) else refuse_record(place, f"{scopes} holds no objects")
                for rows in _ROWS:
                    for number, row in enumerate(_listed(place, held.get(rows) or [])):
                        yield f"{place}: {rows}[{number}]", row, about, "og" in rows


def get_field(row: Mapping[str, Any], *names: str) -> Any:
    """The first field that is there, by its name in camel or in snake case."""
    for name in names:
        snake = re.sub(r"([A-Z])", r"_\1", name).lower()
        for key in (name, snake):
            if row.get(key) not in (None, ""):
                return row[key]
    return None


def _identity_of(row: Mapping[str, Any], kind: Literal["trace", "span"]) -> Any:
    for key in ("context", "span_context", "spanContext"):
        if isinstance(row.get(key), dict):
            return get_field(row[key], f"{kind}Id")
    if isinstance(row.get(kind), dict):  # Elastic's
        return row[kind].get("id")
    return get_field(row, f"{kind}Id", f"{kind}ID", f"{kind.title()}Id", {"trace": "trace", "span": "id"}[kind])


def read_identity(value: Any) -> str:
    """An id in hex: OTLP's own, one in base64 as protobuf's printers write bytes, or one that begins with 0x."""
    if not isinstance(value, str):
        return ""
    plain = clean(value.strip())
    short = plain.removeprefix("0x").lower()
    if re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", short):
        return short
    if len(plain) in (12, 24) and plain.endswith("="):
        with contextlib.suppress(ValueError):
            return base64.b64decode(plain, validate=True).hex()
    return short if short != plain.lower() else plain


def _read(where: str, row: Mapping[str, Any], about: Attributes, intake: Intake, *, flawed: bool, log: bool) -> Row:
    given = get_field(row, *_ATTRIBUTES)
    attributes = decode_attributes(where, given, intake if flawed else None)
    rest = {key: value for key, value in row.items() if key not in (*_ATTRIBUTES, "span_attributes")}
    reason = find_flaw(rest) if flawed else None
    if reason is not None:
        refuse_record(where, reason)
    started = get_field(
        row, "startTimeUnixNano", "startTime", "@timestamp", "startTimestamp", "timeUnixNano", "timestamp"
    )
    started = started or get_field(row, "observedTimeUnixNano", "start", "Timestamp")
    status = row.get("status")
    code = status.get("code", status.get("status_code")) if isinstance(status, dict) else status
    code = code if code is not None else get_field(row, "statusCode")
    if status is not None and not isinstance(status, dict | str | int):
        refuse_record(where, f"expected an object, found {type(status).__name__}")
    made = Row(
        place=where,
        trace=read_identity(_identity_of(row, "trace")),
        span=read_identity(_identity_of(row, "span")),
        parent=read_identity(get_field(row, "parentSpanId", "parentId", "parentSpanID")),
        name=to_text(get_field(row, "eventName", "name", "operationName")),
        start=_moment(where, started),
        attributes=flatten(attributes),
        failed=code in ERROR_STATUS,
        service=to_text(about.get("service.name") or attributes.get("service.name")) or None,
        log=log,
        dropped=_moment(where, get_field(row, "droppedAttributesCount")),
    )
    if log:
        made.name = to_text(get_field(row, "eventName") or attributes.get("event.name"))
        made.body = decode(where, row.get("body"))
    for event in _listed(where, get_field(row, "events", "logs") or []):
        if isinstance(event, dict):
            inner = decode_attributes(where, event.get("attributes") or event.get("fields"))
            named = event["name"] if event.get("name") is not None else inner.get("event.name")
            made.events.append((_moment(where, get_field(event, "timeUnixNano", "timestamp")), to_text(named), inner))
    return made


def _moment(place: str, value: Any) -> int:
    if value in (None, "", 0, "0"):
        return 0
    with contextlib.suppress(ValueError):
        if isinstance(value, int | str) and not isinstance(value, bool):
            return int(value)
    found = read_time(value)
    if found is None:
        refuse_record(place, "a time of no known form" if isinstance(value, str) else "an intValue is no whole number")
    return found


def decode(place: str, value: Any) -> Any:
    """The plain value of an OTLP ``AnyValue``. Errors: BadRecord."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        refuse_record(place, f"expected an OTLP value, found {type(value).__name__}")
    kind, inner = next(iter(value.items()))
    kind = kind.replace("_", "").lower()
    if kind == "intvalue":
        try:
            return int(inner)
        except (TypeError, ValueError):
            refuse_record(place, "an intValue is no whole number")
    if kind == "arrayvalue":
        return [decode(place, one) for one in _listed(place, read_object(place, inner).get("values") or [])]
    if kind == "kvlistvalue":
        return decode_attributes(place, read_object(place, inner).get("values") or [])
    if kind in ("stringvalue", "boolvalue", "doublevalue", "bytesvalue"):
        return inner
    return refuse_record(place, "an OTLP value of an unknown kind")


def decode_attributes(place: str, given: Any, intake: Intake | None = None) -> Attributes:
    """OTLP's list of keys and values, or a dictionary, as one.

    With ``intake``, an attribute whose value has a flaw is left out and counted, unless messages stand in it.
    Errors: BadRecord.
    """
    if isinstance(given, Flaw):
        refuse_record(place, given.reason)
    plain = isinstance(given, dict)
    found = {}
    for key, value in given.items() if plain else [_pair(place, one) for one in _listed(place, given or [])]:
        reason = None if intake is None else find_flaw(value)
        if intake is None or reason is None:
            found[key] = value if plain else decode(place, value)
        elif intake.strict or _SPEAKING.search(key):
            refuse_record(place, f"{reason} (in an attribute)")
        else:
            intake.flaws[reason] += 1
    return found


def _pair(place: str, one: Any) -> tuple[str, Any]:
    if not isinstance(one, dict) or not isinstance(one.get("key"), str):
        refuse_record(place, "an attribute has no key")
    value = one.get("value")
    if "vStr" in one or ("value" in one and not isinstance(value, dict | None)):  # Jaeger's tags
        value = one.get("vStr", value)
        if not isinstance(value, str | bool | int | float | Flaw):
            refuse_record(place, f"expected an OTLP value, found {type(value).__name__}")
        value = value if isinstance(value, Flaw) else {"stringValue": value}
    return one["key"], value


def _listed(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        refuse_record(place, f"expected a list, found {type(value).__name__}")
    return value


_NESTED = re.compile(r"(llm|openinference|gen_ai|ai|session|input|output|tool|agent|traceloop|langfuse|logfire)(\.|$)")
_LISTS = re.compile(r"(llm\.(input_messages|output_messages|tools|prompts|choices)|gen_ai\.(prompt|completion))(\.|$)")
_MOST_NESTED = 12  # levels of names with dots; what lies deeper stays a value


def flatten(attributes: Attributes) -> Attributes:
    """Attributes with the dotted names of those that stand nested in others beside them (Phoenix, Elasticsearch)."""
    found = dict(attributes)
    for key, value in attributes.items():
        if isinstance(value, dict | list) and _NESTED.match(key):
            _flatten(found, key, value, 0)
    return found


def _flatten(found: Attributes, path: str, value: Any, depth: int) -> None:
    listed = isinstance(value, list) and _LISTS.match(path)
    nested = dict(enumerate(value)) if listed else value if isinstance(value, dict) else {}
    for key, inner in nested.items() if depth < _MOST_NESTED else ():
        _flatten(found, f"{path}.{key}", inner, depth + 1)
    if depth:
        found.setdefault(path, value)


def nest(attributes: Attributes, prefix: str) -> list[Any]:
    """The values that dotted names with numbers spell: ``P.0.role``, ``P.1.role`` … as a list of dictionaries."""
    root: dict[str, Any] = {}
    for key, value in attributes.items():
        if not key.startswith(f"{prefix}."):
            continue
        *path, last = key[len(prefix) + 1 :].split(".")
        level = root
        for step in path:
            inner = level.get(step)
            if not isinstance(inner, dict):
                inner = level[step] = {}
            level = inner
        if not isinstance(level.get(last), dict):
            level[last] = value
    listed = _as_lists(root)
    return listed if isinstance(listed, list) else []


def _as_lists(value: Any) -> Any:
    """Dictionaries whose keys are all numbers as lists, in the order of the numbers."""
    if not isinstance(value, dict):
        return value
    made = {key: _as_lists(inner) for key, inner in value.items()}
    if made and all(key.isdigit() for key in made):
        return [made[key] for key in sorted(made, key=int)]
    return made
