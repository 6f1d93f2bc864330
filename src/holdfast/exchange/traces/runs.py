"""Runs of LangSmith and calls of Weave: what went in and what came out of each step, as a tree of one trace.

Of LangSmith's exports (docs.langchain.com/langsmith/run-data-format): ``run_type`` llm, tool, chain …, ``inputs``,
``outputs``, ``trace_id``, ``parent_run_id``, with ``child_runs`` inside or as objects of their own. Of Weave's calls
(docs.wandb.ai/weave): ``op_name``, ``inputs``, ``output``, ``trace_id``, ``parent_id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast.exchange.traces.bodies import find_messages
from holdfast.exchange.traces.chat import CONVERSATIONS, read_chat
from holdfast.exchange.traces.dialogue import Intake, Speechless, ToolRun
from holdfast.exchange.traces.messages import perhaps, read_tools
from holdfast.exchange.traces.records import BadRecord, refuse_record
from holdfast.exchange.traces.times import read_time
from holdfast.models.calls.structured import answer_text, to_text

_KINDS = ("run_type", "op_name")
_MODEL, _TOOL = frozenset({"llm", "chat_model"}), "tool"
_MOST_NESTED = 64

Row = Mapping[str, Any]


def is_run(value: Any) -> bool:
    """Whether a record is a run of LangSmith or a call of Weave."""
    return isinstance(value, dict) and "inputs" in value and any(isinstance(value.get(key), str) for key in _KINDS)


def read_run(place: str, value: Row, intake: Intake) -> None:
    """Put a run and those inside it into ``intake``."""
    for where, row in _each(place, value, 0):
        intake.rows += 1
        try:
            _read(where, row, to_text(row.get("trace_id") or value.get("trace_id") or value.get("id")), intake)
        except BadRecord as error:
            intake.lose(error, unit=to_text(row.get("trace_id") or value.get("id")) or None)


def _each(place: str, row: Row, depth: int) -> Iterator[tuple[str, Row]]:
    yield place, row
    inner = row.get("child_runs")
    if depth >= _MOST_NESTED and inner:
        refuse_record(place, f"runs nested deeper than {_MOST_NESTED}")
    for number, one in enumerate(inner if isinstance(inner, list) else []):
        if isinstance(one, dict):
            yield from _each(f"{place}: child_runs[{number}]", one, depth + 1)


def _read(place: str, row: Row, unit: str, intake: Intake) -> None:
    identity = to_text(row.get("id"))
    if not unit:
        refuse_record(place, "has no trace_id")
    intake.parents[unit, identity] = to_text(row.get("parent_run_id") or row.get("parent_id"))
    told = next((row[key] for key in ("start_time", "started_at") if row.get(key)), None)
    start = read_time(told)
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
        time=to_text(told) or None,
        tools=made.tools or read_tools(offered.get("tools") if isinstance(offered, Mapping) else None),
        family=to_text(row.get("name") or row.get("op_name")) or None,
        failed=made.failed or bool(row.get("error") or row.get("exception")),
        outer=not model,
    )
    intake.exchanges.append(made)
